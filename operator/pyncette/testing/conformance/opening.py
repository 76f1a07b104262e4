"""Promises of a store from its opening on: it finds what was written before, and takes batches of any size that it allows."""

from __future__ import annotations

import asyncio
from typing import Any

from pyncette.core.record import Change
from pyncette.store.base import Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import T0, a_record, claim, completed, create, load, seen


class Opening(OnBackend):
    async def test_several_stores_open_one_empty_backend_at_once(self, open_another: OpenAnother) -> None:
        stores = await asyncio.gather(*(open_another() for _ in range(4)))

        await create(stores[0], a_record())

        for store in stores:
            assert await load(store, a_record()) is not None

    async def test_what_a_durable_store_wrote_is_there_when_it_is_opened_again(self, backend: Any) -> None:
        async with self.open_store(backend) as store:
            await create(store, a_record())
            durable = store.capabilities.durable

        async with self.open_store(backend) as store:
            (found,) = await store.load([a_record().key])

        assert not durable or seen(found) == a_record()

    async def test_a_batch_may_be_as_large_as_the_store_says(self, store: Store) -> None:
        size = min(store.capabilities.swap_batch_max, 2000)
        records = [a_record(f"{number:05}") for number in range(size)]

        await create(store, *records)

        assert len(await store.load([record.key for record in records])) == size
        claimed = await claim(store, limit=size)
        assert len(claimed) == size
        assert (
            await store.swap([Change(record, completed(record, T0 + 1)) for record in claimed])
            == [True] * size
        )
        assert await store.swap([Change(await load(store, records[0]), None)]) == [True]

    async def test_empty_batches_are_answered(self, store: Store) -> None:
        claimed = await store.claim({}, "lease", "worker", T0, T0)

        assert await store.load([]) == []
        assert await store.swap([]) == []
        assert list((await store.renew([], T0)).held) == []
        assert list(claimed.records) == []
        assert claimed.next_claimable_at is None
        await store.notify([])
