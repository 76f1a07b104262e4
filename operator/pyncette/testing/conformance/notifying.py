"""Promises of `notify` and `notified`: what one store says another hears, and nothing is made up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from pyncette.core.record import Partition
from pyncette.store.base import Notification, Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import T0, a_record, claim, create

PATIENCE: Final = 10.0
"""Seconds within which a notification is heard."""


class Notifying(OnBackend):
    async def test_what_one_store_notifies_of_another_hears(self, open_another: OpenAnother) -> None:
        store, other = await open_another(), await open_another()
        listening = asyncio.create_task(_next(other.notified()))
        notification = Notification(Partition("réalm's", 'hand"ler', 3), T0 + 2**53)

        if not store.capabilities.notifies:
            await store.notify([notification])
            await asyncio.wait([listening], timeout=0.05)
            assert not listening.done()
            listening.cancel()
            return
        heard = await _heard(store, listening, [notification])

        assert heard == notification

    async def test_none_is_made_up(self, open_another: OpenAnother) -> None:
        store = await open_another()
        listening = asyncio.create_task(_next(store.notified()))
        await asyncio.sleep(0)

        await create(store, a_record())
        await claim(store)
        await asyncio.wait([listening], timeout=0.05)

        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])


async def _next(notifications: AsyncIterator[Notification]) -> Notification:
    async for notification in notifications:
        return notification
    raise AssertionError("notifications ended")


async def _heard(
    store: Store, listening: asyncio.Task[Notification], notifications: list[Notification]
) -> Notification:
    """Notify until it is heard: a listener may not yet be listening, and some may be lost."""
    deadline = time.monotonic() + PATIENCE
    while not listening.done() and time.monotonic() < deadline:
        await store.notify(notifications)
        await asyncio.wait([listening], timeout=0.05)
    assert listening.done(), f"not heard within {PATIENCE} s"
    return await listening
