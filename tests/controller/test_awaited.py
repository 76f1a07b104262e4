"""What people wait for shows at once, and what they look at is true, though a task has few writes of its status."""

from datetime import datetime

import pytest

from pyncette.clock import SECOND
from pyncette.controller.cluster.api import TASKS
from pyncette.controller.status.writer import BURST, PAUSE_SECONDS
from pyncette.core.accounting import Verdict, with_verdict
from pyncette.core.record import Outcome, is_on_demand, replace
from pyncette.core.times import instant_of
from tests.controller.fake_api import task
from tests.controller.scene import EIGHT
from tests.controller.test_faults import external
from tests.controller.world import World


@pytest.fixture
def world():
    world = World("first")
    world.api.create(external())
    world.start()
    world.run(5)
    yield world
    world.close()


def task_each(seconds):
    return task(schedule=None, intervalSeconds=seconds)


def now(world):
    return EIGHT + world.loop.now


def status(world):
    return world.api.stored(TASKS, "report")["status"]


def shelf(world, record):
    return world.backends["first"].memory.shelf(record.key.partition)


def run_once(world, **changes):
    """Have a worker run what is due: in an instant, with success."""
    record = world.record("report")
    verdict = Verdict(Outcome.SUCCEEDED, record.due_at, now(world), now(world), 1, "worker-1", "")
    summary = with_verdict(record.state.summary, verdict)
    state = replace(record.state, summary=summary)
    shelf(world, record).put(replace(record, version=record.version + 1, state=state, **changes))


def every(world, seconds, times):
    """Have the task run each so many seconds; yield after each second."""
    for _ in range(times):
        for _ in range(seconds):
            world.run(1)
            yield
        due = world.record("report").due_at + seconds * SECOND
        run_once(world, due_at=due, claimable_at=due)


def written(world):
    """Count the writes of the status, which are all that the operator writes to a task."""
    return sum(call.verb == "apply_status" and call.kind is TASKS for call in world.api.calls)


def end_of_run(world):
    """Have the worker end the extra run."""
    (extra,) = (record for record in world.backends["first"].records() if is_on_demand(record.key))
    shelf(world, extra).remove(extra.key)
    run_once(world)


@pytest.mark.parametrize("run_seconds", [0.1, 2, 20, 100])
def test_the_end_of_a_requested_run_shows_within_two_seconds_whatever_was_written_before(world, run_seconds):
    world.api.create(task_each(1))
    for _ in every(world, 1, 3 * BURST):
        pass

    world.api.annotate(TASKS, "report", run_requested_at="now")
    world.run(1)
    assert status(world)["lastHandledRunRequest"] == "now"
    world.run(run_seconds)
    end_of_run(world)
    ended = world.record("report").state.summary
    world.run(2)

    assert status(world)["runCounts"]["succeeded"] == ended.counts.succeeded
    assert (
        instant_of(datetime.fromisoformat(status(world)["lastRun"]["completionTime"])) == ended.last_ended_at
    )
    assert status(world).get("active", 0) == 0


def test_the_end_is_written_once_and_then_the_task_waits_again(world):
    world.api.create(task_each(1))
    for _ in every(world, 1, 3 * BURST):
        pass
    world.api.annotate(TASKS, "report", run_requested_at="now")
    world.run(1)
    end_of_run(world)
    world.run(2)
    before = written(world)

    for _ in every(world, 1, 20):
        pass

    assert written(world) - before <= 1


@pytest.mark.parametrize("seconds", [1, 5, 20, 45])
def test_the_next_time_of_a_healthy_task_is_never_in_the_past(world, seconds):
    world.api.create(task_each(seconds))
    world.run(1)

    for _ in every(world, seconds, 200 // seconds):
        told = instant_of(datetime.fromisoformat(status(world)["nextScheduleTime"]))
        assert told > now(world) - SECOND, world.loop.now / SECOND


def test_a_task_that_no_worker_runs_any_more_soon_has_its_next_time_in_the_past(world):
    world.api.create(task_each(5))
    for _ in every(world, 5, 20):
        pass

    world.run(2 * PAUSE_SECONDS + 20)

    assert instant_of(datetime.fromisoformat(status(world)["nextScheduleTime"])) < now(world)


def test_a_task_that_is_due_often_is_written_about_no_more_than_its_budget_has(world):
    world.api.create(task_each(5))
    for _ in every(world, 5, 4):
        pass
    before = written(world)

    for _ in every(world, 5, 60):
        pass

    assert written(world) - before <= 300 / PAUSE_SECONDS + BURST
