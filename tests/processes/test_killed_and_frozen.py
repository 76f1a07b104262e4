"""One worker is killed and another frozen in mid-run: what the account of every occurrence has to show then."""

import pytest

from tests.processes.account import Occurrence
from tests.processes.backends import can_be_written
from tests.processes.population import due_within_the_last_hour, held_until
from tests.processes.scene import ALL_RUN_SECONDS, Scene
from tests.processes.workers import WorkerProcess

A_SHORT_WAIT_SECONDS = 0.2
"""For the lock of a file: what another worker writes is mostly written by then."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("instances", [10_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_nothing_is_lost_at_least_once_or_run_twice_at_most_once_by_workers_killed_and_frozen(
    scene: Scene, instances: int
):
    scene.schedule(due_within_the_last_hour(scene.some(instances), long=100))
    killed, frozen = scene.start_two()

    scene.wait_until_begun(0.2)
    killed.kill()
    scene.wait_until_begun(0.4)
    interrupted = freeze_in_mid_run(scene, frozen)
    third = scene.start()
    taken_over = scene.wait_until_over(interrupted)
    frozen.wake()
    scene.wait_until(
        "its handlers have ended, or were stopped", lambda: not open_runs(scene, frozen, interrupted)
    )
    scene.wait_until_over()
    codes = [frozen.stop(), third.stop()]

    found = scene.check(may_be_lost=lambda run: run.process in {killed.pid, frozen.pid})
    # After the takeover the old holder wrote nothing any more, although it went on.
    assert found.of(interrupted) == taken_over.of(interrupted)
    assert codes == [0, 0]


def freeze_in_mid_run(scene: Scene, worker: WorkerProcess) -> set[Occurrence]:
    """Freeze *worker*, the only one, while it is in mid-run at least once and at most once, and return all that it had begun."""
    go_on = scene.folder / "go-on"
    held = held_until(go_on, 5)
    scene.schedule_more(held)
    scene.wait_until(
        f"{worker.name} is in mid-run",
        lambda: held.expected <= {run.occurrence for run in scene.account(worker).open_runs()},
    )

    def caught() -> bool:
        worker.freeze()
        # Whoever is frozen in a write to SQLite stops the others until it wakes: that is a test of its own. Most looks
        # find it so under load; but what it is in the midst of does not end, and all else does.
        if can_be_written(scene.backend, A_SHORT_WAIT_SECONDS):
            return True
        worker.wake()
        return False

    scene.wait_until(f"{worker.name} is caught between its writes", caught, ALL_RUN_SECONDS)
    go_on.touch()
    return {run.occurrence for run in scene.account(worker).open_runs()}


def open_runs(scene: Scene, worker: WorkerProcess, occurrences: set[Occurrence]) -> list[Occurrence]:
    return [run.occurrence for run in scene.account(worker).open_runs() if run.occurrence in occurrences]
