"""Promises of a store that much is asked of at once, or of which a call is cancelled: it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

from pyncette.core.record import Change, HistoryRow, Key, Partition
from pyncette.store.base import Renewal, Store
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import (
    HERE,
    LEASE,
    T0,
    a_record,
    a_run,
    changed,
    claim_in_the_end,
    completed,
    create,
    load,
    seen,
)


class Enduring(OnBackend):
    async def test_many_tasks_use_one_store_at_once(self, store: Store) -> None:
        async def live(number: int) -> None:
            partition = Partition("realm", "handler", number)
            record = a_record(key=Key(partition, "task"))
            await create(store, record)
            held = await claim_in_the_end(store, partition, lease_id=str(number))
            assert held.lease is not None
            assert list((await store.renew([Renewal(held.key, held.lease.id, LEASE)], T0)).held) == [True]
            after = completed(held, T0 + number)
            assert await store.swap([Change(held, after, (HistoryRow(0, a_run(number)),))]) == [True]
            assert seen(await load(store, record)) == seen(after)
            assert await store.history(record.key) == [a_run(number)]
            assert len(await store.scan(partition, "task", None, 5)) == 1

        await asyncio.gather(*(live(number) for number in range(40)))

    async def test_a_cancellation_is_heard_whenever_it_comes(self, store: Store) -> None:
        """Who is cancelled ends, also in the very moment of an answer: some drivers lose a cancellation then."""

        async def ask_on() -> None:
            while True:
                await store.load([a_record().key])
                await asyncio.sleep(0)

        for turns in range(150):
            asking = asyncio.create_task(ask_on())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking], timeout=10)
            assert asking.cancelled()

    async def test_a_cancelled_call_leaves_the_store_usable(self, store: Store) -> None:
        records = [a_record(f"{number:02}") for number in range(20)]
        await create(store, *records)
        calls: list[asyncio.Task[Any]] = []
        for number in range(20):
            before = await load(store, records[number])
            calls += [
                asyncio.create_task(store.swap([Change(before, changed(before, attempt=9))])),
                asyncio.create_task(store.claim({HERE: 1}, f"lease-{number}", "worker", T0, T0)),
                asyncio.create_task(store.load([records[number].key])),
            ]
            for _ in range(number % 4):
                await asyncio.sleep(0)
            for call in calls[-3:]:
                call.cancel()

        await asyncio.wait(calls)

        for record in records:
            assert (await load(store, record)).version in range(T0, T0 + 3)
        await create(store, a_record("after"))
        assert await load(store, a_record("after")) is not None
