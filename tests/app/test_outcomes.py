"""What becomes of an occurrence when its handler returns, raises, or dies with its worker."""

import asyncio
import datetime

import pytest

from pyncette import ExecutionMode, FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.core.record import Key, Outcome, Partition
from pyncette.core.times import instant_of
from pyncette.errors import DoNotRetry, RetryAfter
from tests.app.harness import NOON, at, running, seconds


async def outcomes(app_context, task, instance=""):
    (record,) = await runtime_of(app_context).ledger.store.load(
        [Key(Partition("", task.name), task.name, instance)]
    )
    return record.state.summary


async def test_what_returned_is_complete_and_the_next_occurrence_is_set(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10))
    async def report(context):
        ran.append((context.scheduled_at, context.attempt))

    async with running(app, clock) as app_context:
        await clock.advance(seconds(30))
        state = await app_context.get_task(report)

    assert ran == [(at(10), 1), (at(20), 1), (at(30), 1)]
    assert (state.scheduled_at, state.locked_until) == (at(40), None)


async def test_none_leaves_what_raised_until_its_lease_expires(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(1000), lease_duration=seconds(60))
    async def fail_once(context):
        ran.append((clock.utc, context.scheduled_at, context.attempt))
        if context.attempt == 1:
            raise ValueError("no report")

    async with running(app, clock) as app_context:
        await clock.advance(seconds(1050))
        state = await app_context.get_task(fail_once)
        await clock.advance(seconds(100))

    assert (state.scheduled_at, state.locked_until) == (at(1000), at(1060))
    assert ran == [(at(1000), at(1000), 1), (at(1060), at(1000), 2)]


async def test_unlock_tries_what_raised_again_a_poll_interval_later(repository, clock):
    app = Pyncette(repository, poll_interval=seconds(3))
    ran = []

    @app.task(interval=seconds(1000), failure_mode=FailureMode.UNLOCK)
    async def fail_twice(context):
        ran.append((clock.utc, context.scheduled_at))
        if context.attempt < 3:
            raise ValueError("no report")

    async with running(app, clock):
        await clock.advance(seconds(1500))

    assert ran == [(at(1000), at(1000)), (at(1003), at(1000)), (at(1006), at(1000))]


async def test_commit_completes_what_raised_and_counts_it_as_failed(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10), failure_mode=FailureMode.COMMIT)
    async def fail(context):
        ran.append((clock.utc, context.scheduled_at))
        raise ValueError("no report")

    async with running(app, clock) as app_context:
        await clock.advance(seconds(30))
        summary = await outcomes(app_context, fail)

    assert ran == [(at(10), at(10)), (at(20), at(20)), (at(30), at(30))]
    assert summary.counts.failed == 3
    assert summary.last_message == "ValueError: no report"


@pytest.mark.parametrize("mode", list(FailureMode))
async def test_what_a_worker_died_in_runs_again_when_its_lease_expires(repository, clock, mode):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(1000), lease_duration=seconds(60), failure_mode=mode)
    async def report(context):
        ran.append((clock.utc, context.scheduled_at, context.attempt))

    async with app.create(clock=clock) as dying:
        now = instant_of(at(1000))
        claimed = await runtime_of(dying).ledger.store.claim(
            {Partition("", "report"): 1}, "a lease", "the dying worker", now, now
        )
        assert len(claimed.records) == 1
    async with running(app, clock):
        await clock.advance(seconds(1500))

    assert ran == [(at(1060), at(1000), 2)]


async def test_at_most_once_an_occurrence_that_raised_is_not_tried_again(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10), execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def fail(context):
        ran.append((clock.utc, context.scheduled_at))
        raise ValueError("no report")

    async with running(app, clock) as app_context:
        await clock.advance(seconds(30))
        summary = await outcomes(app_context, fail)

    assert ran == [(at(10), at(10)), (at(20), at(20)), (at(30), at(30))]
    assert summary.last_outcome is Outcome.FAILED


async def test_at_most_once_an_occurrence_that_was_cancelled_is_lost(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(1000), execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def long(context):
        ran.append(clock.utc)
        await clock.sleep(seconds(100))

    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.advance(seconds(1010))
        run.cancel()
        await asyncio.wait([run])
        await clock.advance(seconds(500))
        summary = await outcomes(app_context, long)
    async with running(app, clock):
        await clock.advance(seconds(100))

    assert ran == [at(1000)]
    assert summary.counts.lost == 1


async def test_at_most_once_lets_an_occurrence_overlap_with_the_next(repository, clock):
    app = Pyncette(repository)
    at_once, most = 0, 0

    @app.task(interval=seconds(10), execution_mode=ExecutionMode.AT_MOST_ONCE)
    async def long(context):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await clock.sleep(seconds(25))
        at_once -= 1

    async with running(app, clock):
        await clock.advance(seconds(100))

    assert most == 3


async def test_at_least_once_an_occurrence_waits_for_the_one_before(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10))
    async def long(context):
        ran.append((clock.utc, context.scheduled_at))
        await clock.sleep(seconds(25))

    async with running(app, clock):
        await clock.advance(seconds(60))

    assert ran == [(at(10), at(10)), (at(35), at(20)), (at(60), at(30))]


async def test_missed_occurrences_are_made_up_for_one_by_one_each_with_its_own_time(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10))
    async def report(context):
        ran.append(context.scheduled_at)

    async with app.create(clock=clock):
        pass
    await clock.advance(seconds(10_005))
    async with running(app, clock):
        await clock.settle()

    assert ran == [at(10 * number) for number in range(1, 1001)]


async def test_fast_forward_runs_the_stale_occurrence_and_continues_from_now(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10), fast_forward=True)
    async def report(context):
        ran.append((clock.utc, context.scheduled_at))

    async with app.create(clock=clock):
        pass
    await clock.advance(seconds(10_005))
    async with running(app, clock):
        await clock.advance(seconds(15))

    assert ran == [
        (at(10_005), at(10)),
        (at(10_010), at(10_010)),
        (at(10_020), at(10_020)),
    ]


async def test_with_fast_forward_an_occurrence_that_is_due_now_is_not_left_out(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10), fast_forward=True)
    async def slow(context):
        ran.append(context.scheduled_at)
        await clock.sleep(seconds(10))

    async with running(app, clock):
        await clock.advance(seconds(40))

    assert ran == [at(10), at(20), at(30), at(40)]


async def test_an_interval_counts_from_the_moment_of_scheduling(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.dynamic_task()
    async def remind(context):
        ran.append(context.scheduled_at)

    async with running(app, clock) as app_context:
        await clock.advance(seconds(3))
        await app_context.schedule_task(remind, "ada", interval=seconds(10))
        await clock.advance(seconds(25))

    assert ran == [at(13), at(23)]


async def test_an_occurrence_starts_as_soon_as_it_is_due_and_not_at_the_next_poll(repository, clock):
    app = Pyncette(repository, poll_interval=seconds(60))
    started = []

    @app.dynamic_task()
    async def remind(context):
        started.append(clock.utc)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(remind, "ada", execute_at=at(7.25))
        await clock.advance(seconds(8))

    assert started == [at(7.25)]


async def test_a_handler_can_prevent_a_retry(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10), failure_mode=FailureMode.UNLOCK)
    async def report(context):
        ran.append(context.scheduled_at)
        raise DoNotRetry("the audience is gone")

    async with running(app, clock) as app_context:
        await clock.advance(seconds(20))
        summary = await outcomes(app_context, report)

    assert ran == [at(10), at(20)]
    assert summary.counts.failed == 2


async def test_a_handler_can_set_the_time_of_a_retry(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(100))
    async def report(context):
        ran.append((clock.utc, context.scheduled_at))
        if context.attempt == 1:
            raise RetryAfter(datetime.timedelta(seconds=7))

    async with running(app, clock):
        await clock.advance(seconds(150))

    assert ran == [(at(100), at(100)), (at(107), at(100))]


async def test_the_outcomes_of_instances_that_are_gone_are_counted_at_their_template(repository, clock):
    app = Pyncette(repository)

    @app.dynamic_task(failure_mode=FailureMode.COMMIT)
    async def remind(context):
        if context.args.get("fail"):
            raise ValueError("no mail")

    async with running(app, clock) as app_context:
        for number in range(5):
            await app_context.schedule_task(remind, f"u{number}", execute_at=at(1), fail=number == 0)
        await clock.advance(seconds(5))
        summary = await outcomes(app_context, remind)

    assert (summary.counts.succeeded, summary.counts.failed) == (4, 1)


# --- Running and stopping ------------------------------------------------------------------------------------------------


async def test_after_shutdown_running_handlers_finish_and_nothing_more_starts(repository, clock):
    app = Pyncette(repository)
    events = []

    @app.task(interval=seconds(10))
    async def long(context):
        events.append("begins")
        await clock.sleep(seconds(15))
        events.append("ends")

    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.advance(seconds(12))
        app_context.shutdown()
        await clock.advance(seconds(100))
        await run
        state = await app_context.get_task(long)

    assert events == ["begins", "ends"]
    assert state.locked_until is None


async def test_cancelling_run_cancels_what_runs_and_leaves_it_due(repository, clock):
    app = Pyncette(repository)
    events = []

    @app.task(interval=seconds(1000))
    async def long(context):
        events.append((clock.utc, context.attempt))
        try:
            await clock.sleep(seconds(100))
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.advance(seconds(1010))
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        state = await app_context.get_task(long)
    async with running(app, clock):
        await clock.settle()

    assert (state.scheduled_at, state.locked_until) == (at(1000), None)
    assert events[:3] == [(at(1000), 1), "cancelled", (at(1010), 1)]


async def test_shutdown_before_run_ends_it_at_once(repository, clock):
    app = Pyncette(repository)
    async with app.create(clock=clock) as app_context:
        app_context.shutdown()
        async with asyncio.timeout(5):
            await app_context.run()


async def test_an_app_context_runs_once_at_a_time(repository, clock):
    async with running(Pyncette(repository), clock) as app_context:
        with pytest.raises(RuntimeError, match="already running"):
            await app_context.run()


async def test_last_tick_is_when_the_last_poll_ended_and_waiting_counts_as_one(repository, clock):
    app = Pyncette(repository)
    async with app.create(clock=clock) as app_context:
        assert app_context.last_tick == NOON

    async with running(app, clock) as app_context:
        await clock.advance(seconds(100))
        assert app_context.last_tick == at(100)


async def test_a_task_that_is_disabled_does_not_run_until_it_is_enabled(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.task(interval=seconds(10), enabled=False)
    async def report(context):
        ran.append(context.scheduled_at)

    async with running(app, clock):
        await clock.advance(seconds(15))
        assert ran == []

        report.enabled = True
        await clock.settle()
        assert ran == [at(10)]

        report.enabled = False
        await clock.advance(seconds(30))
        assert at(40) not in ran


async def test_a_concurrency_limit_of_a_task_counts_beside_that_of_the_process(repository, clock):
    app = Pyncette(repository)
    at_once, most = 0, 0

    @app.dynamic_task(concurrency_limit=2)
    async def work(context):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await clock.sleep(seconds(1))
        at_once -= 1

    async with running(app, clock) as app_context:
        for number in range(10):
            await app_context.schedule_task(work, f"w{number}", execute_at=NOON)
        await clock.advance(seconds(10))

    assert most == 2


async def test_nothing_is_late_although_a_look_asks_only_some_of_many_partitions(repository, clock):
    app = Pyncette(repository, batch_size=20)
    late = []

    async def work(context):
        late.append((context.task.name, clock.utc - context.scheduled_at))

    for length in (7, 10, 31):
        app.task(name=f"every {length} s", interval=seconds(length))(work)
    for number in range(3):
        app.partitioned_task(name=f"spread {number}", partition_count=16)(work)
    async with running(app, clock):
        await clock.advance(seconds(600))

    assert len(late) == 600 // 7 + 600 // 10 + 600 // 31
    assert {lateness for _, lateness in late} == {seconds(0)}


async def test_a_process_claims_only_from_the_partitions_that_it_has_enabled(repository, clock):
    ran = []

    def an_app(enabled):
        app = Pyncette(repository)

        @app.partitioned_task(
            partition_count=3, partition_selector=lambda _, name: int(name), enabled_partitions=enabled
        )
        async def work(context):
            ran.append((enabled, context.task.name))

        return app

    one, two = an_app([0, 2]), an_app([1])
    async with running(one, clock) as app_context:
        for number in range(3):
            await app_context.schedule_task(one.tasks["work"], str(number), execute_at=NOON)
        await clock.advance(seconds(10))
    async with running(two, clock):
        await clock.advance(seconds(10))

    assert sorted(ran) == [([0, 2], "0"), ([0, 2], "2"), ([1], "1")]


async def test_a_worker_without_free_slots_continues_to_tick(repository, clock):
    app = Pyncette(repository, concurrency_limit=1)

    @app.task(interval=seconds(10))
    async def long(context):
        await clock.sleep(seconds(1000))

    async with running(app, clock) as app_context:
        await clock.advance(seconds(500))
        await asyncio.sleep(0.25)

        assert app_context.last_tick == at(500)
