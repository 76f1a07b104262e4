"""The memory store keeps what every store promises, and what only tests need of it."""

import time

import msgspec
import pytest

from pyncette.core.record import Change, Key, replace
from pyncette.core.spec import Spec
from pyncette.store.base import Store
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing.conformance import HERE, T0, StoreConformance, a_record, claim, completed, create


class TestMemory(StoreConformance):
    @pytest.fixture
    def backend(self) -> MemoryBackend:
        return MemoryBackend()

    def open_store(self, backend: MemoryBackend) -> Store:
        return MemoryStore(backend)

    async def poison(self, backend: MemoryBackend, key: Key) -> None:
        backend.poison(key)

    async def overwrite(self, backend: MemoryBackend, key: Key, spec: str) -> None:
        shelf = backend.shelf(key.partition)
        try:
            shelf.put(replace(shelf.records[key], spec=msgspec.json.decode(spec, type=Spec)))
        except RecursionError:
            backend.poison(key)


async def test_the_backend_tells_the_time_it_was_given():
    store = MemoryStore(MemoryBackend(now=lambda: 42))

    assert await store.now() == 42
    assert (await store.claim({HERE: 1}, "lease", "worker", T0, T0)).backend_now == 42


async def test_a_hundred_thousand_records_do_not_make_a_claim_slow():
    store = MemoryStore()
    records = [
        a_record(f"{number * 7919 % 100_003:06}", at=T0 + number * 31 % 100_000) for number in range(100_000)
    ]
    await create(store, *records)
    await claim(store, limit=50_000, now=T0 + 100_000)
    begin = time.process_time()

    for number in range(1000):
        held = await claim(store, limit=1, now=T0 + 100_000, lease_id=str(number))
        await store.swap([Change(record, completed(record, T0 + 200_000)) for record in held])

    # A look at every record would take a hundred times as long; the bound is wide, since machines differ.
    assert time.process_time() - begin < 1.0
