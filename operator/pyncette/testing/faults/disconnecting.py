"""Faults of connections that the server closes, and connections that a store must close."""

from __future__ import annotations

import asyncio

import pytest

from pyncette.core.record import Change
from pyncette.errors import StoreUnavailableError
from pyncette.testing.conformance.records import a_record, changed, create, load
from pyncette.testing.faults.server import OnServer, assert_is_one_sentence, until

CALLS = 20
"""More calls at once than a store has connections."""


class Disconnecting(OnServer):
    async def test_a_connection_that_is_killed_in_mid_call_is_unavailable_and_the_next_call_connects(
        self, url: str
    ) -> None:
        async with self.open_store(url) as store:
            await create(store, a_record())
            before = await load(store, a_record())
            async with self.stalled(url, before):
                swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
                await asyncio.sleep(0.2)
                assert not swap.done()

                assert self.kill_connections(url) > 0

                with pytest.raises(StoreUnavailableError) as caught:
                    await swap
                assert_is_one_sentence(caught.value)
            assert await store.swap([Change(before, changed(before))]) == [True]

    async def test_idle_connections_that_are_killed_are_replaced_unnoticed(self, url: str) -> None:
        async with self.open_store(url) as store:
            await create(store, a_record())
            await asyncio.gather(*(store.now() for _ in range(CALLS)))

            assert self.kill_connections(url) > 0
            await asyncio.sleep(0.1)

            found = await asyncio.gather(*(store.load([a_record().key]) for _ in range(CALLS)))
            assert [record and record.key for (record,) in found] == [a_record().key] * CALLS

    async def test_a_store_has_few_connections_and_leaves_none_behind(self, url: str) -> None:
        async with self.open_store(url) as store:
            await asyncio.gather(*(store.now() for _ in range(CALLS)))
            assert 1 <= self.count_connections(url) <= self.connections_max

        async def none_is_left() -> bool:
            return self.count_connections(url) == 0

        await until(none_is_left)
