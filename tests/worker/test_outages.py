"""A worker outlasts a backend that is away or refuses, and ends where it can never work."""

import asyncio

import pytest

from pyncette.core.spec import Policies
from pyncette.errors import SchemaError, StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.store.memory import MemoryStore
from pyncette.worker.service import Worker, WorkerSettings
from tests.worker.bench import Bench, Registered, until


class Interrupted(MemoryStore):
    """A backend that is away while told to be."""

    away = False
    error = StoreUnavailableError("away")

    async def claim(self, *args, **kwargs):
        if self.away:
            raise self.error
        return await super().claim(*args, **kwargs)

    async def swap(self, *args, **kwargs):
        if self.away:
            raise self.error
        return await super().swap(*args, **kwargs)


async def test_an_outage_makes_a_worker_unready_and_loses_no_result() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(5))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)
    store = Interrupted(bench.backend)

    async with bench.worker(store) as worker:
        await bench.advance(11)
        store.away = True
        bench.clock.leave(worker)
        await bench.advance(10)
        await until(lambda: not worker.ready)
        assert len(handler.calls) == 1

        store.away = False
        await until(lambda: worker.ready)
        bench.clock.join(worker)
        await bench.advance(10)

        assert worker.ready
        assert (await bench.record(key)).state.summary.counts.succeeded >= 1
    assert handler.scheduled[0] == 10


@pytest.mark.parametrize("error", [SchemaError("of version 9"), StoreRefusedError("no right to claim")])
async def test_a_newer_schema_and_a_right_that_was_never_there_end_the_worker(error: StoreError) -> None:
    bench = Bench(Registered("h", Policies()))
    store = Interrupted(bench.backend)
    store.away, store.error = True, error
    worker = Worker(
        ledger=Ledger(store, bench.clock),
        clock=bench.clock,
        registrations=bench.handlers,
        settings=WorkerSettings("w1"),
    )

    with pytest.raises(type(error), match=str(error)):
        await asyncio.wait_for(worker.run(), 5)


async def test_a_right_that_is_taken_away_is_waited_for_and_said_to_be_refused(caplog) -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    await bench.every(handler, 10)
    store = Interrupted(bench.backend)

    async with bench.worker(store) as worker:
        await bench.advance(11)
        store.away, store.error = True, StoreRefusedError("no right to claim")
        bench.clock.leave(worker)
        await bench.advance(10)
        await until(lambda: not worker.ready)

        store.away = False
        await until(lambda: worker.ready)
        bench.clock.join(worker)

    assert 'the backend refuses: claims are paused error="no right to claim"' in caplog.messages
