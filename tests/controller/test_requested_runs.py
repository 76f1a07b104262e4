"""The end of a requested run shows soon, however many runs another team has requested."""

import pytest

from pyncette.controller.cluster.api import TASKS, ObjectName
from pyncette.controller.reconcile.requested_runs import FOLLOW_SECONDS, FOLLOWED_SECONDS_MAX, READS_MAX
from pyncette.core.accounting import Verdict, with_verdict
from pyncette.core.record import Outcome, is_on_demand, replace
from tests.controller.scene import EIGHT
from tests.controller.two_teams import REPORT, world_of_two_teams

MANY = 2 * READS_MAX


@pytest.fixture
def world():
    """A world whose backend is so slow that a scan takes seconds, and the next one follows after a minute."""
    world = world_of_two_teams(MANY)
    world.start()
    world.run(30)
    world.backends["first"].seconds = 0.1
    yield world
    world.close()


def request(world, name):
    world.api.annotate(TASKS, name, run_requested_at="now")


def end(world, name):
    """Have a worker end the requested run of a task in the namespace b, with success."""
    backend = world.backends["first"]
    (run,) = (
        record for record in backend.records() if is_on_demand(record.key) and record.key.task == name.name
    )
    backend.memory.shelf(run.key.partition).remove(run.key)
    now = EIGHT + world.loop.now
    record = world.record(name.name)
    summary = with_verdict(record.state.summary, Verdict(Outcome.SUCCEEDED, now, now, now, 1, "worker-1", ""))
    state = replace(record.state, summary=summary)
    backend.memory.shelf(record.key.partition).put(replace(record, version=record.version + 1, state=state))


def succeeded(world, name):
    return world.api.stored(TASKS, name)["status"]["runCounts"]["succeeded"]


def test_the_end_of_a_run_shows_soon_while_another_team_has_many_requested_runs_that_no_worker_claims(world):
    for number in range(MANY):
        request(world, ObjectName("a", f"task-{number}"))
    world.run(20)
    request(world, REPORT)
    world.run(5)
    before = succeeded(world, REPORT)

    end(world, REPORT)
    world.run(2)

    assert succeeded(world, REPORT) == before + 1


def test_each_of_many_requested_runs_of_a_team_shows_its_end_in_its_turn(world):
    for number in range(MANY):
        request(world, ObjectName("a", f"task-{number}"))
    world.run(20)
    last = ObjectName("a", f"task-{MANY - 1}")

    end(world, last)
    world.run(2 + 2 * FOLLOW_SECONDS * MANY / READS_MAX)

    assert succeeded(world, last) == 1


def test_a_run_that_no_worker_claims_is_read_often_for_minutes_only(world):
    world.backends["first"].seconds = 0.0
    request(world, REPORT)
    world.run(FOLLOWED_SECONDS_MAX + 60)

    assert not world.operator._tasks._requested._turns
    assert not world.operator._tasks._requested._due
