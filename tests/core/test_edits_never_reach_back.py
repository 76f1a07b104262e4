"""No edit makes a time due that is before it or has started, however late the record is and whatever the editor's clock."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pyncette.core.accounting import idempotency_key
from pyncette.core.record import Change, replace
from pyncette.core.schedule import Cron, Interval, Once
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Retry
from tests.core.play import (
    AT_MOST_ONCE,
    HOUR,
    INSTANCE,
    MINUTE,
    NONE,
    RAISED,
    UNLOCK,
    UNSTARTED,
    Play,
    at,
    minute,
)

EACH_MINUTE = Cron("* * * * *")
TEN_MINUTES = Cron("*/10 * * * *")
QUICK = replace(NONE, missed=Missed.ALL)

EDITS = {
    "edit": lambda play, minutes, schedule: play.edit(minutes, schedule=schedule),
    "reschedule": lambda play, minutes, schedule: play.reschedule(minutes, schedule),
    "force": lambda play, minutes, schedule: play.overwrite(minutes, schedule),
}


def backlog(play: Play, minutes: float) -> list[float]:
    """Run everything that is due after that many *minutes*, and return the scheduled minutes."""
    before = len(play.called)
    while play.run(minutes) is not None:
        pass
    return [minute for minute, _ in play.called[before:]]


# --- However late it was ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "expected"),
    [("edit", [61]), ("reschedule", [10, 61]), ("force", [61])],
)
@pytest.mark.parametrize("mode", Mode)
def test_a_late_schedule_that_is_made_tighter_runs_no_time_of_the_new_one_before_the_edit(
    edit, expected, mode
):
    policies = replace(
        QUICK, mode=mode, overlap=Overlap.ALLOW if mode is Mode.AT_MOST_ONCE else Overlap.FORBID
    )
    play = Play(schedule=TEN_MINUTES, policies=policies, key=INSTANCE, own=False)

    EDITS[edit](play, 60.5, EACH_MINUTE)

    assert backlog(play, 61.5) == expected


@pytest.mark.parametrize("schedule", [Cron("*/20 * * * *"), Interval(20 * MINUTE)])
def test_a_late_schedule_that_is_made_slower_runs_no_time_of_the_new_one_before_the_edit(schedule):
    play = Play(schedule=TEN_MINUTES, policies=QUICK, key=INSTANCE, own=False)

    play.reschedule(65, schedule)

    # The soonest time of the old schedule is kept; an interval counts on from it.
    assert backlog(play, 80) == ([10, 80] if isinstance(schedule, Cron) else [10, 70])


def test_late_times_other_than_the_kept_one_are_withdrawn_and_not_counted():
    play = Play(schedule=TEN_MINUTES, policies=QUICK, key=INSTANCE, own=False)

    play.reschedule(65, EACH_MINUTE)
    backlog(play, 66)

    assert play.counts == {"succeeded": 2}


@pytest.mark.parametrize("missed", [Missed.ALL, Missed.LATEST, Missed.SKIP, Missed.FAST_FORWARD])
def test_only_the_kept_time_and_times_of_the_new_schedule_are_counted_as_dropped_after_an_edit(missed):
    play = Play(schedule=TEN_MINUTES, policies=replace(QUICK, missed=missed), key=INSTANCE, own=False)

    play.reschedule(65, EACH_MINUTE)
    backlog(play, 70)

    # One time was kept, and five came after the edit.
    assert sum(play.counts.values()) == 6


@given(
    old=st.integers(1, 7),
    new=st.integers(1, 7),
    edited_at=st.integers(0, 240),
    kind=st.sampled_from(sorted(EDITS)),
    missed=st.sampled_from(list(Missed)),
    interval=st.booleans(),
)
@example(old=5, new=1, edited_at=120, kind="reschedule", missed=Missed.ALL, interval=True)
def test_before_an_edit_only_a_time_of_the_old_schedule_runs(old, new, edited_at, kind, missed, interval):
    assume(not interval or old != new)
    play = Play(
        schedule=Interval(old * MINUTE), policies=replace(QUICK, missed=missed), key=INSTANCE, own=False
    )
    edited_at /= 4

    EDITS[kind](play, edited_at, Interval(new * MINUTE) if interval else Cron(f"*/{new} * * * *"))
    runs = backlog(play, edited_at + 10)

    assert [minute for minute in runs if minute <= edited_at] in ([], [old])


# --- However wrong the clock is --------------------------------------------------------------------------------------


FORBID = Policies(mode=Mode.AT_MOST_ONCE, missed=Missed.ALL)


@pytest.mark.parametrize("kind", ["edit", "force", "suspend and resume"])
@pytest.mark.parametrize("behind", [0.01, 0.4, 15])
@pytest.mark.parametrize("policies", [FORBID, replace(FORBID, mode=Mode.AT_LEAST_ONCE)])
def test_an_editor_whose_clock_is_behind_makes_no_ended_occurrence_due(kind, behind, policies):
    play = Play(schedule=EACH_MINUTE, policies=policies)
    play.run(1)
    play.run(2)

    if kind == "suspend and resume":
        play.edit(2 - behind, suspend=True)
        play.edit(2 - behind, suspend=False)
    else:
        EDITS[kind](play, 2 - behind, Cron("* * * * * 0"))

    assert play.due == 3


@pytest.mark.parametrize("behind", [0.01, 15])
def test_a_resume_after_exhaustion_makes_no_ended_occurrence_due(behind):
    policies = Policies(retry=Retry(max_attempts=1), exhausted=Exhaustion.SUSPEND, missed=Missed.ALL)
    play = Play(schedule=EACH_MINUTE, policies=policies)
    play.run(1, RAISED)

    play.resume(1 - behind)

    assert play.due == 2


def test_a_resource_that_returns_makes_no_occurrence_due_that_had_started_before_the_stop():
    play = Play(schedule=EACH_MINUTE, policies=FORBID)
    play.start(1)
    play.stop(1.1)

    play.edit(0.5)

    assert play.due == 2


def test_rescheduling_by_a_clock_that_is_behind_does_not_repeat_a_side_run():
    play = Play(schedule=EACH_MINUTE, policies=AT_MOST_ONCE, key=INSTANCE, own=False)
    play.run(1)

    play.reschedule(0.5, Cron("* * * * * 0"))

    assert play.due == 2


def test_an_extra_run_is_not_a_time_of_the_schedule_and_delays_no_edit():
    play = Play(schedule=Interval(HOUR))
    play.run_now(30)
    held = play.start(30)
    play.end(held, 30)

    play.edit(20, schedule=EACH_MINUTE)

    assert play.record.state.floor is None
    assert play.due == 21


@given(
    offset=st.integers(-900, 900),
    edited_at=st.integers(61, 300),
    kind=st.sampled_from(sorted(EDITS)),
    mode=st.sampled_from(list(Mode)),
    running=st.booleans(),
)
def test_no_time_runs_twice_whatever_the_editors_clock(offset, edited_at, kind, mode, running):
    policies = replace(FORBID, mode=mode)
    play = Play(schedule=EACH_MINUTE, policies=policies, key=INSTANCE, own=True)
    minutes = edited_at / 60
    backlog(play, int(minutes) - 1)
    held = play.start(minutes) if running else backlog(play, minutes) and None

    EDITS[kind](play, (edited_at + offset) / 60, Cron("* * * * * */2"))
    if held is not None:
        play.end(held, minutes)
    backlog(play, minutes + 20)

    called = [minute for minute, _ in play.called]
    assert sorted(set(called)) == called


# --- The time of a one-off is taken as given -------------------------------------------------------------------------


def test_a_one_off_that_replaces_a_schedule_is_due_at_its_own_time_even_after_a_later_run():
    play = Play(schedule=EACH_MINUTE)
    play.run(1)
    play.run(2)

    play.edit(1.2, schedule=Once(at(1.5)))

    assert play.due == 1.5


def test_a_one_off_at_a_time_that_has_already_run_does_not_run():
    play = Play(schedule=EACH_MINUTE)
    play.run(1)

    play.edit(0.5, schedule=Once(at(1)))

    assert play.due is None
    assert play.counts == {"succeeded": 1}


# --- A start that is released ----------------------------------------------------------------------------------------


def test_a_start_at_most_once_of_a_kept_time_is_due_again_after_its_release():
    play = Play(schedule=TEN_MINUTES, policies=FORBID, key=INSTANCE)
    play.reschedule(65, EACH_MINUTE)

    play.end(play.start(65.5), 65.6, UNSTARTED)

    assert play.due == 10
    assert play.start(65.7).scheduled_at == at(10)


def test_a_released_start_that_dropped_other_times_drops_them_again():
    play = Play(schedule=EACH_MINUTE, policies=replace(FORBID, missed=Missed.LATEST))

    play.end(play.start(5), 5, UNSTARTED)
    play.run(6)

    assert play.counts == {"succeeded": 1, "missed": 5}


def test_an_edit_that_leaves_the_schedule_alone_does_not_prevent_a_release():
    play = Play(schedule=EACH_MINUTE, policies=FORBID)
    held = play.start(1)

    play.edit(1.1, args='{"new":1}')
    play.end(held, 1.2, UNSTARTED)

    assert play.due == 1


def test_a_release_after_an_edit_of_the_schedule_keeps_the_due_time_of_the_edit():
    play = Play(schedule=EACH_MINUTE, policies=FORBID)
    held = play.start(1)

    play.edit(1.1, schedule=TEN_MINUTES)
    play.end(held, 1.2, UNSTARTED)

    assert play.due == 10
    assert play.record.state.floor is None


def test_a_one_off_whose_start_is_released_after_a_resume_is_due_again():
    play = Play(schedule=Once(at(5)), policies=FORBID)
    held = play.start(5)

    play.edit(5.1, suspend=True)
    play.edit(5.2, suspend=False)
    play.end(held, 5.3, UNSTARTED)

    assert play.due == 5
    assert play.start(5.4).scheduled_at == at(5)


def test_a_released_start_does_not_delay_an_edit():
    play = Play(schedule=EACH_MINUTE, policies=FORBID)
    play.end(play.start(1), 1, UNSTARTED)

    play.edit(0.5, schedule=Cron("* * * * * 0"))

    assert play.due == 1


def test_a_record_without_a_floor_is_read_as_one_that_has_started_nothing():
    play = Play()
    older = replace(
        play.record, version=play.record.version + 1, state=replace(play.record.state, floor=None)
    )
    assert play.put(Change(play.record, older))

    play.edit(0.5, schedule=EACH_MINUTE)

    assert play.due == 1


def test_a_side_run_that_is_released_before_its_first_attempt_is_due_at_once():
    play = Play(policies=Policies(overlap=Overlap.ALLOW))
    held = play.start(1)

    play.end(held, 1.1, UNSTARTED)

    assert [minute(record.claimable_at) for record in play.beside] == [1.1]
    assert play.start(1.1).attempt == 1


# --- One-offs that come while an occurrence is in progress -----------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
def test_a_one_off_in_the_past_that_is_set_in_mid_run_is_missed(mode):
    play = Play(schedule=EACH_MINUTE, policies=replace(FORBID, mode=mode, keep_finished=True))
    held = play.start(1)

    play.edit(3, schedule=Once(at(2)))
    play.end(held, 4)

    assert play.claimable is None
    assert play.counts == {"succeeded": 1, "missed": 1}


@pytest.mark.parametrize("mode", Mode)
def test_a_one_off_to_come_that_is_set_in_mid_run_runs_at_its_time(mode):
    play = Play(schedule=EACH_MINUTE, policies=replace(FORBID, mode=mode, keep_finished=True))
    held = play.start(1)

    play.edit(3, schedule=Once(at(5)))
    play.end(held, 4)
    play.run(5)

    assert play.called == [(1, 1), (5, 1)]


@pytest.mark.parametrize("missed", [Missed.ALL, Missed.FAST_FORWARD])
def test_a_one_off_of_the_past_that_is_scheduled_while_a_retry_waits_is_due_once_that_is_over(missed):
    play = Play(policies=replace(UNLOCK, missed=missed), key=INSTANCE, own=False)
    play.run(1, RAISED)

    play.reschedule(1.01, Once(at(0.5)))

    assert backlog(play, 2) == [1, 0.5]
    assert play.counts == {"succeeded": 2}


def test_a_one_off_at_a_time_that_has_run_is_another_occurrence_when_it_is_asked_for_again():
    play = Play(schedule=EACH_MINUTE, policies=AT_MOST_ONCE, key=INSTANCE, own=False)
    first = play.run(1)

    play.reschedule(1.2, Once(at(1)))
    second = play.run(1.2)

    assert second.scheduled_at == at(1)
    assert idempotency_key(second.record, at(1)) != idempotency_key(first.record, at(1))


def test_a_resource_that_returns_after_a_one_off_was_set_in_mid_run_still_runs_that():
    play = Play(schedule=EACH_MINUTE, policies=replace(FORBID, keep_finished=True))
    play.start(1)
    play.edit(1.1, schedule=Once(at(5)))
    play.stop(1.2)

    play.edit(2)

    assert play.due == 5
