"""A worker that stops lets its runs end, gives back the others, and waits for nothing else."""

import asyncio
from contextlib import suppress

import pytest

from pyncette.clock import SECOND
from pyncette.core.spec import Mode, Policies
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Notification
from pyncette.store.memory import MemoryStore
from pyncette.worker import dispatch as starts
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.service import Worker, WorkerSettings
from tests.worker.bench import Bench, Registered, seconds, until


async def test_a_drain_lets_handlers_end_and_writes_what_became_of_them() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(5))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)
    worker = Worker(
        ledger=bench.ledger, clock=bench.clock, registrations=bench.handlers, settings=WorkerSettings("w1")
    )
    running = asyncio.create_task(worker.run())
    bench.clock.join(worker)
    await bench.advance(11)

    worker.drain()
    bench.clock.leave(worker)
    await bench.advance(5)
    await running

    record = await bench.record(key)
    assert record.state.summary.counts.succeeded == 1
    assert record.lease is None


async def test_a_run_that_outlasts_the_grace_is_cancelled_and_released_with_its_attempt() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(5000))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker() as worker:
        await bench.advance(11)
        worker.drain(0)

    record = await bench.record(key)
    assert (record.attempt, record.lease, record.state.summary.counts.succeeded) == (0, None, 0)
    assert record.claimable_at is not None
    assert record.claimable_at <= bench.clock.now()


async def test_the_grace_of_a_drain_does_not_wait_for_a_backend_that_does_not_answer() -> None:
    class Silent(MemoryStore):
        asked = asyncio.Event()
        may_answer = asyncio.Event()

        async def claim(self, *args, **kwargs):
            if handler.running:
                self.asked.set()
                await self.may_answer.wait()
            return await super().claim(*args, **kwargs)

    bench = Bench()
    cancelled = asyncio.Event()

    async def call(_: Occurrence) -> None:
        try:
            await bench.sleep(5000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    handler = Registered("h", Policies(), call)
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)
    store = Silent(bench.backend)

    async with bench.worker(store) as worker, asyncio.timeout(10):
        await bench.advance(10)
        late = await bench.once(handler, 0, "late")
        await store.asked.wait()
        worker.drain(SECOND // 100)
        await cancelled.wait()
        store.may_answer.set()

    assert len(handler.calls) == 1
    for record in (await bench.record(key), await bench.record(late)):
        assert (record.attempt, record.lease) == (0, None)


async def test_cancelling_a_worker_cancels_what_runs_and_gives_it_back() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(5000))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)
    worker = Worker(
        ledger=bench.ledger, clock=bench.clock, registrations=bench.handlers, settings=WorkerSettings("w1")
    )
    running = asyncio.create_task(worker.run())
    bench.clock.join(worker)
    await bench.advance(11)

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    record = await bench.record(key)
    assert (record.attempt, record.lease) == (0, None)


class Hesitant(MemoryStore):
    """A backend that takes its time over what it writes, while told to."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def swap(self, *args, **kwargs):
        self.asked.set()
        await self.may_answer.wait()
        return await super().swap(*args, **kwargs)


async def test_a_start_in_progress_is_released_uncalled_when_its_worker_is_cancelled() -> None:
    handler = Registered("h", Policies(mode=Mode.AT_MOST_ONCE))
    bench = Bench(handler)
    key = await bench.every(handler, 10)
    due = await bench.record(key)
    store = Hesitant(bench.backend)
    worker = Worker(
        ledger=Ledger(store, bench.clock),
        clock=bench.clock,
        registrations=bench.handlers,
        settings=WorkerSettings("w1"),
    )
    running = asyncio.create_task(worker.run())
    moving = asyncio.create_task(bench.advance(10))
    await store.asked.wait()

    running.cancel()
    for _ in range(100):
        await asyncio.sleep(0)
    store.may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    await moving

    record = await bench.record(key)
    assert handler.calls == []
    assert (record.due_at, record.claimable_at) == (due.due_at, due.claimable_at)
    assert (record.attempt, record.lease, record.state) == (0, None, due.state)


class AwayOnceClaimed(MemoryStore):
    """A backend that goes away once something was claimed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked = asyncio.Event()

    async def claim(self, *args, **kwargs):
        self.check()
        return await super().claim(*args, **kwargs)

    async def load(self, keys):
        self.check()
        return await super().load(keys)

    async def swap(self, changes):
        self.asked.set()
        self.check()
        return await super().swap(changes)

    def check(self):
        if self.asked.is_set():
            raise StoreUnavailableError("away")


@pytest.mark.parametrize("grace", [None, SECOND // 100, "cancelled"])
async def test_a_worker_that_stops_does_not_wait_for_starts_until_their_leases_end(
    grace, monkeypatch
) -> None:
    monkeypatch.setattr(starts, "UNDECIDED_SECONDS", 0.05)
    handler = Registered("h", Policies(mode=Mode.AT_MOST_ONCE, lease=3600 * SECOND))
    bench = Bench(handler)
    key = await bench.every(handler, 10)
    store = AwayOnceClaimed(bench.backend)
    worker = Worker(
        ledger=Ledger(store, bench.clock),
        clock=bench.clock,
        registrations=bench.handlers,
        settings=WorkerSettings("w1"),
    )
    running = asyncio.create_task(worker.run())
    moving = asyncio.create_task(bench.advance(10))
    await store.asked.wait()

    if grace == "cancelled":
        running.cancel()
    else:
        worker.drain(grace)
    _, left = await asyncio.wait([running], timeout=3)

    assert not left
    assert handler.calls == []
    assert (await bench.record(key)).state.started is None
    await moving


async def test_a_draining_worker_notifies_the_others_of_the_next_due_time() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    heard: list[Notification] = []

    async def listen() -> None:
        async for notification in MemoryStore(bench.backend).notified():
            heard.append(notification)  # noqa: PERF401 - it never ends

    listening = asyncio.create_task(listen())
    key = await bench.every(handler, 10)
    async with bench.worker():
        await bench.advance(11)
        heard.clear()

    await until(lambda: heard != [])
    listening.cancel()

    assert [(hint.partition, seconds(hint.at)) for hint in heard] == [(key.partition, 20)]


async def test_a_cancelled_worker_ends_although_its_backend_has_lost_the_cancellation() -> None:
    claiming = asyncio.Event()

    class Forgetful(MemoryStore):
        async def claim(self, *args, **kwargs):
            claiming.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return await super().claim(*args, **kwargs)

    handler = Registered("h", Policies())
    bench = Bench(handler)
    worker = Worker(
        ledger=Ledger(Forgetful(bench.backend), bench.clock),
        clock=bench.clock,
        registrations=bench.handlers,
        settings=WorkerSettings("w1"),
    )
    running = asyncio.create_task(worker.run())
    await claiming.wait()

    running.cancel()

    await asyncio.wait([running], timeout=30)
    assert running.cancelled()
