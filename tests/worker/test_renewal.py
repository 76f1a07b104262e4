"""A worker keeps the leases of its runs, also while a handler blocks, and ends runs that have lost theirs."""

import asyncio
import logging
import threading
import time
from datetime import timedelta
from typing import ClassVar

import pytest

from pyncette.clock import SECOND, STALE_AFTER, SystemClock
from pyncette.core import edits
from pyncette.core.schedule import Once
from pyncette.core.spec import Heartbeat, Policies, Spec
from pyncette.errors import RetryAfter
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Change
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.renewal import BEAT_SECONDS
from pyncette.worker.service import Worker, WorkerSettings
from tests.worker.bench import START, Bench, Registered, seconds, until

# --- Leases ----------------------------------------------------------------------------------------------------------


async def test_automatic_heartbeats_keep_the_lease_of_a_run_that_outlasts_it() -> None:
    bench = Bench()
    policies = Policies(lease=10 * SECOND, heartbeat=Heartbeat.AUTOMATIC)
    handler = Registered("h", policies, call=lambda _: bench.sleep(100))
    bench.handlers = (handler,)
    key = await bench.once(handler, 1, "a")

    async with bench.worker(holder="w1"), bench.worker(MemoryStore(bench.backend), holder="w2"):
        await bench.advance(95)
        lease = (await bench.record(key)).lease
        assert lease is not None
        assert lease.expires_at > bench.clock.now()
        await bench.advance(20)

    assert len(handler.calls) == 1


async def test_a_run_without_heartbeats_is_taken_over_and_its_late_result_is_not_written() -> None:
    bench = Bench()
    policies = Policies(lease=10 * SECOND, heartbeat=Heartbeat.COOPERATIVE)

    async def first_hangs(occurrence: Occurrence) -> None:
        if occurrence.held.attempt == 1:
            await bench.sleep(30)

    handler = Registered("h", policies, first_hangs)
    bench.handlers = (handler,)
    key = await bench.every(handler, 1000)

    async with bench.worker(holder="w1"), bench.worker(MemoryStore(bench.backend), holder="w2"):
        await bench.advance(1020)
        taken_over = await bench.record(key)
        await bench.advance(30)

        assert await bench.record(key) == taken_over
    assert [occurrence.held.attempt for occurrence in handler.calls] == [1, 2]
    assert taken_over.state.summary.counts.succeeded == 1


async def test_a_heartbeat_returns_false_once_the_lease_is_lost() -> None:
    bench = Bench()
    told: list[bool] = []

    async def call(occurrence: Occurrence) -> None:
        if occurrence.held.attempt == 1:
            told.append(await occurrence.heartbeat())
            await bench.sleep(30)
            told.append(await occurrence.heartbeat())

    policies = Policies(lease=10 * SECOND, heartbeat=Heartbeat.COOPERATIVE)
    handler = Registered("h", policies, call)
    bench.handlers = (handler,)
    await bench.every(handler, 1000)

    async with bench.worker(holder="w1"), bench.worker(MemoryStore(bench.backend), holder="w2"):
        await bench.advance(1050)

    assert told == [True, False]


async def test_a_handler_whose_instance_was_removed_is_cancelled_at_the_next_renewal() -> None:
    bench = Bench()
    cancelled: list[int] = []

    async def call(_: Occurrence) -> None:
        try:
            await bench.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(seconds(bench.clock.now()))
            raise

    handler = Registered("h", Policies(lease=9 * SECOND), call)
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(11)
        await bench.store.swap([Change(await bench.record(key), None)])
        await bench.advance(10)

    assert len(cancelled) == 1
    assert cancelled[0] <= 10 + 9


async def test_a_run_ends_with_its_lease_while_an_answer_about_it_is_waited_for() -> None:
    class Deaf(MemoryStore):
        async def renew(self, *args, **kwargs):
            await asyncio.Event().wait()

    bench = Bench()
    cancelled: list[tuple[str, int]] = []

    async def call(occurrence: Occurrence) -> None:
        try:
            await bench.sleep(100)
        except asyncio.CancelledError:
            cancelled.append((occurrence.held.record.key.instance, seconds(bench.clock.now())))
            raise

    handler = Registered("h", Policies(lease=9 * SECOND), call)
    bench.handlers = (handler,)
    await bench.once(handler, 1, "a")
    await bench.once(handler, 6, "b")  # the first renewal is on its way by then

    async with bench.worker(Deaf(bench.backend)) as worker:
        bench.clock.leave(worker)  # it is never settled again
        await bench.advance(16)
        bench.clock.join(worker)

        assert cancelled == [("a", 10), ("b", 15)]


# --- The thread of renewals, in real time ----------------------------------------------------------------------------


async def test_the_clock_hears_of_the_lease_of_whatever_is_claimed():
    class Listening(VirtualClock):
        heard: ClassVar[set[int]] = set()

        def expect_lease(self, length):
            self.heard.add(length)

    handler = Registered("h", Policies(lease=60 * SECOND))
    bench = Bench(handler, clock=Listening(START))
    now = bench.clock.now()
    of_its_own = Spec(Once(now + SECOND), policies=Policies(lease=600 * SECOND))
    record = edits.created(handler.key("long"), of_its_own, of_its_own.policies, now)
    await bench.ledger.create([record])

    async with bench.worker():
        await bench.advance(1)

    assert 600 * SECOND in Listening.heard


@pytest.mark.parametrize("delay", [timedelta(seconds=-1), timedelta.max])
def test_a_handler_cannot_ask_for_an_invalid_delay(delay):
    with pytest.raises(ValueError, match="from zero to a century"):
        RetryAfter(delay)


async def test_a_handler_that_blocks_the_loop_costs_no_lease_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    lease = 2 * SECOND

    async def block(_: Occurrence) -> None:
        time.sleep(3 * lease / SECOND)  # noqa: ASYNC251 - it is what this test is about

    handler = Registered("h", Policies(lease=lease), block)
    bench = Bench(handler)
    clock = SystemClock()
    bench.backend = MemoryBackend(clock.now)
    bench.store = MemoryStore(bench.backend)
    lock = threading.Lock()

    class Locked(MemoryStore):
        async def renew(self, *args, **kwargs):
            with lock:
                return await super().renew(*args, **kwargs)

    key = handler.key("a")
    record = edits.created(key, Spec(Once(clock.now())), handler.policies, clock.now())
    await bench.store.swap([Change(None, record)])
    worker = Worker(
        ledger=Ledger(bench.store, clock),
        clock=clock,
        registrations=[handler],
        settings=WorkerSettings("w1"),
        renewal_store=lambda: Locked(bench.backend),
        watches_loop=True,
    )
    running = asyncio.create_task(worker.run())
    await until(lambda: handler.calls != [] and not worker.running, seconds_max=20)
    worker.drain()
    await running

    assert (
        "a handler blocks the event loop; all other handlers wait task=h instance=a attempt=1" in caplog.text
    )
    assert not handler.calls[0].lease_lost
    assert await bench.store.load([key]) == [None]


@pytest.mark.parametrize("runs", [True, False], ids=["busy", "idle"])
async def test_a_worker_keeps_reading_the_backends_time_only_while_something_runs(runs) -> None:
    over = asyncio.Event()

    async def wait(_: Occurrence) -> None:
        await over.wait()

    handler = Registered("h", Policies(lease=600 * SECOND), wait)
    since = 0
    clock = SystemClock(monotonic_ns=lambda: time.monotonic_ns() + since * 1000)
    backend = MemoryBackend(clock.now)
    if runs:
        key = handler.key("a")
        record = edits.created(key, Spec(Once(clock.now())), handler.policies, clock.now())
        await MemoryStore(backend).swap([Change(None, record)])
    worker = Worker(
        ledger=Ledger(MemoryStore(backend), clock),
        clock=clock,
        registrations=[handler],
        settings=WorkerSettings("w1", slots=1, poll_interval=600 * SECOND),
        renewal_store=lambda: MemoryStore(backend),
    )
    running = asyncio.create_task(worker.run())
    await until(lambda: handler.calls if runs else worker.last_polled_at)

    since += STALE_AFTER + SECOND
    if runs:
        await until(lambda: not clock.is_stale())
    else:
        await asyncio.sleep(1.5 * BEAT_SECONDS)
        assert clock.is_stale()

    over.set()
    worker.drain()
    await running
