"""Workers that are stopped or fail: the records they leave behind, and their exit codes."""

import signal
import time
from datetime import timedelta

import pytest

from tests.processes.account import Occurrence
from tests.processes.population import Population, an_hour_ago
from tests.processes.scene import Scene
from tests.processes.workers import WorkerProcess
from tests.servers import OwnPostgres

A_LONG_LEASE = timedelta(minutes=10)
"""Nobody in these tests waits for its end."""

SOON_SECONDS = 15
"""What is released is started elsewhere within this time, on a machine that is busy with other things."""

INTERRUPTED = 130
"""As shells call the end by a ctrl-C."""


def holding(scene: Scene, **seconds: float) -> tuple[WorkerProcess, dict[str, set[Occurrence]]]:
    """A worker that is in the middle of runs of all kinds, some for each of *seconds*; and which these are."""
    population = Population()
    held: dict[str, set[Occurrence]] = {}
    for name, length in seconds.items():
        held[name] = {
            population.add_once(
                task, f"{name}-{task}-{number}", an_hour_ago(), seconds=length, lease_duration=A_LONG_LEASE
            )
            for task in ("at_least_once", "renewed", "at_most_once")
            for number in range(5)
        }
    scene.schedule(population)
    worker = scene.start("--drain-seconds", "4")
    scene.wait_until("all have begun", lambda: population.expected <= scene.account(worker).started)
    return worker, held


@pytest.mark.timeout(120)
def test_a_drain_lets_short_runs_end_and_hands_long_ones_over_at_once(scene: Scene):
    first, held = holding(scene, short=2, long=300)
    second = scene.start()
    scene.wait_until_ready(second)

    code = first.stop()

    stopped_at = time.monotonic_ns()
    handed_over = {occurrence for occurrence in held["long"] if occurrence.task != "at_most_once"}
    scene.wait_until(
        "others run what was released",
        lambda: handed_over <= scene.account(second).started,
        seconds=SOON_SECONDS,
    )
    assert code == 0
    assert scene.account(first).ended == held["short"]
    assert {run.occurrence for run in scene.account(first).runs if run.stopped_at is not None} == held["long"]
    assert scene.account(second).started == handed_over
    # A drain is no attempt that failed.
    assert {run.attempt for run in scene.account(second).runs} == {1}
    assert (
        min(run.started_at for run in scene.account(second).runs) < stopped_at + SOON_SECONDS * 1_000_000_000
    )
    counts = scene.stored().counts("at_most_once")
    assert (counts.succeeded, counts.lost) == (5, 5)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
)
def test_a_second_signal_ends_a_worker_at_once(sqlite_scene: Scene, signals):
    scene = sqlite_scene
    population = Population()
    population.add_once("at_least_once", "long", an_hour_ago(), seconds=300)
    scene.schedule(population)
    worker = scene.start("--drain-seconds", "300")
    scene.wait_until("it has begun", lambda: scene.account(worker).started)

    worker.send(signals[0])
    scene.wait_until("it drains", lambda: worker.entries("no more tasks are claimed"))
    time.sleep(0.7)  # sooner, a second SIGTERM would count as the first one
    worker.send(signals[1])

    assert worker.wait(seconds=5) == INTERRUPTED


@pytest.mark.timeout(120)
def test_a_second_signal_ends_a_worker_whose_loop_is_blocked(sqlite_scene: Scene):
    scene = sqlite_scene
    population = Population()
    population.add_once("at_least_once", "blocking", an_hour_ago(), blocked_seconds=60)
    scene.schedule(population)
    worker = scene.start()
    scene.wait_until("it has begun", lambda: scene.account(worker).started)

    worker.send(signal.SIGTERM)
    time.sleep(1)  # nothing tells from outside that a blocked process has got its signal
    worker.send(signal.SIGTERM)

    assert worker.wait(seconds=10) == INTERRUPTED


@pytest.mark.timeout(120)
def test_a_worker_whose_tables_become_too_new_ends_with_the_reason(
    own_postgres_scene: Scene, own_postgres: OwnPostgres
):
    scene = own_postgres_scene
    worker, _ = holding(scene, long=300)

    own_postgres.execute("UPDATE pyncette_tasks_meta SET schema_version = 99, min_reader = 99", scene.backend)
    own_postgres.kill_connections(scene.backend)

    assert worker.wait(seconds=30) not in {0, INTERRUPTED}
    assert "have schema 99, and this release knows" in worker.log.splitlines()[-1]
    assert not any(line.startswith("Traceback") for line in worker.log.splitlines())


@pytest.mark.timeout(120)
def test_a_worker_whose_tables_are_dropped_ends_with_the_reason(
    own_postgres_scene: Scene, own_postgres: OwnPostgres
):
    scene = own_postgres_scene
    worker, _ = holding(scene, long=300)

    own_postgres.execute("DROP TABLE pyncette_tasks, pyncette_tasks_meta CASCADE", scene.backend)

    assert worker.wait(seconds=60) not in {0, INTERRUPTED}
    assert "are missing" in worker.log.splitlines()[-1]
    assert not any(line.startswith("Traceback") for line in worker.log.splitlines())
