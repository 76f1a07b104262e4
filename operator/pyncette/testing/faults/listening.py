"""Faults of connections that listen for notifications, for servers that have them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from pyncette.core.record import Partition
from pyncette.errors import StoreUnavailableError
from pyncette.store.base import Notification, Store
from pyncette.testing.conformance.records import HERE, T0
from pyncette.testing.faults.server import OnServer, assert_is_one_sentence, until

PATIENCE = 10.0
"""Seconds within which a listener receives what was sent."""

CONNECT_SECONDS = 0.3
"""A listener is connected after this time."""


class Listening(OnServer):
    def count_listeners(self, url: str) -> int:
        """Return the number of connections to the place of *url* that listen for notifications."""
        raise NotImplementedError

    async def test_a_listener_whose_connection_is_killed_raises_an_error(self, url: str) -> None:
        async with self.open_store(url) as store:
            listening = asyncio.create_task(_receive(store, 1))
            await asyncio.sleep(CONNECT_SECONDS)

            assert self.kill_connections(url) > 0

            with pytest.raises(StoreUnavailableError) as caught:
                await asyncio.wait_for(listening, PATIENCE)
            assert_is_one_sentence(caught.value)

    async def test_a_listener_that_is_closed_leaves_no_connection_behind(self, url: str) -> None:
        notification = Notification(HERE, T0)
        async with self.open_store(url) as store:
            listening = asyncio.create_task(_receive(store, 1))
            while not listening.done():
                await store.notify([notification])
                await asyncio.wait([listening], timeout=0.05)
            assert listening.result() == [notification]

            await until(lambda: self._listeners_are(url, 0))

    async def test_a_listener_that_is_cancelled_leaves_no_connection_behind(self, url: str) -> None:
        async with self.open_store(url) as store:
            listening = asyncio.create_task(_receive(store, 1))
            await until(lambda: self._listeners_are(url, 1))

            listening.cancel()
            await asyncio.wait([listening])

            await until(lambda: self._listeners_are(url, 0))

    async def _listeners_are(self, url: str, count: int) -> bool:
        return self.count_listeners(url) == count

    async def test_a_listener_waits_for_longer_than_an_answer_may_take(self, url: str) -> None:
        notification = Notification(HERE, T0)
        async with self.open_store(url):
            pass  # to create what an impatient store would have to wait for
        async with self.open_impatient(url, 0.5) as store:
            listening = asyncio.create_task(_receive(store, 1))
            await asyncio.sleep(1.5)

            assert not listening.done()
            await store.notify([notification])
            assert await asyncio.wait_for(listening, PATIENCE) == [notification]

    async def test_many_notifications_arrive_complete(self, url: str) -> None:
        """Some servers limit the size of one, so they go in several."""
        wanted = [
            Notification(Partition("realm" * 50, f"handler {number}" * 20, number), T0)
            for number in range(60)
        ]
        async with self.open_store(url) as store, self.open_store(url) as other:
            listening = asyncio.create_task(_receive(other, len(wanted)))
            await asyncio.sleep(CONNECT_SECONDS)

            await store.notify(wanted)

            assert await asyncio.wait_for(listening, PATIENCE) == wanted


async def _receive(store: Store, count: int) -> list[Notification]:
    received: list[Notification] = []
    async with _closing(store.notified()) as notified:
        async for notification in notified:
            received.append(notification)
            if len(received) == count:
                return received
    raise AssertionError("notifications ended")


@contextlib.asynccontextmanager
async def _closing(notified: AsyncIterator[Notification]) -> AsyncIterator[AsyncIterator[Notification]]:
    """Close *notified* at the end, as a worker does, where it is a generator."""
    try:
        yield notified
    finally:
        if isinstance(notified, AsyncGenerator):
            await notified.aclose()
