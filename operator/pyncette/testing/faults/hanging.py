"""Faults of a server that takes requests and does not answer, and of calls that are cancelled meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest

from pyncette.core.record import Change, Record
from pyncette.errors import StoreUnavailableError
from pyncette.store.base import Store
from pyncette.testing.conformance.records import a_record, changed, create, load
from pyncette.testing.faults.server import OnServer, answers, assert_is_one_sentence, until

SECONDS_MAX = 10.0
"""Time limit for calls that wait for an answer for a second."""


class Hanging(OnServer):
    async def test_calls_that_are_not_answered_are_given_up(self, url: str) -> None:
        with self.network() as network:
            async with self.open_store(url) as patient:
                await create(patient, a_record())
            async with self.open_impatient(network.url_of(url), 1.0) as store:
                await store.now()
                network.hold()
                began_at = time.monotonic()
                calls = [store.load([a_record().key]) for _ in range(4)]
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - began_at < SECONDS_MAX
                for result in results:
                    assert isinstance(result, StoreUnavailableError)
                    assert_is_one_sentence(result, "does not answer")

                network.release()

                await until(lambda: answers(store))
                assert (await load(store, a_record())).key == a_record().key

    async def test_a_call_that_is_answered_late_is_not_given_up(self, url: str) -> None:
        with self.network() as network:
            async with self.open_store(network.url_of(url)) as store:
                await create(store, a_record())
                network.hold()
                late = asyncio.create_task(load(store, a_record()))
                await asyncio.sleep(0.2)
                assert not late.done()

                network.release()

                assert (await late).key == a_record().key

    async def test_a_cancelled_call_leaves_no_connection_in_an_unknown_state(self, url: str) -> None:
        async with self.open_store(url) as store:
            await create(store, a_record())
            before = await load(store, a_record())
            async with self.stalled(url, before):
                for number in range(10):
                    change = Change(before, changed(before, attempt=number))
                    swap = asyncio.create_task(store.swap([change]))
                    await asyncio.sleep(0.02)
                    swap.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await swap

                found = await self._read_by_all(store, before) if self.reads_while_stalled else []
            found += await self._read_by_all(store, before)

        assert {record and record.key for (record,) in found} == {before.key}

    async def _read_by_all(self, store: Store, record: Record) -> list[list[Record | None]]:
        """Read *record* over each connection of *store*."""
        reads = (store.load([record.key]) for _ in range(2 * self.connections_max))
        return await asyncio.gather(*reads)
