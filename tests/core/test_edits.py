"""What becomes of a record that is created, edited, stopped, resumed or overwritten, whatever it is doing."""

import pytest

from pyncette.app.modes import datetime_of
from pyncette.clock import SECOND
from pyncette.core import edits
from pyncette.core.accounting import idempotency_key
from pyncette.core.edits import Locked
from pyncette.core.policies import jitter_of
from pyncette.core.record import Owner, replace
from pyncette.core.schedule import Cron, Interval, Once
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Retry, Spec
from tests.core.play import (
    AT_MOST_ONCE,
    DEFAULTS,
    HOUR,
    INSTANCE,
    MINUTE,
    NONE,
    RAISED,
    REFUSED,
    STATIC,
    T0,
    UNLOCK,
    Play,
    at,
    minute,
)

STEADY = Retry(initial=10 * SECOND, maximum=10 * SECOND, jitter=False)


def created(schedule, policies=DEFAULTS, **options):
    return edits.created(STATIC, Spec(schedule, policies=policies), policies, T0, **options)


# --- Creation --------------------------------------------------------------------------------------------------------


def test_a_new_record_is_due_at_the_first_time_after_now():
    record = created(Cron("0 0 * * *"))

    assert minute(record.due_at) == 24 * 60
    assert (record.attempt, record.lease, record.began_at) == (0, None, None)


def test_an_interval_counts_from_the_moment_of_scheduling():
    assert minute(created(Interval(90 * SECOND)).due_at) == 1.5


def test_version_and_fence_of_a_new_record_start_at_the_store_s_clock():
    record = created(Interval(MINUTE))

    assert (record.version, record.fence, record.state.created_version) == (T0, T0, T0)


def test_a_one_off_in_the_past_is_due_at_once():
    assert minute(created(Once(at(-100))).claimable_at) == -100


@pytest.mark.parametrize(
    ("schedule", "policies"),
    [(Interval(MINUTE), Policies(not_after=at(0.5))), (Once(at(5)), Policies(not_before=at(6)))],
)
def test_what_has_no_time_in_its_window_is_never_due(schedule, policies):
    record = created(schedule, policies)

    assert (record.due_at, record.claimable_at) == (None, None)


def test_what_is_created_suspended_is_not_claimable():
    assert created(Interval(MINUTE), Policies(suspend=True)).claimable_at is None


@pytest.mark.parametrize(
    ("deadline", "seconds_old", "misses"),
    [(None, 60, False), (None, 61, True), (5 * SECOND, 5, False), (5 * SECOND, 6, True), (HOUR, 61, False)],
)
def test_a_one_off_that_was_too_old_when_its_resource_was_created_is_missed_and_says_so(
    deadline, seconds_old, misses
):
    schedule, policies = Once(at(-10)), Policies(starting_deadline=deadline, keep_finished=True)

    record = created(schedule, policies, requested_at=at(-10) + seconds_old * SECOND)

    assert (record.due_at is None) == misses
    assert record.state.summary.counts.missed == misses


def test_a_one_off_whose_resource_was_seen_late_is_not_missed_for_that():
    record = created(Once(at(-10)), Policies(), requested_at=at(-11))

    assert minute(record.claimable_at) == -10


# --- Edits -----------------------------------------------------------------------------------------------------------


def test_an_edit_that_leaves_the_schedule_alone_leaves_the_next_run_alone():
    play = Play(schedule=Interval(HOUR))

    play.edit(59, args='{"new":1}', retry=STEADY, missed=Missed.ALL)

    assert (play.due, play.claimable) == (60, 60)
    assert bytes(play.record.spec.args) == b'{"new":1}'


def test_an_edit_that_leaves_the_schedule_alone_leaves_what_is_overdue_alone():
    play = Play(schedule=Interval(HOUR))

    play.edit(70, args='{"new":1}')

    assert play.start(70).scheduled_at == at(60)


def test_an_edit_of_the_schedule_takes_effect_from_its_own_time():
    play = Play(schedule=Interval(HOUR))

    play.edit(30, schedule=Interval(20 * MINUTE))

    assert (play.due, play.claimable) == (50, 50)


def test_an_edit_of_the_schedule_never_fires_retroactively():
    play = Play(schedule=Cron("0 0 1 1 *"), policies=Policies(missed=Missed.ALL))

    play.edit(90.5, schedule=Cron("* * * * *"))

    assert play.start(90.9) is None
    assert play.start(91).scheduled_at == at(91)
    assert play.record.state.started is None


def test_what_was_overdue_when_its_schedule_was_edited_is_no_occurrence_any_more():
    play = Play(schedule=Interval(HOUR))

    play.edit(70, schedule=Interval(2 * HOUR))

    assert play.due == 190
    assert play.counts == {}


def test_an_edit_in_mid_run_lets_the_occurrence_go_on_in_any_worker():
    play = Play(schedule=Interval(HOUR))
    play.start(60)

    play.edit(60.5, schedule=Interval(10 * MINUTE))
    held = play.start(62)
    play.end(held, 62)

    assert (held.scheduled_at, held.attempt) == (at(60), 2)
    assert play.due == 70.5


def test_an_edit_in_mid_run_is_settled_on_top_of_the_edit():
    play = Play(schedule=Interval(HOUR))
    held = play.start(60)

    play.edit(60.5, schedule=Interval(10 * MINUTE))
    play.end(held, 60.75)

    assert play.due == 70.5
    assert play.counts == {"succeeded": 1}


def test_nothing_is_due_between_the_run_and_an_edit_of_its_schedule_in_mid_run():
    play = Play(schedule=Interval(MINUTE), policies=Policies(missed=Missed.ALL, lease=HOUR))
    held = play.start(1)

    play.edit(30.5, schedule=Cron("* * * * *"))
    play.end(held, 30.75)

    assert play.due == 31


def test_an_edit_in_mid_retry_keeps_the_occurrence_and_runs_the_new_arguments():
    play = Play(schedule=Interval(HOUR), policies=Policies(retry=STEADY))
    first = play.run(60, RAISED)

    play.edit(60.1, schedule=Interval(10 * MINUTE), args='{"new":1}')
    second = play.start(61)

    assert (second.scheduled_at, second.attempt) == (at(60), 2)
    assert bytes(second.record.spec.args) == b'{"new":1}'
    assert idempotency_key(first.record, at(60)) == idempotency_key(second.record, at(60))
    play.end(second, 61)
    assert play.due == 70.1


def test_an_edit_of_the_policies_in_mid_run_does_not_change_which_occurrence_it_is():
    play = Play()
    held = play.start(5.5)
    assert held.scheduled_at == at(5)

    play.edit(5.6, missed=Missed.ALL, jitter=30 * SECOND)
    taken_over = play.start(7)

    assert (taken_over.scheduled_at, taken_over.dropped) == (at(5), held.dropped)
    play.end(taken_over, 7)
    assert play.counts == {"succeeded": 1, "missed": 4}


def test_an_edit_of_the_retry_policy_holds_for_the_attempts_to_come():
    play = Play(policies=Policies(retry=replace(STEADY, max_attempts=2)))
    held = play.start(1)

    play.edit(1.1, retry=replace(STEADY, max_attempts=1))
    play.end(held, 1.2, RAISED)

    assert play.counts == {"failed": 1}


def test_an_edit_to_replace_in_mid_backoff_does_not_wait_for_that():
    play = Play(policies=Policies(retry=Retry(initial=HOUR, maximum=HOUR, jitter=False)))
    play.run(1, RAISED)

    play.edit(1.5, overlap=Overlap.REPLACE)

    assert play.claimable == 2
    assert play.start(2) is None
    assert play.counts == {"replaced": 1}


def test_an_edit_while_a_claim_that_runs_nothing_is_written_does_not_run_the_future():
    play = Play(policies=Policies(starting_deadline=SECOND))
    claimed = play.claim(at(1.5))

    play.edit(1.5, schedule=Interval(HOUR))
    assert play.begin(claimed, at(1.5)) is None
    assert play.begin(play.record, at(1.5)) is None

    assert play.claimable == 61.5
    assert play.calls == []


def test_an_edit_of_the_jitter_moves_when_it_is_claimable_and_not_when_it_is_due():
    play = Play(schedule=Interval(HOUR))

    play.edit(30, jitter=10 * MINUTE)

    assert play.due == 60
    assert play.record.claimable_at == at(60) + jitter_of(STATIC, play.policies)


def test_an_edit_of_the_lease_holds_from_the_next_claim():
    play = Play()

    play.edit(0.5, lease=HOUR)

    assert play.claim(at(1)).lease.expires_at == at(61)


@pytest.mark.parametrize(
    ("window", "due"),
    [
        ({"not_before": at(90)}, 120),
        ({"not_after": at(40)}, None),
        ({"not_after": at(60)}, 60),
        ({"not_before": at(20)}, 60),
    ],
)
def test_an_edit_of_the_window_moves_the_next_run_into_it(window, due):
    play = Play(schedule=Interval(HOUR))

    play.edit(30, **window)

    assert (play.due, play.claimable) == (due, due)


def test_a_window_that_is_opened_lets_a_schedule_go_on_that_was_over():
    play = Play(schedule=Interval(HOUR), policies=Policies(not_after=at(100), keep_finished=True))
    play.run(60)
    assert play.due is None

    play.edit(150, not_after=None)

    assert play.due == 180


def test_a_window_that_is_opened_earlier_brings_the_next_run_forward():
    play = Play(schedule=Interval(HOUR), policies=Policies(not_before=at(600)))

    play.edit(30, not_before=None)

    assert play.due == 60


def test_an_overdue_occurrence_within_the_new_window_is_kept():
    play = Play(schedule=Interval(HOUR))

    play.edit(70, not_after=at(200))

    assert play.due == 60


# --- Suspension ------------------------------------------------------------------------------------------------------


def test_suspension_stops_what_has_not_started():
    play = Play()

    play.edit(0.5, suspend=True)

    assert play.claimable is None


def test_a_resume_counts_from_now_and_times_while_suspended_are_no_occurrences():
    play = Play(policies=Policies(missed=Missed.ALL))
    play.edit(0.5, suspend=True)

    play.edit(30.5, suspend=False)

    assert (play.due, play.claimable) == (31, 31)
    assert play.counts == {}


def test_a_resume_leaves_an_interval_in_step():
    play = Play(schedule=Interval(HOUR))
    play.edit(70, suspend=True)

    play.edit(75, suspend=False)

    assert play.due == 120


def test_a_started_occurrence_goes_on_to_its_outcome_although_it_was_suspended():
    play = Play(policies=Policies(retry=STEADY))
    held = play.start(1)

    play.edit(1.1, suspend=True)
    play.end(held, 1.2, RAISED)
    play.run(2)

    assert play.called == [(1, 1), (1, 2)]
    assert play.claimable is None
    assert play.counts == {"succeeded": 1}


@pytest.mark.parametrize("mode", Mode)
def test_times_while_suspended_in_mid_run_are_no_occurrences(mode):
    play = Play(policies=Policies(missed=Missed.ALL, lease=HOUR, mode=mode))
    held = play.start(1)

    play.edit(2.5, suspend=True)
    play.edit(30.5, suspend=False)
    play.end(held, 30.75)

    assert (play.due, play.claimable) == (31, 31)
    assert play.counts == {"succeeded": 1}


def test_fast_forward_misses_nothing_while_it_is_suspended_in_mid_run():
    play = Play(policies=Policies(missed=Missed.FAST_FORWARD, lease=HOUR))
    held = play.start(1)

    play.edit(1.5, suspend=True)
    play.end(held, 30.5)
    play.edit(40.5, suspend=False)

    assert play.due == 41
    assert play.counts == {"succeeded": 1}


def test_an_edit_of_something_else_does_not_resume():
    play = Play()
    play.edit(0.5, suspend=True)

    play.edit(5, args='{"new":1}')

    assert play.claimable is None


def test_a_new_generation_ends_a_suspension_by_exhaustion():
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND))
    play.run(1, REFUSED)

    play.edit(9.5, retry=STEADY)

    assert play.claimable == 10


def test_the_same_generation_seen_again_does_not_end_a_suspension_by_exhaustion():
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND))
    play.run(1, REFUSED)
    owner = Owner("uid", 1, "hash")
    owned = replace(play.record, state=replace(play.record.state, owner=owner))

    same = edits.edited(owned, play.spec, play.policies, at(9.5), owner=owner)
    newer = edits.edited(owned, play.spec, play.policies, at(9.5), owner=Owner("uid", 2, "hash"))

    assert (same.claimable_at, same.state.exhausted) == (None, True)
    assert minute(newer.claimable_at) == 10


def test_a_resume_in_mid_run_counts_from_now():
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND, retry=STEADY, lease=HOUR))
    held = play.start(1)
    play.run_now(1.1)
    play.run(1.1, REFUSED)
    assert play.record.state.exhausted

    play.resume(30.5)
    play.end(held, 30.75)

    assert play.claimable == 31


# --- One-offs --------------------------------------------------------------------------------------------------------

KEPT = Policies(keep_finished=True)


def test_a_one_off_that_is_edited_to_a_later_time_runs_then():
    play = Play(schedule=Once(at(5)), policies=KEPT)

    play.edit(1, schedule=Once(at(10)))

    assert play.claimable == 10


def test_a_finished_one_off_runs_again_only_at_a_new_time_to_come():
    play = Play(schedule=Once(at(5)), policies=KEPT)
    play.run(5)

    play.edit(6, schedule=Once(at(10)))
    play.run(10)

    assert play.called == [(5, 1), (10, 1)]


def test_a_one_off_that_is_edited_into_the_past_is_missed_and_says_so():
    play = Play(schedule=Once(at(50)), policies=KEPT)

    play.edit(10, schedule=Once(at(5)))

    assert play.claimable is None
    assert play.counts == {"missed": 1}


def test_a_one_off_that_is_edited_away_and_back_does_not_run_twice():
    play = Play(schedule=Once(at(5)), policies=KEPT)
    play.run(5)

    play.edit(6, schedule=Once(at(50)))
    play.edit(7, schedule=Once(at(5)))

    assert play.claimable is None
    assert play.counts == {"succeeded": 1}


def test_a_one_off_whose_time_passed_while_it_was_suspended_is_missed_and_says_so():
    play = Play(schedule=Once(at(5)), policies=KEPT)
    play.edit(1, suspend=True)

    play.edit(10, suspend=False)

    assert play.claimable is None
    assert play.counts == {"missed": 1}


def test_a_one_off_that_is_resumed_before_its_time_runs():
    play = Play(schedule=Once(at(5)), policies=KEPT)
    play.edit(1, suspend=True)

    play.edit(2, suspend=False)

    assert play.claimable == 5


@pytest.mark.parametrize("mode", Mode)
def test_a_one_off_that_is_resumed_in_mid_run_ends_once(mode):
    play = Play(schedule=Once(at(5)), policies=replace(KEPT, mode=mode))
    held = play.start(5)

    play.edit(5.1, suspend=True)
    play.edit(5.2, suspend=False)
    play.end(held, 5.3)

    assert play.claimable is None
    assert play.counts == {"succeeded": 1}


def test_a_schedule_that_becomes_a_one_off_and_back_goes_on():
    play = Play(schedule=Interval(HOUR))

    play.edit(10, schedule=Once(at(20)))
    play.run(20)
    play.edit(30, schedule=Interval(HOUR))

    assert play.due == 90


# --- Withdrawal ------------------------------------------------------------------------------------------------------


def test_what_is_stopped_is_not_claimable_and_its_run_loses_the_lease_and_is_withdrawn():
    play = Play(policies=Policies(keep_failed=10))
    held = play.start(5.5)

    play.stop(6)

    assert play.claimable is None
    assert not play.end(held, 6.5)
    assert play.counts == {"withdrawn": 1, "missed": 4}
    assert [(run.outcome.value, run.count) for run in play.runs] == [("missed", 4), ("withdrawn", 1)]


@pytest.mark.parametrize("own", [True, False])
def test_what_is_removed_or_overwritten_between_runs_has_not_been_withdrawn(own):
    play = Play(key=INSTANCE, own=own)
    play.run(1)

    play.overwrite(1.5, Interval(HOUR))
    play.remove(1.6)

    assert play.counts == {"succeeded": 1}


def test_a_claim_that_has_started_nothing_is_not_withdrawn():
    play = Play(policies=AT_MOST_ONCE, key=INSTANCE, own=False)
    claimed = play.claim(at(1))

    play.stop(1)
    assert play.begin(claimed, at(1)) is None
    assert play.begin(play.record, at(1)) is None

    assert (play.record.lease, play.claimable) == (None, None)
    assert play.counts == {}


def test_a_resource_that_returns_within_the_grace_loses_nothing():
    play = Play(schedule=Interval(HOUR))
    play.run(60)
    play.stop(61)

    play.edit(62)

    assert (play.due, play.claimable) == (120, 120)
    assert play.counts == {"succeeded": 1}


def test_an_edit_just_before_an_occurrence_that_was_claimed_ahead_does_not_make_it_due_once_more():
    play = Play(policies=Policies(mode=Mode.AT_MOST_ONCE))
    held = play.start(1)

    play.edit(0.9, schedule=Cron("* * * * *"))
    assert play.due == 2

    assert play.end(held, 1.1)
    assert play.start(2).scheduled_at == at(2)
    assert play.counts == {"succeeded": 1}


def test_nor_does_rescheduling_just_before_a_side_run_that_was_claimed_ahead():
    play = Play(schedule=Cron("* * * * *"), policies=AT_MOST_ONCE, key=INSTANCE, own=False)
    play.end(play.start(1), 1)

    assert play.reschedule(0.9, Cron("* * * * *")) is None

    assert play.due == 2


def test_a_resource_that_returns_later_goes_on_from_then():
    play = Play(schedule=Interval(HOUR), policies=Policies(missed=Missed.ALL))
    play.stop(1)

    play.edit(500)

    assert play.due == 540


def test_what_is_stopped_again_waits_no_longer_for_its_removal():
    play = Play()

    play.stop(1)
    play.stop(5)

    assert play.record.state.withdrawn_at == at(1)


def test_a_one_off_that_was_withdrawn_in_mid_run_does_not_run_again_when_its_resource_returns():
    play = Play(schedule=Once(at(5)), policies=KEPT)
    play.start(5)
    play.stop(5.5)

    play.edit(6)

    assert play.claimable is None
    assert play.counts == {"withdrawn": 1}


def test_an_instance_that_is_removed_in_mid_run_is_withdrawn_and_counted_by_its_template():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    play.run(1)
    held = play.start(2)

    play.remove(2.5)

    assert not play.end(held, 2.6)
    assert play.counts == {"succeeded": 1, "withdrawn": 1}


# --- The Python API --------------------------------------------------------------------------------------------------


def test_rescheduling_keeps_the_sooner_of_the_old_and_the_new_next_time():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)

    play.reschedule(50, Interval(2 * HOUR), '{"new":1}')
    assert play.claimable == 60
    play.reschedule(51, Interval(MINUTE))
    assert play.claimable == 52


def test_rescheduling_an_interval_again_and_again_does_not_starve_it():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)

    for minutes in (10, 20, 59):
        play.reschedule(minutes, Interval(HOUR))
    play.run(60)

    assert play.claimable == 120


@pytest.mark.parametrize(
    ("schedule", "following"),
    [(Interval(2 * HOUR), 60 + 120), (Cron("0 * * * *"), 120), (Cron("45 * * * *"), 105)],
)
def test_after_the_sooner_time_the_new_schedule_goes_on(schedule, following):
    play = Play(schedule=Once(at(60)), policies=NONE, key=INSTANCE, own=False)

    play.reschedule(46, schedule)
    play.run(60)

    assert play.called == [(60, 1)]
    assert play.claimable == following


def test_a_one_off_that_is_postponed_runs_at_the_sooner_time_and_once():
    play = Play(schedule=Once(at(5)), policies=NONE, key=INSTANCE, own=False)

    play.reschedule(1, Once(at(50)))
    play.run(5)

    assert play.called == [(5, 1)]
    assert play.claimables(at(1000)) == []
    assert play.counts == {"succeeded": 1}


@pytest.mark.parametrize(
    ("old", "new", "due"),
    [
        (Once(at(5)), Once(at(50)), 50),
        (Once(at(50)), Once(at(5)), 5),
        (Once(at(5)), Once(at(-5)), -5),
        (Interval(HOUR), Interval(2 * HOUR), 121),
        (Interval(HOUR), Once(at(90)), 90),
        (Interval(HOUR), Interval(HOUR), 60),
        (Once(at(5)), Once(at(5)), 5),
    ],
)
def test_an_edit_that_replaces_forgets_the_old_time_unless_the_schedule_is_the_same(old, new, due):
    play = Play(schedule=old, policies=NONE, key=INSTANCE, own=False)

    play.reschedule(1, new, keep_sooner=False)

    assert (play.due, play.claimable) == (due, due)


def test_what_is_overdue_is_not_made_up_for_once_another_schedule_replaces_its_own():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)

    play.reschedule(70, Interval(2 * HOUR), keep_sooner=False)

    assert play.claimable == 190


def test_what_waits_to_be_tried_again_goes_on_under_the_schedule_that_replaces_its_own():
    play = Play(schedule=Interval(HOUR), policies=UNLOCK, key=INSTANCE, own=False)
    play.run(60, RAISED)

    play.reschedule(60.5, Interval(2 * HOUR), keep_sooner=False)
    play.run(61)

    assert play.called == [(60, 1), (60, 2)]
    assert play.claimable == 180.5


def test_what_is_overdue_stays_due_when_it_is_rescheduled():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)

    play.reschedule(70, Interval(HOUR))
    play.run(70)

    assert play.called == [(60, 1)]
    assert play.claimable == 120


@pytest.mark.parametrize("keep_sooner", [True, False])
def test_a_reschedule_that_ends_a_suspension_counts_from_then(keep_sooner):
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE)
    play.edit(10, suspend=True)

    play.policies = NONE
    play.reschedule(150, Interval(HOUR), keep_sooner=keep_sooner)

    assert play.claimable == 210


def test_a_reschedule_that_ends_a_suspension_by_dropping_its_own_policies_counts_from_then():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE)
    play.edit(10, suspend=True)

    play.own, play.policies = False, NONE
    play.reschedule(150, Interval(HOUR))

    assert play.claimable == 210


def test_a_one_off_that_passed_during_a_suspension_is_due_at_once_when_it_is_rescheduled():
    play = Play(schedule=Once(at(60)), policies=NONE, key=INSTANCE)
    play.edit(10, suspend=True)

    play.policies = NONE
    play.reschedule(150, Once(at(60)))

    assert play.claimable == 60


def test_a_reschedule_that_suspends_again_is_not_claimable():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE)
    play.edit(10, suspend=True)

    play.reschedule(20, Interval(HOUR))

    assert play.record.claimable_at is None


def test_a_reschedule_does_not_keep_a_time_outside_of_its_window():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE)

    play.policies = replace(NONE, not_before=at(100))
    play.reschedule(10, Interval(HOUR))

    assert play.claimable == 130


def test_rescheduling_what_runs_is_refused_and_says_until_when():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    play.start(1)

    assert play.reschedule(1.5, Interval(HOUR)) == Locked(at(2))


def test_rescheduling_what_waits_to_be_tried_again_gives_that_the_new_arguments():
    play = Play(policies=UNLOCK, key=INSTANCE, own=False)
    play.run(1, RAISED)

    assert play.reschedule(1, Interval(HOUR), '{"new":1}') is None
    held = play.start(2)
    play.end(held, 2)

    assert (held.scheduled_at, held.attempt) == (at(1), 2)
    assert bytes(held.record.spec.args) == b'{"new":1}'
    assert play.claimable == 61


def test_rescheduling_after_a_lease_expired_goes_on_with_what_the_dead_worker_left():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    play.start(1)

    assert play.reschedule(5, Interval(HOUR)) is None

    assert play.start(5).attempt == 2


def test_at_most_once_is_never_locked_not_even_between_claim_and_start():
    play = Play(policies=AT_MOST_ONCE, key=INSTANCE, own=False)
    claimed = play.claim(at(1))

    assert play.reschedule(1, Interval(HOUR)) is None
    assert play.begin(claimed, at(1)) is None
    assert play.begin(play.record, at(1)) is None

    assert play.start(1).scheduled_at == at(1)
    assert play.due == 61


def test_rescheduling_ends_a_suspension_by_exhaustion_from_now():
    policies = replace(NONE, exhausted=Exhaustion.SUSPEND)
    play = Play(policies=policies, key=INSTANCE, own=False)
    play.run(1, REFUSED)
    assert play.claimable is None

    play.reschedule(10, Interval(MINUTE))

    assert play.claimable == 11


def test_force_overwrites_all_and_a_running_handler_loses_its_lease():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)
    held = play.start(60)

    play.overwrite(61, Interval(2 * HOUR))

    assert play.claimable == 181
    assert not play.end(held, 62)
    assert play.counts == {"withdrawn": 1}


def test_force_does_not_keep_the_sooner_time():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)

    play.overwrite(50, Interval(HOUR))

    assert play.claimable == 110


def test_force_leaves_fence_and_version_growing():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    held = play.start(1)

    play.overwrite(1.5, Interval(MINUTE))

    assert play.record.version > held.record.version
    assert play.record.fence >= held.record.fence


def test_force_takes_version_and_fence_from_the_clock_also_if_the_schedule_counts_from_later():
    play = Play(schedule=Interval(HOUR), policies=NONE, key=INSTANCE, own=False)
    play.start(60)

    play.overwrite(50, Interval(HOUR))  # by a clock that has gone back

    assert play.claimable == 120
    assert (play.record.version, play.record.fence, play.record.state.created_version) == (
        at(50),
        at(50),
        at(50),
    )


# --- Identity --------------------------------------------------------------------------------------------------------


def key_of_run_at_5(play: Play) -> str:
    held = play.start(5)
    assert held.scheduled_at == at(5)
    return idempotency_key(held.record, held.scheduled_at)


def test_the_idempotency_key_differs_after_recreation():
    play = Play(schedule=Once(at(5)), policies=NONE, key=INSTANCE, own=False)
    before = key_of_run_at_5(play)
    play.remove(5)

    play.reschedule(5.5, Once(at(5)))

    assert key_of_run_at_5(play) != before


def test_the_idempotency_key_differs_after_force():
    play = Play(schedule=Once(at(5)), policies=NONE, key=INSTANCE, own=False)
    before = key_of_run_at_5(play)

    play.overwrite(5.5, Once(at(5)))

    assert key_of_run_at_5(play) != before


@pytest.mark.parametrize("policies", [NONE, AT_MOST_ONCE])
def test_scheduling_a_name_again_in_mid_run_starts_afresh(policies):
    play = Play(schedule=Once(at(5)), policies=policies, key=INSTANCE, own=False)
    first = play.start(5)
    if play.key in play.records:
        play.overwrite(5, Once(at(5)))
    else:
        play.reschedule(5.1, Once(at(5)))

    second = play.start(5.2)

    assert second is not None
    assert idempotency_key(first.record, at(5)) != idempotency_key(second.record, at(5))


def test_a_recreated_record_is_not_mistaken_for_the_old_one():
    play = Play(schedule=Once(at(5)), policies=NONE, key=INSTANCE, own=False)
    old = play.start(5)
    play.remove(5)
    play.reschedule(5.5, Once(at(5)))

    new = play.start(5.5)

    assert not play.end(old, 6)
    assert new.record.version > old.record.version
    assert new.record.fence > old.record.fence


def test_a_side_run_is_not_mistaken_for_an_earlier_one_of_the_same_name():
    play = Play(policies=Policies(overlap=Overlap.ALLOW))
    play.run_now(1, name="x")
    old = play.start(1, play.beside[0].key)
    play.remove(1, old.record.key)
    play.run_now(1.1, name="x")

    assert not play.end(old, 1.1)
    assert play.beside[0].version > old.record.version


def test_a_side_run_is_shown_in_the_zone_of_its_schedule():
    record = created(Cron("0 12 * * *", "Europe/Dublin"))

    extra = edits.on_demand(record, DEFAULTS, "x", T0)

    assert extra.spec.schedule == Once(T0, "Europe/Dublin")
    assert str(datetime_of(T0, extra.spec.schedule).tzinfo) == "Europe/Dublin"
