"""What a worker writes of a run: each end of a handler, and what the policies make of it."""

from datetime import timedelta

import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Counts, Outcome, replace
from pyncette.core.schedule import Interval
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies, Retry
from pyncette.errors import DoNotRetry, RetryAfter
from pyncette.store.base import Change
from pyncette.worker.occurrence import Occurrence
from tests.worker.bench import Bench, Registered, seconds

QUICK_RETRY = Retry(max_attempts=3, initial=10 * SECOND, maximum=10 * SECOND, jitter=False)


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


def _raising(error: Exception):
    async def call(_: Occurrence) -> None:
        raise error

    return call
