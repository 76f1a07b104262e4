"""A failover to a server whose clock differs: nothing runs twice at most once, no lease of the living is stolen."""

import time
from datetime import timedelta

import pytest

from tests.processes.account import Run
from tests.processes.population import Population, an_hour_ago
from tests.processes.scene import Scene
from tests.servers import OwnServer

LEASE = timedelta(seconds=20)
"""Longer than a server takes to start again and workers to notice, and shorter than the step."""

RUN_SECONDS = 25
"""Longer than a lease, so that each has to be renewed by both clocks."""

TICKS = 3


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "own_server",
    ["postgresql", *(pytest.param(other, marks=pytest.mark.long) for other in ("mariadb", "redis"))],
    indirect=True,
)
@pytest.mark.parametrize("minutes", [1, pytest.param(-1, marks=pytest.mark.long)])
def test_a_step_of_the_servers_clock_steals_no_lease_and_stops_no_schedule(
    own_server_scene: Scene, own_server: OwnServer, minutes: int
):
    scene = own_server_scene
    population = Population()
    for task in ("at_least_once", "renewed", "at_most_once"):
        for number in range(20):
            population.add_once(
                task, f"{task}-{number}", an_hour_ago(), seconds=RUN_SECONDS, lease_duration=LEASE
            )
    population.add_endless("ticking", "each-second", "* * * * * *")
    scene.schedule(population)
    both = scene.start_two()

    scene.wait_until("all that takes long has begun", lambda: population.expected <= scene.account().started)
    own_server.restart(clock_ahead=timedelta(minutes=minutes))
    stepped_at = time.monotonic_ns()
    scene.wait_until_ready(*both)
    scene.wait_until("it ticks on", lambda: len(ticks(scene, since=stepped_at)) >= TICKS, seconds=120)
    scene.wait_until_over()
    codes = [worker.stop() for worker in both]

    assert [runs for runs in scene.account().of.values() if len(runs) > 1] == []
    found = scene.check()
    assert found.counts("at_most_once").lost == 0
    assert codes == [0, 0]


def ticks(scene: Scene, since: int) -> list[Run]:
    return [
        run for run in scene.account().runs if run.occurrence.task == "ticking" and run.started_at > since
    ]
