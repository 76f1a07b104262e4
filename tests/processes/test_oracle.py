"""The oracle of fault-injection accounts sees each broken promise, and excuses what a fault explains and no more."""

from pathlib import Path

import pytest

from pyncette.core.record import Counts
from tests.processes.account import Account, Occurrence, Run
from tests.processes.account_backends import AccountBackend
from tests.processes.conductor import Fault, Played
from tests.processes.oracle import Judged, Oracle
from tests.processes.subjects import A_SECOND, KINDS, Edit, Seconds, Subject

T0 = 1_800_000_000 * A_SECOND
EACH_SECOND = Seconds.every(1)
EACH_TEN = Seconds.every(10)

A_WORKER, ANOTHER = 101, 102


class Story:
    """What happened to one subject, told in seconds since T0."""

    def __init__(self, task: str = "at_least_once", times: Seconds = EACH_TEN) -> None:
        self.subject = Subject(KINDS[task], f"{task}-0")
        self.runs: list[Run] = []
        self.played = Played(AccountBackend("sqlite", "", ""), 1, 60, Path())
        self.played.subjects = [self.subject]
        self.played.errors = {"steady": 0.05}
        self.played.began = T0
        self.played.ended = T0 + 60 * A_SECOND
        self.edit("create", 0.5, times)

    def edit(
        self, operation: str, at: float, times: Seconds | None, *, known: bool = True, took: float = 0.01
    ) -> None:
        begin = T0 + int(at * A_SECOND)
        self.played.edits.append(
            Edit(
                len(self.played.edits),
                self.subject,
                operation,
                times,
                "steady",
                before=begin,
                after=begin + int(took * A_SECOND),
                known=known,
            )
        )

    def run(
        self, due: float, started: float, ended: float | None = None, *, by: int = A_WORKER, attempt: int = 1
    ) -> None:
        start = T0 * 1000 + int(started * 1e9)
        self.runs.append(
            Run(
                Occurrence(self.subject.kind.task, self.subject.name, T0 + int(due * A_SECOND)),
                by,
                1000 + len(self.runs),
                attempt,
                f"key-{due}",
                start,
                start,
                ended_at=T0 * 1000 + int((started + 0.01 if ended is None else ended) * 1e9),
            )
        )

    def run_all(self, until: float = 60) -> None:
        """Have each of six occurrences run in time, but those from *until* on."""
        for due in range(10, 60, 10):
            if due < until:
                self.run(due, due + 0.01)

    def fault(self, kind: str, began: float, ended: float, process: int = A_WORKER) -> None:
        self.played.faults.append(
            Fault(kind, process, T0 + int(began * A_SECOND), T0 + int(ended * A_SECOND))
        )

    def judged(self, counts: Counts | None = None) -> Judged:
        by_task = {} if counts is None else {self.subject.kind.task: counts}
        return Oracle(self.played, Account(self.runs), by_task).judge()

    def broken(self, counts: Counts | None = None) -> set[str]:
        return set(self.judged(counts).by_promise)


@pytest.mark.parametrize("task", ["at_least_once", "at_most_once", "mirrored_at_most_once", "renewed"])
def test_an_account_in_which_all_runs_once_and_in_time_is_as_promised(task):
    story = Story(task)
    story.run_all()

    assert story.broken(Counts(succeeded=5)) == set()


def test_an_occurrence_that_was_passed_over_is_lost():
    story = Story()
    story.run_all()
    del story.runs[2]

    assert story.broken() == {"at least once none is lost"}


def test_an_occurrence_that_nothing_follows_is_lost_too():
    story = Story()
    story.run_all(until=50)

    assert story.broken() == {"at least once none is lost"}


def test_at_most_once_an_occurrence_is_lost_only_if_a_worker_died():
    story = Story("at_most_once")
    story.run_all()
    del story.runs[2]
    died = Story("at_most_once")
    died.run_all()
    del died.runs[2]
    died.fault("kill", 30.005, 30.01)

    assert story.broken() == {"at most once none is lost unless its worker died"}
    assert died.broken() == set()


def test_a_stop_that_is_shorter_than_the_lease_loses_nothing():
    story = Story("at_most_once")
    story.run_all()
    del story.runs[2]
    story.fault("stop", 30.005, 31)

    assert story.broken() == {"at most once none is lost unless its worker died"}


def test_a_machine_that_is_too_busy_for_a_lease_loses_what_it_had_claimed():
    story = Story("at_most_once")
    story.run_all()
    del story.runs[2]
    story.fault("starved", 30, 31.9, process=0)

    assert story.broken() == set()


def test_a_run_that_stood_still_on_its_way_to_the_handler_repeats_nothing():
    story = Story()
    story.run_all(until=50)
    story.run(50, 53.5, by=ANOTHER, attempt=2)
    story.run(50, 55.01)
    story.runs[-1].fence, story.runs[-2].fence = 2000, 2001
    story.fault("stop", 50.02, 55)

    assert story.broken() == set()


def test_at_most_once_none_runs_twice_whatever_faults_there_are():
    story = Story("at_most_once")
    story.run_all()
    story.fault("kill", 10, 10.1)
    story.run(10, 14, by=ANOTHER)

    assert story.broken() == {"at most once none twice"}


def test_what_returned_runs_again_only_if_a_fault_kept_that_from_being_written():
    story = Story()
    story.run_all()
    story.run(50, 50.1, by=ANOTHER, attempt=2)
    lost = Story()
    lost.run_all()
    lost.fault("lost reply", 50, 50.2)
    lost.run(50, 50.1, by=ANOTHER, attempt=2)

    assert story.broken() == {"nothing repeated after it completed"}
    assert lost.broken() == set()


def test_a_start_before_its_time_is_seen():
    story = Story()
    story.run_all()
    story.runs[1].time_of_day -= 200_000_000
    story.runs[1].started_at -= 200_000_000

    assert story.broken() == {"nothing before its time"}


def test_a_new_schedule_does_not_reach_back_before_its_edit():
    story = Story()
    story.run_all(until=40)
    story.fault("kill", 44, 44)
    story.edit("edit", 45.5, EACH_SECOND)
    story.run(44, 45.6)
    for due in range(46, 60):
        story.run(due, due + 0.01)

    assert story.broken() == {"nothing of a new schedule before the edit"}


def test_nothing_runs_that_no_schedule_names():
    story = Story()
    story.run_all()
    story.run(55, 55.01)

    assert story.broken() == {"nothing but what a schedule names"}


def test_of_what_was_late_when_it_was_edited_without_force_only_the_sooner_time_is_kept():
    story = Story(times=EACH_SECOND)
    for due in range(1, 20):
        story.run(due, due + 0.01)
    story.edit("schedule", 30.5, EACH_TEN)
    story.fault("silence", 20, 27, process=0)
    story.run(20, 31.1)
    one = story.broken()
    story.run(21, 31.2)
    two = story.broken()

    assert "what an edit took away does not run (schedule)" not in one
    assert "what an edit took away does not run (schedule)" in two


def test_what_a_later_schedule_ran_does_not_make_lost_what_its_edit_took_away():
    story = Story(times=EACH_SECOND)
    for due in range(1, 20):
        story.run(due, due + 0.01)
    story.fault("silence", 20, 27, process=0)
    story.edit("force", 30.98, EACH_TEN)
    story.edit("edit", 30.99, EACH_SECOND)
    for due in range(31, 60):
        story.run(due, due + 0.01)

    assert story.broken() == set()


def test_the_sooner_time_that_is_kept_may_run_until_an_edit_takes_it_away():
    story = Story(times=EACH_SECOND)
    for due in range(1, 31):
        story.run(due, due + 0.01)
    story.edit("schedule", 30.6, EACH_TEN)
    story.run(31, 31.001)
    story.edit("remove", 31.01, None)

    assert story.broken() == set()


def test_two_live_workers_in_one_occurrence_are_seen_and_one_that_stood_still_is_excused():
    story = Story("renewed")
    story.run_all(until=50)
    story.run(50, 50.01, 51)
    story.run(50, 50.5, 50.9, by=ANOTHER, attempt=2)
    stopped = Story("renewed")
    stopped.run_all(until=50)
    stopped.run(50, 50.01, 56)
    stopped.run(50, 54, 54.5, by=ANOTHER, attempt=2)
    stopped.fault("stop", 50.1, 55)

    assert story.broken() == {"no two live workers in what may not overlap"}
    assert stopped.broken() == set()


def test_more_runs_than_the_limit_are_seen():
    story = Story("limited")
    for due in range(10, 60, 10):
        story.run(due, due + 0.01, 59)

    assert "no more runs at once than the limit" in story.broken()


def test_a_fence_that_does_not_grow_is_seen():
    story = Story()
    story.run_all()
    story.runs[3].fence = 5

    assert story.broken() == {"fences grow"}


@pytest.mark.parametrize(("failover", "broken"), [(40.1, set()), (31, {"fences grow"})])
def test_a_fence_is_given_again_after_a_failover_that_lost_its_claim(failover, broken):
    story = Story()
    story.played.backend.loses_writes = True
    story.run_all()
    story.runs[4].fence = story.runs[3].fence
    story.fault("failover", failover, failover + 0.5, process=0)
    story.fault("kill", failover, failover)

    assert story.broken() == broken


@pytest.mark.parametrize(
    "counts",
    [Counts(succeeded=4), Counts(succeeded=6), Counts(succeeded=4, lost=1), Counts(succeeded=5, missed=1)],
)
def test_counts_that_do_not_follow_from_what_ran_are_seen(counts):
    story = Story()
    story.run_all()

    assert story.broken(counts) == {"counts by outcome equal what ran"}


def test_a_late_start_is_excused_by_a_fault_that_can_be_felt_and_by_none_long_ago():
    story = Story()
    story.run_all(until=50)
    story.fault("kill", 10, 10)
    story.run(50, 53)
    excused = Story()
    excused.run_all(until=50)
    excused.fault("kill", 49, 49)
    excused.run(50, 53)

    assert story.broken() == {"in time without faults"}
    assert excused.broken() == set()


def test_what_only_a_busy_machine_kept_from_being_judged_in_time_is_counted():
    story = Story()
    story.run_all()
    story.fault("starved", 29.9, 30.2, process=0)
    story.fault("kill", 48, 48)

    judged = story.judged()

    assert (judged.judged_in_time, judged.too_busy) == (3, 1)


def test_an_edit_of_unknown_result_excuses_what_either_schedule_names_and_nothing_else():
    story = Story()
    story.run_all(until=40)
    story.edit("force", 35, EACH_SECOND, known=False)
    story.run(40, 40.01)
    story.run(41, 41.01)
    story.edit("force", 42.5, EACH_TEN)
    story.run(50, 50.01)
    assert story.broken() == set()

    story.run(50.5, 50.5)
    assert story.broken() == {"nothing but what a schedule names"}


@pytest.mark.parametrize(("took", "late"), [(0.01, {"in time without faults"}), (4, set())])
def test_what_an_edit_has_made_due_is_late_only_after_the_answer_to_that_edit(took, late):
    story = Story()
    story.run_all(until=40)
    story.edit("force", 39.5, EACH_TEN, took=took)
    story.run(40, 43.6)
    story.run(50, 50.01)

    assert story.broken() == late
