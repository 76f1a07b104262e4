"""A plain function runs in a thread, which nobody can cancel: what that means for the lease of its run, and for its worker."""

import time
from datetime import timedelta

import pytest

from tests.processes.accounted import LEASE
from tests.processes.population import Population, an_hour_ago
from tests.processes.scene import Scene

GRACE_SECONDS = 2

DRAINED_SECONDS = 20
"""The grace, five seconds for functions that notice that they should stop, and the time of a busy machine."""

LONGER_LEASE = timedelta(seconds=9)
"""Its last renewal leaves at least two thirds of it to the time after its worker."""

pytestmark = [
    pytest.mark.parametrize("scene", ["postgresql", "sqlite"], indirect=True),
    pytest.mark.timeout(120),
]


def test_a_function_keeps_its_lease_for_as_long_as_it_runs(scene: Scene):
    population = Population()
    for number in range(20):
        population.add_once("in_thread", f"long-{number}", an_hour_ago(), seconds=2.5 * LEASE.total_seconds())
    scene.schedule(population)
    workers = scene.start_two()

    scene.wait_until_over()
    codes = [worker.stop() for worker in workers]

    scene.check()
    assert [runs for runs in scene.account().of.values() if len(runs) != 1] == []
    assert codes == [0, 0]


def test_a_worker_ends_after_its_grace_without_a_function_that_is_stuck_and_keeps_its_lease(scene: Scene):
    may_end = scene.folder / "may-end"
    population = Population()
    stuck = {
        population.add_once(
            "in_thread",
            f"stuck-{number}",
            an_hour_ago(),
            until=str(may_end),
            lease_duration=LONGER_LEASE,
        )
        for number in range(3)
    }
    short = population.add_once("in_thread", "short", an_hour_ago(), seconds=GRACE_SECONDS + 2)
    scene.schedule(population)
    first = scene.start("--drain-seconds", str(GRACE_SECONDS))
    scene.wait_until("all have begun", lambda: population.expected <= scene.account(first).started)
    second = scene.start()
    scene.wait_until_ready(second)

    stopped_at = time.monotonic()
    code = first.stop()
    ended_at = time.monotonic_ns()
    left = scene.stored().of(stuck).unfinished
    scene.wait_until("the second runs them", lambda: stuck <= scene.account(second).started)
    may_end.touch()
    scene.wait_until_over()
    second.stop()

    assert code == 0
    assert ended_at / 1e9 - stopped_at < DRAINED_SECONDS
    assert len(first.entries("the handler still runs in its thread; its lease will expire")) == len(stuck)
    assert scene.account(first).ended == {short}
    assert all(record.lease is not None for record in left.values())
    taken_over = [run.started_at for run in scene.account(second).runs]
    least = 0.6 * LONGER_LEASE.total_seconds() * 1e9
    assert len(taken_over) == len(stuck)
    assert min(taken_over) - ended_at > least
    assert {run.attempt for run in scene.account(second).runs} == {2}
