"""What a worker promises, on simulated time and records in memory."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from itertools import pairwise
from typing import ClassVar

import pytest

from pyncette.clock import MILLISECOND, SECOND, STALE_AFTER, SystemClock
from pyncette.core import edits
from pyncette.core.record import Counts, Key, Outcome, replace
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies, Retry, Spec
from pyncette.errors import (
    DoNotRetry,
    RetryAfter,
    SchemaError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Change, Notification
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from pyncette.worker import dispatch as starts
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.renewal import BEAT_SECONDS
from pyncette.worker.service import Figures, Worker, WorkerSettings
from tests.worker.bench import START, Bench, Registered, seconds

QUICK_RETRY = Retry(max_attempts=3, initial=10 * SECOND, maximum=10 * SECOND, jitter=False)


# --- When things run -------------------------------------------------------------------------------------------------


async def test_an_occurrence_starts_at_its_due_time_and_not_at_the_next_poll() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    starts: list[int] = []
    handler._call = _remember(starts, bench)
    await bench.once(handler, 7.25, "a")

    async with bench.worker(poll_interval=60 * SECOND):
        await bench.advance(20)

    assert [round((at - starts[0]) / 1000) for at in starts] == [0]
    assert starts[0] == bench.clock.now() - int(12.75 * SECOND)


@pytest.mark.parametrize(
    "policies",
    [Policies(), Policies(mode=Mode.AT_MOST_ONCE), Policies(overlap=Overlap.ALLOW)],
    ids=["at_least_once", "at_most_once", "allow"],
)
async def test_what_is_claimed_ahead_starts_when_it_is_due_and_not_before(policies: Policies) -> None:
    started: list[int] = []

    async def call(_: Occurrence) -> None:
        started.append(bench.clock.now())

    handler = Registered("h", policies, call)
    bench = Bench(handler)
    await bench.every(handler, 30)
    async with bench.worker(ahead=SECOND) as worker:
        await bench.advance(29.9)
        assert (len(worker.running), len(started)) == (1, 0)
        await bench.advance(35.1)

    assert handler.scheduled == [30, 60]
    assert started == [occurrence.held.scheduled_at for occurrence in handler.calls]


async def test_an_interval_shorter_than_the_time_ahead_misses_nothing() -> None:
    handler = Registered("h", Policies(missed=Missed.LATEST))
    bench = Bench(handler)
    key = await bench.every(handler, 0.25)
    async with bench.worker(ahead=SECOND):
        await bench.advance(10)

    assert len(handler.calls) == 40
    assert (await bench.record(key)).state.summary.counts.missed == 0


async def test_what_falls_due_in_a_row_is_claimed_together() -> None:
    class Counting(MemoryStore):
        claims = 0

        async def claim(self, *arguments):
            self.claims += 1
            return await super().claim(*arguments)

    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = Counting(bench.backend)
    for number in range(100):
        await bench.once(handler, 10 + number / 100, f"{number:03}")
    async with bench.worker(store, ahead=SECOND):
        await bench.advance(20)

    assert [occurrence.held.record.key.instance for occurrence in handler.calls] == [
        f"{number:03}" for number in range(100)
    ]
    assert store.claims < 10


async def test_a_drain_gives_back_what_only_waits_for_its_time() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    key = await bench.once(handler, 10, "a")
    before = await bench.record(key)
    async with bench.worker(ahead=SECOND):
        await bench.advance(9.5)
        assert (await bench.record(key)).lease is not None

    after = await bench.record(key)
    assert handler.calls == []
    assert (after.lease, after.attempt, after.began_at) == (None, 0, None)
    assert after.claimable_at == before.claimable_at


async def test_a_week_of_an_hourly_task_runs_in_order() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    await bench.every(handler, 3600)

    async with bench.worker():
        await bench.advance(7 * 86400)

    assert handler.scheduled == [3600 * hour for hour in range(1, 7 * 24 + 1)]


async def test_an_instance_declared_while_the_worker_sleeps_wakes_it() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)

    async with bench.worker(poll_interval=3600 * SECOND):
        await bench.advance(100)
        await bench.once(handler, 5, "a")
        await bench.advance(5)

    assert handler.scheduled == [105]


async def test_what_another_process_notifies_of_wakes_a_worker_that_sleeps() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    elsewhere = MemoryStore(bench.backend)

    async with bench.worker(poll_interval=3600 * SECOND) as worker:
        await bench.advance(100)
        other = Bench(handler)
        other.clock, other.store, other.ledger = bench.clock, elsewhere, Ledger(elsewhere, bench.clock)
        await other.once(handler, 5, "a")
        await _until(lambda: not worker.is_settled() or handler.calls == [])
        await bench.advance(5)

    assert handler.scheduled == [105]


@pytest.mark.parametrize("idle", [0, 1], ids=["the_worker_that_runs_it", "an_idle_worker_beside_it"])
async def test_an_overwritten_running_instance_starts_when_it_is_due(idle: int) -> None:
    starts: list[tuple[str, int]] = []

    async def call(occurrence: Occurrence) -> None:
        lease = occurrence.held.record.lease
        assert lease is not None
        starts.append((lease.holder, seconds(bench.clock.now())))
        await bench.sleep(30)

    handler = Registered("h", Policies(lease=60 * SECOND), call)
    bench = Bench(handler)
    key = await bench.once(handler, 10, "a")

    async with bench.worker(slots=2 - idle):
        await bench.advance(10)
        async with bench.worker(MemoryStore(bench.backend), "idle") if idle else nullcontext():
            await bench.advance(3)
            await bench.force(key, Once(bench.clock.now() + 2 * SECOND))
            await bench.advance(3)

            assert starts == [("w1", 10), (["w1", "idle"][idle], 15)]


class PassingOver(MemoryStore):
    """Skips some records, as if they were locked, for a number of claims, and records when those came."""

    def __init__(self, bench: Bench, locked: Sequence[Key], claims: int) -> None:
        super().__init__(bench.backend)
        self.polled_at: list[float] = []
        self._locked = locked
        self._left = claims

    async def claim(self, limits, lease_id, holder, now, expired_at, ahead=0):
        due = [
            record
            for record in await self.load([key for key in self._locked if limits.get(key.partition)])
            if record is not None and record.claimable_at <= now + ahead
        ]
        if not due or not self._left:
            return await super().claim(limits, lease_id, holder, now, expired_at, ahead)
        self._left -= 1
        self.polled_at.append(asyncio.get_running_loop().time())
        shelf = self.backend.shelf(due[0].key.partition)
        for record in due:
            shelf.remove(record.key)
        claimed = await super().claim(limits, lease_id, holder, now, expired_at, ahead)
        for record in due:
            shelf.put(record)
        return claimed._replace(next_claimable_at=now)

    @property
    def pauses(self) -> list[float]:
        return [later - sooner for sooner, later in pairwise(self.polled_at)]


async def test_a_worker_polls_again_for_a_locked_due_record_after_a_pause_that_doubles() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = PassingOver(bench, [await bench.once(handler, 5, "a")], 6)

    async with bench.worker(store, poll_interval=3600 * SECOND):
        await bench.advance(5)

        assert handler.scheduled == [5]
    assert all(
        pause >= least for pause, least in zip(store.pauses, [0.01, 0.02, 0.04, 0.08, 0.08], strict=True)
    )


async def test_a_locked_record_holds_up_no_other() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    key = await bench.once(handler, 5, "a")
    for name in "bcd":
        await bench.once(handler, 5, name)
    store = PassingOver(bench, [key], 3)

    async with bench.worker(store, poll_interval=3600 * SECOND):
        await bench.advance(5)

    assert [occurrence.held.record.key.instance for occurrence in handler.calls] == ["b", "c", "d", "a"]
    assert len(store.polled_at) == 3


async def test_a_lock_in_one_partition_is_not_forgotten_after_empty_polls_of_others() -> None:
    handler = Registered("h", Policies(), numbers=4)
    bench = Bench(handler)
    store = PassingOver(bench, [await bench.once(handler, 5, "a", number=2)], 4)

    async with bench.worker(store, slots=1, poll_interval=3600 * SECOND):
        await bench.advance(5)

        assert handler.scheduled == [5]
    assert all(pause >= least for pause, least in zip(store.pauses, [0.01, 0.02, 0.04], strict=True))


async def test_a_worker_that_stops_hands_over_a_due_record_that_was_locked() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = PassingOver(bench, [await bench.once(handler, 5, "a")], 10**6)
    heard: list[Notification] = []

    async def listen() -> None:
        async for notification in bench.store.notified():
            heard.append(notification)  # noqa: PERF401 - it never ends

    listening = asyncio.create_task(listen())
    async with bench.worker(store):
        moving = asyncio.create_task(bench.advance(5))
        await _until(lambda: len(store.polled_at) > 1)
        moving.cancel()
    await asyncio.sleep(0)
    listening.cancel()

    assert [notification.at for notification in heard] == [bench.clock.now()]


async def test_a_wait_for_the_next_due_time_counts_as_a_poll() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    await bench.once(handler, 3600, "a")

    async with bench.worker() as worker:
        assert worker.last_polled_at is None
        await bench.advance(1800)

        assert worker.last_polled_at == bench.clock.now()


# --- Slots and fairness ----------------------------------------------------------------------------------------------


async def test_no_more_is_claimed_than_there_are_free_slots() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(10))
    bench.handlers = (handler,)
    for number in range(10):
        await bench.once(handler, 1, f"i{number}")

    async with bench.worker(slots=3):
        await bench.advance(2)
        leased = [
            record for record in await bench.store.scan(handler.partitions[0], "h", None, 100) if record.lease
        ]
        assert len(leased) == 3
        await bench.advance(60)

    assert handler.most_at_once == 3
    assert len(handler.calls) == 10


async def test_a_backlog_of_one_task_does_not_keep_another_from_a_slot() -> None:
    bench = Bench()
    backlog = Registered("backlog", Policies(), call=lambda _: bench.sleep(1))
    other = Registered("other", Policies())
    bench.handlers = (backlog, other)
    for number in range(200):
        await bench.once(backlog, 1, f"i{number}")
    await bench.once(other, 5.5, "a")
    starts: list[int] = []
    other._call = _remember(starts, bench)

    async with bench.worker(slots=10):
        await bench.advance(10)

    assert starts[0] <= bench.clock.now() - 3.5 * SECOND  # due at 5.5 s, and a slot is free each second


class Remote(MemoryStore):
    """A backend that takes its time over a claim: what was started before it has ended by then."""

    async def claim(self, *args, **kwargs):
        for _ in range(10):
            await asyncio.sleep(0)
        return await super().claim(*args, **kwargs)


async def test_a_backlog_of_handlers_that_take_no_time_does_not_keep_another_task_from_a_slot() -> None:
    clock = Elapsing(START)
    bench = Bench(clock=clock)
    backlog = Registered("backlog", Policies(), call=lambda _: clock.elapse(MILLISECOND // 10))
    other = Registered("other", Policies(), numbers=3)
    bench.handlers = (backlog, other)
    for number in range(5_000):
        await bench.once(backlog, 1, f"i{number}")
    due = [1.1, 1.2, 1.25]
    for number, after in enumerate(due):
        await bench.once(other, after, "a", number)
    starts: list[int] = []
    other._call = _remember(starts, bench)
    began_at = clock.now()

    async with bench.worker(Remote(bench.backend), poll_interval=3600 * SECOND):
        await bench.advance(10)

    assert len(backlog.calls) == 5_000
    for start, after in zip(starts, due, strict=True):
        assert 0 <= (start - began_at) / SECOND - after < 0.1


async def test_a_backlog_does_not_wait_for_those_that_always_have_something_due() -> None:
    clock = Elapsing(START)
    bench = Bench(clock=clock)
    backlog = Registered("backlog", Policies(), call=lambda _: clock.elapse(MILLISECOND))
    busy = Registered(
        "busy", Policies(missed=Missed.ALL), call=lambda _: clock.elapse(MILLISECOND), numbers=4
    )
    bench.handlers = (busy, backlog)
    for number in range(4):
        await bench.declare(busy, Interval(2 * MILLISECOND), "a", number)
    for number in range(100):
        await bench.once(backlog, 1, f"i{number}")

    async with bench.worker(Remote(bench.backend), slots=4, poll_interval=3600 * SECOND):
        moving = asyncio.create_task(bench.advance(1))
        await _until(lambda: len(backlog.calls) == 100)
        moving.cancel()


async def test_a_backlog_of_one_task_does_not_make_a_worker_forget_when_another_is_due() -> None:
    busy, quiet = Registered("busy", Policies()), Registered("quiet", Policies())
    bench = Bench(busy, quiet)
    for number in range(20):
        await bench.once(busy, 1, f"i{number}")
    await bench.once(quiet, 5, "a")

    async with bench.worker(batch_size=4, poll_interval=3600 * SECOND):
        await bench.advance(10)

    assert len(busy.calls) == 20
    assert quiet.scheduled == [5]


async def test_a_backlog_goes_on_as_soon_as_a_slot_is_free_however_many_partitions_are_quiet() -> None:
    bench = Bench()
    busy = Registered("busy", Policies(), call=lambda _: bench.sleep(1))
    bench.handlers = (busy, Registered("quiet", Policies(), numbers=4))
    for number in range(20):
        await bench.once(busy, 1, f"i{number}")

    async with bench.worker(slots=1, poll_interval=3600 * SECOND):
        await bench.advance(30)

    assert len(busy.calls) == 20


async def test_a_limit_of_a_handler_holds_even_with_free_slots() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(1), concurrency_limit=2)
    bench.handlers = (handler,)
    for number in range(6):
        await bench.once(handler, 1, f"i{number}")

    async with bench.worker(slots=100):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 6


async def test_a_limit_of_a_handler_holds_while_starts_are_written() -> None:
    bench = Bench()
    at_most_once = Policies(mode=Mode.AT_MOST_ONCE)
    handler = Registered("h", at_most_once, call=lambda _: bench.sleep(1), concurrency_limit=2)
    bench.handlers = (handler,)
    for number in range(6):
        await bench.once(handler, 1, f"i{number}")

    async with bench.worker(slots=100):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 6


async def test_a_limit_of_a_handler_holds_over_all_its_partitions() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(1), concurrency_limit=2, numbers=8)
    bench.handlers = (handler,)
    for number in range(16):
        await bench.once(handler, 1, f"i{number}", number % 8)

    async with bench.worker(slots=100):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 16


async def test_a_partition_that_needs_nothing_of_a_limit_leaves_it_to_the_next() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), concurrency_limit=1, numbers=8)
    bench.handlers = (handler,)
    await bench.once(handler, 5, "a", 6)

    async with bench.worker(slots=100, poll_interval=3600 * SECOND):
        await bench.advance(20)

    assert handler.scheduled == [5]


async def test_more_partitions_than_slots_are_all_polled() -> None:
    handler = Registered("h", Policies(), numbers=20)
    bench = Bench(handler)
    for number in range(20):
        await bench.once(handler, 1, f"i{number}", number)

    async with bench.worker(slots=3):
        await bench.advance(2)

    assert len(handler.calls) == 20


async def test_a_disabled_partition_is_not_claimed_from_until_it_is_enabled() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    partitions, handler.partitions = handler.partitions, ()
    handler.partitions = partitions
    await bench.once(handler, 1, "a")
    handler.partitions = ()

    async with bench.worker() as worker:
        await bench.advance(10)
        assert handler.calls == []
        handler.partitions = partitions
        worker.poll_soon()
        await bench.advance(1)

    assert len(handler.calls) == 1


# --- What becomes of runs --------------------------------------------------------------------------------------------


async def test_a_handler_that_raises_is_tried_again_after_its_backoff() -> None:
    bench = Bench()
    starts: list[int] = []

    async def fail_twice(occurrence: Occurrence) -> None:
        starts.append(seconds(bench.clock.now()))
        if occurrence.held.attempt < 3:
            raise ValueError("not yet")

    handler = Registered("h", Policies(retry=QUICK_RETRY), fail_twice)
    bench.handlers = (handler,)
    key = await bench.every(handler, 100)

    async with bench.worker():
        await bench.advance(150)
        summary = (await bench.record(key)).state.summary

    assert starts == [100, 110, 120]
    assert [occurrence.held.attempt for occurrence in handler.calls] == [1, 2, 3]
    assert (summary.counts.succeeded, summary.counts.failed, summary.last_attempts) == (1, 0, 3)


async def test_spent_attempts_fail_the_occurrence_with_what_the_handler_said() -> None:
    handler = Registered("h", Policies(retry=QUICK_RETRY, keep_failed=3), _raising(ValueError("broken")))
    bench = Bench(handler)
    key = await bench.every(handler, 100)

    async with bench.worker():
        await bench.advance(150)
        record = await bench.record(key)
        (run,) = await bench.store.history(key)

    assert record.state.summary.counts.failed == 1
    assert (run.outcome, run.attempts, run.message) == (Outcome.FAILED, 3, "ValueError: broken")


async def test_do_not_retry_ends_the_occurrence_at_once() -> None:
    handler = Registered("h", Policies(retry=QUICK_RETRY), _raising(DoNotRetry("hopeless")))
    bench = Bench(handler)
    key = await bench.every(handler, 100)

    async with bench.worker():
        await bench.advance(150)

        assert (await bench.record(key)).state.summary.counts.failed == 1
    assert len(handler.calls) == 1


async def test_retry_after_waits_as_long_as_the_handler_says() -> None:
    handler = Registered("h", Policies(retry=QUICK_RETRY), _raising(RetryAfter(timedelta(seconds=33))))
    bench = Bench(handler)
    starts: list[int] = []
    raising = handler._call
    assert raising is not None

    async def call(occurrence: Occurrence) -> None:
        starts.append(seconds(bench.clock.now()))
        await raising(occurrence)

    handler._call = call
    await bench.every(handler, 100)

    async with bench.worker():
        await bench.advance(180)

    assert starts == [100, 133, 166]


async def test_a_run_that_passes_its_active_deadline_is_cancelled_and_has_failed() -> None:
    bench = Bench()
    policies = Policies(
        active_deadline=5 * SECOND, retry=Retry(max_attempts=1), exhausted=Exhaustion.CONTINUE
    )
    handler = Registered("h", policies, call=lambda _: bench.sleep(60))
    bench.handlers = (handler,)
    key = await bench.every(handler, 100)

    async with bench.worker():
        await bench.advance(106)
        summary = (await bench.record(key)).state.summary

    assert summary.counts.failed == 1
    assert summary.last_message == "the run took longer than its active deadline of 5 s"


async def test_replace_cancels_the_run_when_the_next_occurrence_is_due() -> None:
    bench = Bench()
    handler = Registered("h", Policies(overlap=Overlap.REPLACE), call=lambda _: bench.sleep(25))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(35)
        summary = (await bench.record(key)).state.summary

    assert handler.scheduled == [10, 20, 30]
    assert summary.counts.replaced == 2
    assert handler.most_at_once == 1


async def test_replace_lets_a_run_go_on_that_was_suspended_until_its_resume_makes_the_next_one_due() -> None:
    bench = Bench()
    policies = Policies(overlap=Overlap.REPLACE, heartbeat=Heartbeat.AUTOMATIC)
    handler = Registered("h", policies, call=lambda _: bench.sleep(45))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(15)
        await bench.edit(key, policies=replace(policies, suspend=True))
        await bench.advance(20)
        assert handler.running == 1
        await bench.edit(key, policies=policies)
        await bench.advance(4)
        assert handler.scheduled == [10]
        await bench.advance(1)
        summary = (await bench.record(key)).state.summary

    assert handler.scheduled == [10, 40]
    assert summary.counts == Counts(replaced=1)


async def test_replace_waits_for_the_next_occurrence_of_the_schedule_that_an_edit_in_mid_run_has_made() -> (
    None
):
    bench = Bench()
    policies = Policies(overlap=Overlap.REPLACE)
    handler = Registered("h", policies, call=lambda _: bench.sleep(25))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(15)
        await bench.edit(key, Interval(60 * SECOND))
        await bench.advance(25)
        summary = (await bench.record(key)).state.summary

    assert summary.counts == Counts(succeeded=1)


async def test_replace_notices_an_edit_that_brings_the_next_occurrence_forward_within_a_third_of_its_lease() -> (
    None
):
    bench = Bench()
    policies = Policies(overlap=Overlap.REPLACE, heartbeat=Heartbeat.AUTOMATIC, lease=30 * SECOND)
    handler = Registered("h", policies, call=lambda _: bench.sleep(200))
    bench.handlers = (handler,)
    key = await bench.every(handler, 100)

    async with bench.worker():
        await bench.advance(105)
        await bench.edit(key, Interval(4 * SECOND))
        await bench.advance(6)
        summary = (await bench.record(key)).state.summary

    assert handler.scheduled == [100, 109]
    assert summary.counts == Counts(replaced=1)


async def test_allow_runs_the_next_occurrence_while_another_runs() -> None:
    bench = Bench()
    handler = Registered("h", Policies(overlap=Overlap.ALLOW), call=lambda _: bench.sleep(25))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(60)
        summary = (await bench.record(key)).state.summary

    assert handler.scheduled == [10, 20, 30, 40, 50, 60]
    assert handler.most_at_once == 3
    assert summary.counts.succeeded == 3


async def test_forbid_makes_the_next_occurrence_wait_and_latest_drops_what_passed() -> None:
    bench = Bench()
    handler = Registered("h", Policies(missed=Missed.LATEST), call=lambda _: bench.sleep(25))
    bench.handlers = (handler,)
    key = await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(62)
        summary = (await bench.record(key)).state.summary

    assert handler.scheduled == [10, 30, 60]
    assert handler.most_at_once == 1
    assert (summary.counts.succeeded, summary.counts.missed) == (2, 1)  # 20; 40 and 50 count when 60 ends


async def test_at_most_once_the_start_is_written_before_the_handler_is_called() -> None:
    bench = Bench()
    seen: list[int | None] = []

    async def look(occurrence: Occurrence) -> None:
        record = await bench.record(occurrence.held.record.key)
        seen.append(None if record.state.started is None else seconds(record.state.started.scheduled_at))

    handler = Registered("h", Policies(mode=Mode.AT_MOST_ONCE), look)
    bench.handlers = (handler,)
    await bench.every(handler, 10)

    async with bench.worker():
        await bench.advance(20)

    assert seen == [10, 20]


async def test_a_poisoned_schedule_stalls_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    good = await bench.every(handler, 10, "good")
    bad = await bench.every(handler, 10, "bad")
    record = await bench.record(bad)
    from pyncette.core.schedule import Cron

    broken = replace(record, version=record.version + 1, spec=replace(record.spec, schedule=Cron("nonsense")))
    await bench.store.swap([Change(record, broken)])

    async with bench.worker():
        await bench.advance(35)

        assert (await bench.record(good)).state.summary.counts.succeeded == 3
    assert "could not decide" in caplog.text


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


# --- Stopping --------------------------------------------------------------------------------------------------------


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


# --- A backend that is away ------------------------------------------------------------------------------------------


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
        await _until(lambda: not worker.ready)
        assert len(handler.calls) == 1

        store.away = False
        await _until(lambda: worker.ready)
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
        await _until(lambda: not worker.ready)

        store.away = False
        await _until(lambda: worker.ready)
        bench.clock.join(worker)

    assert "the backend refuses: claims are paused" in caplog.messages


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

    await _until(lambda: heard != [])
    listening.cancel()

    assert [(hint.partition, seconds(hint.at)) for hint in heard] == [(key.partition, 20)]


async def test_a_worker_without_a_slot_hints_at_what_is_due_to_those_that_have_one() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(1000))
    bench.handlers = (handler,)
    listener = MemoryStore(bench.backend)
    heard: list[Notification] = []

    async def listen() -> None:
        async for notification in listener.notified():
            heard.append(notification)  # noqa: PERF401 - it never ends

    listening = asyncio.create_task(listen())
    await bench.once(handler, 1, "a")
    await bench.once(handler, 2, "b")
    async with bench.worker(slots=1):
        await bench.advance(3)
        heard.clear()
        await _until(lambda: heard != [])
    listening.cancel()

    assert heard[0].partition == handler.partitions[0]


# --- The thread of renewals, in real time -----------------------------------------------------------------------------


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
    )
    running = asyncio.create_task(worker.run())
    await _until(lambda: handler.calls != [] and not worker.running, seconds_max=20)
    worker.drain()
    await running

    assert "h/a blocks the event loop" in caplog.text
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
    await _until(lambda: handler.calls if runs else worker.last_polled_at)

    since += STALE_AFTER + SECOND
    if runs:
        await _until(lambda: not clock.is_stale())
    else:
        await asyncio.sleep(1.5 * BEAT_SECONDS)
        assert clock.is_stale()

    over.set()
    worker.drain()
    await running


# --- What the tests share ---------------------------------------------------------------------------------------------


class Elapsing(VirtualClock):
    """Simulated time that handlers can let pass by what they do."""

    async def elapse(self, by: int) -> None:
        self._now += by


def _remember(starts: list[int], bench: Bench):
    async def call(_: Occurrence) -> None:
        starts.append(bench.clock.now())

    return call


def _raising(error: Exception):
    async def call(_: Occurrence) -> None:
        raise error

    return call


async def _until(condition, seconds_max: float = 10) -> None:
    """Wait in real time for what happens in real time."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


# --- Figures ---------------------------------------------------------------------------------------------------------


async def test_a_worker_reports_its_load() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(5))
    bench.handlers = (handler,)
    for instance in "abcdefgh":
        await bench.once(handler, 1, instance)

    async with bench.worker(slots=2, batch_size=2) as worker:
        before = worker.figures
        await bench.advance(2)
        busy = worker.figures
        await bench.advance(60)
        after = worker.figures

    assert before == Figures(slots=2, slots_used=0, claimed=0, backlogged=0, unwritten=0)
    assert (busy.slots_used, busy.backlogged) == (2, 1)
    assert after == Figures(slots=2, slots_used=0, claimed=8, backlogged=0, unwritten=0)


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
