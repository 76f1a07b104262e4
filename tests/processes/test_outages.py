"""The database goes away under load, and comes back: workers say that they are not ready, wait, and lose nothing."""

import time

import pytest

from tests.processes.account import Run
from tests.processes.accounted import LEASE
from tests.processes.backends import can_be_written, write_lock
from tests.processes.population import due_within_the_last_hour
from tests.processes.scene import Scene
from tests.processes.workers import WorkerProcess
from tests.servers import OwnRedis, OwnServer

INSTANCES = 6_000

A_SECOND = 1_000_000_000


class Outage:
    """Remembers when nothing could be written: what ended then at most once may be called lost, and rightly so."""

    def __init__(self) -> None:
        self._began_at = time.monotonic_ns()
        self._ended_at = 0

    def over(self) -> None:
        self._ended_at = time.monotonic_ns()

    def may_have_lost(self, run: Run) -> bool:
        lease = int(LEASE.total_seconds() * A_SECOND)
        ended_at = run.ended_at or 0
        # Until all have noticed that it is over, which takes them some seconds.
        return self._began_at - lease < ended_at and run.started_at < self._ended_at + 2 * lease


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mode", "seconds"),
    [
        ("immediate", 6),
        pytest.param("fast", 20, marks=pytest.mark.long),
        pytest.param("immediate", 20, marks=pytest.mark.long),
    ],
)
def test_workers_outlive_a_server_that_is_stopped_and_started_again(
    own_server_scene: Scene, own_server: OwnServer, mode, seconds: float
):
    scene = own_server_scene
    scene.schedule(due_within_the_last_hour(INSTANCES, long=40))
    both = scene.start_two()

    scene.wait_until_begun(0.2)
    outage = Outage()
    with own_server.stopped(mode):
        end = time.monotonic() + seconds
        scene.wait_until_unready(*both)
        assert all(worker.is_live for worker in both)
        time.sleep(max(0, end - time.monotonic()))
    outage.over()
    scene.wait_until_ready(*both)
    scene.wait_until_over()
    codes = [worker.stop() for worker in both]

    scene.check(may_be_lost=outage.may_have_lost)
    assert codes == [0, 0]
    assert all(worker.entries("the backend does not answer") for worker in both)
    assert all(worker.entries("the backend answers again") for worker in both)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("own_server", ["redis"], indirect=True)
def test_workers_end_rather_than_wait_on_a_redis_that_came_back_without_its_records(
    own_server_scene: Scene, own_server: OwnRedis
):
    scene = own_server_scene
    scene.schedule(due_within_the_last_hour(100))
    worker = scene.start()
    scene.wait_until_ready(worker)

    own_server.execute("FLUSHALL")
    own_server.restart()

    assert worker.wait(60) != 0
    assert "are missing: run `pyncette migrate`" in worker.log


@pytest.mark.timeout(300)
def test_workers_outlive_a_program_that_keeps_a_file_from_being_written_to(sqlite_scene: Scene):
    scene = sqlite_scene
    scene.schedule(due_within_the_last_hour(INSTANCES, long=40))
    both = scene.start_two()

    scene.wait_until_begun(0.2)
    outage = Outage()
    with write_lock(scene.backend, seconds=30):
        scene.wait_until_unready(*both)
        assert all(worker.is_live for worker in both)
    outage.over()
    scene.wait_until_ready(*both)
    scene.wait_until_over()
    codes = [worker.stop() for worker in both]

    scene.check(may_be_lost=outage.may_have_lost)
    assert codes == [0, 0]
    assert not any("database is locked" in worker.log for worker in both)


@pytest.mark.timeout(300)
def test_a_worker_that_is_frozen_in_a_write_stops_the_others_until_it_wakes_and_nothing_is_lost(
    sqlite_scene: Scene,
):
    scene = sqlite_scene
    scene.schedule(due_within_the_last_hour(INSTANCES, long=40))
    frozen, other = scene.start_two()

    scene.wait_until_begun(0.2)
    freeze_in_a_write(scene, frozen)
    outage = Outage()
    scene.wait_until_unready(other)
    frozen.wake()
    outage.over()
    scene.wait_until_ready(frozen, other)
    scene.wait_until_over()
    codes = [frozen.stop(), other.stop()]

    scene.check(may_be_lost=outage.may_have_lost)
    assert codes == [0, 0]


def freeze_in_a_write(scene: Scene, worker: WorkerProcess) -> None:
    """Freeze *worker* while it keeps the others from writing."""

    def caught() -> bool:
        worker.freeze()
        if not can_be_written(scene.backend):
            return True
        worker.wake()
        return False

    scene.wait_until(f"{worker.name} is caught in a write", caught)
