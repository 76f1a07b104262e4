"""What a claim and the end of a run make of a record: every promise about the life of an occurrence."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.accounting import idempotency_key
from pyncette.core.policies import jitter_of, policies_of
from pyncette.core.record import Change, Outcome, Started, replace
from pyncette.core.runs import NEVER, Ended, Ending, replaced_at, replacement_check_at, with_record
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Retry
from tests.core.play import (
    AT_MOST_ONCE,
    COMMIT,
    DRAINED,
    EACH_MINUTE,
    FAST_FORWARD,
    HOUR,
    INSTANCE,
    MINUTE,
    NONE,
    RAISED,
    REFUSED,
    REPLACED,
    RETURNED,
    STATIC,
    T0,
    UNLOCK,
    UNSTARTED,
    Play,
    at,
    minute,
)

LEASE = 1
"""Minutes: the default lease."""

STEADY = Retry(max_attempts=3, initial=10 * SECOND, maximum=60 * SECOND, jitter=False)

ONCE_FORBID = Policies(mode=Mode.AT_MOST_ONCE)
ALLOW = Policies(overlap=Overlap.ALLOW)
REPLACE = Policies(overlap=Overlap.REPLACE, retry=STEADY)


# --- An ordinary run -------------------------------------------------------------------------------------------------


def test_a_run_that_returns_completes_its_occurrence_and_sets_the_next():
    play = Play()

    held = play.start(1)
    play.end(held, 1.5)

    assert (held.scheduled_at, held.attempt) == (at(1), 1)
    assert (play.due, play.claimable) == (2, 2)
    assert (play.record.lease, play.record.attempt, play.record.began_at) == (None, 0, None)
    assert play.counts == {"succeeded": 1}


def test_an_ordinary_run_needs_no_write_between_its_claim_and_its_end():
    play = Play()

    plan = rules.begin(play.claim(at(1)), play.policies, at(1))

    assert plan.changes == ()
    assert plan.run is not None


def test_what_is_claimed_late_keeps_its_nominal_time():
    play = Play()

    assert play.start(1.75).scheduled_at == at(1)


def test_the_next_occurrence_follows_from_the_one_that_ran_and_not_from_when_it_ended():
    play = Play(policies=replace(NONE))

    play.end(play.start(1.75), 1.9)

    assert play.due == 2


def test_a_record_that_is_never_due_again_is_not_claimable():
    play = Play(policies=Policies(not_after=at(1)))

    play.run(1)

    assert (play.due, play.claimable) == (None, None)


def test_a_claim_of_what_has_nothing_to_run_puts_the_record_to_rest():
    play = Play()
    broken = replace(play.record, due_at=None)
    play.records[play.key] = broken

    assert play.start(1) is None

    assert play.claimable is None
    assert play.record.lease is None


# --- Missed runs -----------------------------------------------------------------------------------------------------


def test_all_makes_up_for_missed_runs_one_by_one_each_at_its_own_time():
    play = Play(policies=Policies(missed=Missed.ALL))

    for _ in range(5):
        play.run(5.5)

    assert [scheduled for scheduled, _ in play.called] == [1, 2, 3, 4, 5]
    assert play.due == 6
    assert play.counts == {"succeeded": 5}


def test_all_makes_up_for_the_newest_only_and_counts_the_rest_as_missed():
    play = Play(policies=Policies(missed=Missed.ALL, max_catch_up=2))

    play.run(5.5)
    play.run(5.5)

    assert [scheduled for scheduled, _ in play.called] == [4, 5]
    assert play.counts == {"succeeded": 2, "missed": 3}


def test_latest_runs_the_latest_and_counts_those_before_it_as_missed():
    play = Play()

    play.run(5.5)

    assert play.called == [(5, 1)]
    assert play.due == 6
    assert play.counts == {"succeeded": 1, "missed": 4}


def test_skip_runs_nothing_late_and_moves_on_to_what_comes():
    play = Play(policies=Policies(missed=Missed.SKIP))

    assert play.run(5.5) is None

    assert play.due == 6
    assert play.counts == {"missed": 5}


def test_fast_forward_runs_the_stale_occurrence_and_continues_from_now():
    play = Play(policies=FAST_FORWARD)

    play.run(5.5)

    assert play.called == [(1, 1)]
    assert play.due == 6


def test_what_fast_forward_passes_over_is_missed_and_counted():
    play = Play(policies=FAST_FORWARD)

    play.run(5.5)

    assert play.counts == {"succeeded": 1, "missed": 4}


def test_fast_forward_runs_what_is_due_at_this_very_instant():
    play = Play(policies=FAST_FORWARD)

    play.run(5)

    assert play.due == 5
    assert play.counts == {"succeeded": 1, "missed": 3}


def test_fast_forward_in_time_drops_nothing():
    play = Play(policies=FAST_FORWARD)

    play.run(1)

    assert (play.due, play.counts) == (2, {"succeeded": 1})


def test_what_was_dropped_is_counted_once_however_often_the_run_is_tried():
    play = Play(policies=Policies(retry=STEADY))

    play.run(5.5, RAISED)
    held = play.start(6.5)
    play.end(held, 6.6)

    assert held.scheduled_at == at(5)
    assert play.counts == {"succeeded": 1, "missed": 4}


def test_a_starting_deadline_skips_and_counts_what_passed_it():
    play = Play(policies=Policies(starting_deadline=15 * SECOND))

    assert play.run(1.5) is None

    assert play.due == 2
    assert play.counts == {"skipped": 1}


def test_a_starting_deadline_is_for_first_starts_only():
    play = Play(policies=Policies(starting_deadline=15 * SECOND, retry=STEADY))

    play.run(1, RAISED)
    second = play.start(30)

    assert (second.scheduled_at, second.attempt) == (at(1), 2)


@pytest.mark.parametrize("policies", [Policies(starting_deadline=15 * SECOND), Policies(missed=Missed.SKIP)])
def test_a_run_that_a_drain_interrupts_has_started_in_time_and_is_not_skipped(policies):
    play = Play(policies=policies)

    play.end(play.start(1), 1.8, DRAINED)
    again = play.start(1.8)

    assert (again.scheduled_at, again.attempt) == (at(1), 1)


def test_a_deadline_counts_from_nominal_plus_jitter():
    play = Play(schedule=Interval(HOUR), policies=Policies(jitter=30 * MINUTE, starting_deadline=MINUTE))
    jitter = jitter_of(STATIC, play.policies)
    assert jitter > 2 * MINUTE

    late = rules.begin(play.claim(at(60) + jitter + MINUTE + 1), play.policies, at(60))
    in_time = rules.begin(replace(late.move.before, began_at=at(60) + jitter + MINUTE), play.policies, at(60))

    assert late.run is None
    assert in_time.run.scheduled_at == at(60)


# --- Jitter and window -----------------------------------------------------------------------------------------------


def test_jitter_is_in_claimable_at_alone_and_what_is_due_stays_nominal():
    play = Play(schedule=Interval(HOUR), policies=Policies(jitter=30 * MINUTE))
    jitter = minute(T0 + jitter_of(STATIC, play.policies))

    held = play.run(60 + jitter)

    assert held.scheduled_at == at(60)
    assert play.due == 120
    assert play.claimable == pytest.approx(120 + jitter)


def test_times_outside_of_the_window_are_no_occurrences():
    play = Play(policies=Policies(not_before=at(3), not_after=at(4)))

    assert play.claimable == 3
    play.run(3)
    play.run(9)

    assert [scheduled for scheduled, _ in play.called] == [3, 4]
    assert play.claimable is None
    assert play.counts == {"succeeded": 2}


def test_a_backlog_ends_with_the_window():
    play = Play(policies=Policies(starting_deadline=SECOND, not_after=at(4)))

    assert play.run(9) is None

    assert (play.due, play.counts) == (None, {"missed": 3, "skipped": 1})


# --- Attempts --------------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again_after_the_backoff_with_its_time_and_key():
    play = Play(policies=Policies(retry=STEADY))

    first = play.run(1, RAISED)
    assert play.claimable == 1 + 10 / 60
    second = play.run(1.5, RAISED)
    assert play.claimable == pytest.approx(1.5 + 20 / 60)
    third = play.run(2)

    assert play.called == [(1, 1), (1, 2), (1, 3)]
    keys = {idempotency_key(held.record, held.scheduled_at) for held in (first, second, third)}
    assert len(keys) == 1
    assert play.counts == {"succeeded": 1}


def test_forbid_waits_for_the_outcome_backoff_included():
    play = Play(policies=Policies(retry=replace(STEADY, initial=20 * MINUTE, maximum=20 * MINUTE)))

    play.run(1, RAISED)

    assert play.claimable == 21
    assert play.start(20) is None


def test_spent_attempts_fail_the_occurrence_and_the_next_one_goes_on():
    play = Play(policies=Policies(retry=STEADY, missed=Missed.ALL))

    for minutes in (1, 2, 3):
        play.run(minutes, RAISED)

    assert play.counts == {"failed": 1}
    assert (play.due, play.claimable) == (2, 2)
    assert play.record.state.summary.last_message == "ValueError: no"


def test_no_attempts_means_no_limit():
    play = Play(policies=Policies(retry=replace(STEADY, max_attempts=0)))

    for number in range(49):
        play.run(1 + number * 2, RAISED)

    assert play.called[-1] == (1, 49)
    assert play.counts == {}


def test_do_not_retry_fails_at_the_first_attempt():
    play = Play(policies=Policies(retry=STEADY))

    play.run(1, REFUSED)

    assert play.counts == {"failed": 1}
    assert play.due == 2


def test_retry_after_takes_the_place_of_the_backoff():
    play = Play(policies=Policies(retry=STEADY))

    play.run(1, RAISED._replace(retry_after=7 * MINUTE))

    assert play.claimable == 8


def test_retry_after_does_not_add_attempts():
    play = Play(policies=Policies(retry=replace(STEADY, max_attempts=2)))

    play.run(1, RAISED._replace(retry_after=MINUTE))
    play.run(2, RAISED._replace(retry_after=MINUTE))

    assert play.counts == {"failed": 1}


def test_an_expired_lease_counts_as_an_attempt():
    play = Play()

    play.start(1)

    assert play.start(1.5) is None
    assert play.start(1 + LEASE).attempt == 2


def test_a_handler_that_kills_its_worker_is_exhausted_in_the_end():
    play = Play(policies=Policies(retry=STEADY))

    for number in range(1, 4):
        play.start(number * 10)
    assert play.start(40) is None

    assert [attempt for _, attempt in play.called] == [1, 2, 3]
    assert play.counts["failed"] == 1
    assert "died in the last of 3 attempts" in play.record.state.summary.last_message
    assert play.record.state.summary.last_attempts == 3


def test_a_worker_that_died_is_taken_over_with_the_same_choice():
    play = Play()

    first = play.start(5.5)
    second = play.start(60)

    assert (first.scheduled_at, first.dropped) == (second.scheduled_at, second.dropped)
    assert second.attempt == 2


def test_a_drain_gives_the_attempt_back_and_others_may_go_on_at_once():
    play = Play(policies=Policies(retry=STEADY))

    for _ in range(5):
        play.end(play.start(1), 1, DRAINED)
    held = play.start(1)

    assert held.attempt == 1
    assert play.counts == {}


def test_a_drain_of_a_retry_gives_back_that_attempt_only():
    play = Play(policies=Policies(retry=STEADY))

    play.run(1, RAISED)
    play.run(2, DRAINED)
    held = play.start(2)

    assert (held.scheduled_at, held.attempt) == (at(1), 2)


def test_a_claim_that_no_handler_was_called_for_is_as_if_it_had_not_been():
    play = Play(policies=Policies(starting_deadline=15 * SECOND))
    before = play.record

    play.end(play.start(1), 1, UNSTARTED)

    unlike = {"version": play.record.version, "fence": play.record.fence}
    assert play.record == replace(before, **unlike)
    assert play.start(1.5) is None
    assert play.counts == {"skipped": 1}


def test_a_claim_that_an_edit_has_taken_back_does_not_come_back_as_something_started():
    play = Play()
    held = play.start(1)
    edited = replace(play.record, version=play.record.version + 1, attempt=0, began_at=None, due_at=at(5))

    after = rules.settle(with_record(held, edited), UNSTARTED, at(2)).change.after

    assert (after.due_at, after.state.started, after.lease) == (at(5), None, None)


def test_an_unstarted_takeover_remembers_that_the_attempt_before_it_may_have_run():
    play = Play(policies=Policies(starting_deadline=15 * SECOND))

    play.start(1)
    play.end(play.start(3), 3, UNSTARTED)
    held = play.start(3)

    assert (held.scheduled_at, held.attempt) == (at(1), 2)


# --- Leases and fences -----------------------------------------------------------------------------------------------


def test_the_old_holder_cannot_complete_after_a_takeover():
    play = Play()
    old = play.start(1)
    new = play.start(3)

    assert not play.end(old, 3.1)
    assert play.end(new, 3.2)
    assert play.counts == {"succeeded": 1}


def test_a_lease_that_expired_and_was_not_taken_over_is_still_held():
    play = Play()
    held = play.start(1)

    assert play.end(held, 30)


def test_fence_and_version_grow_with_each_claim():
    play = Play()

    fences = [play.start(number * 5).record.fence for number in range(1, 4)]

    assert fences == sorted(set(fences))
    assert play.record.fence >= T0


# --- Failure modes of the Python API ---------------------------------------------------------------------------------


def test_none_writes_nothing_when_a_run_raises_and_the_lease_expires():
    play = Play(policies=NONE)
    held = play.start(1)
    before = play.record

    play.end(held, 1.1, RAISED)

    assert play.record == before
    assert play.start(1.9) is None
    assert play.start(2).attempt == 2


def test_unlock_is_tried_again_after_the_poll_interval_without_a_limit():
    play = Play(policies=UNLOCK)

    for number in range(1, 30):
        play.run(number, RAISED)
        assert play.record.claimable_at == at(number) + SECOND

    assert {scheduled for scheduled, _ in play.called} == {1}


def test_commit_completes_what_raised():
    play = Play(policies=COMMIT)

    play.run(1, RAISED)

    assert play.due == 2
    assert play.counts == {"failed": 1}


@pytest.mark.parametrize("policies", [NONE, UNLOCK, COMMIT])
def test_whatever_the_failure_mode_a_dead_worker_is_taken_over_after_its_lease(policies):
    play = Play(policies=policies)

    for number in range(1, 10):
        assert play.start(number * 5).scheduled_at == at(1)

    play.end(play.start(60), 60, RETURNED)
    assert play.counts == {"succeeded": 1}


# --- Exhaustion ------------------------------------------------------------------------------------------------------


def exhausted(play: Play, minutes: float = 1) -> None:
    play.run(minutes, REFUSED)


def test_exhaustion_suspends_until_a_resume_and_counts_from_then():
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND))

    exhausted(play)
    assert play.record.state.exhausted
    assert play.claimable is None
    play.resume(10.5)

    assert not play.record.state.exhausted
    assert play.claimable == 11
    assert play.counts == {"failed": 1}


def test_a_resume_of_what_is_not_exhausted_changes_nothing():
    play = Play()

    assert edits.resumed(play.record, play.policies, at(10)) is play.record


def test_exhaustion_of_a_worker_that_dies_suspends_too():
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND, retry=replace(STEADY, max_attempts=1)))

    play.start(1)
    assert play.start(5) is None

    assert play.record.state.exhausted


def test_exhaustion_of_a_side_run_suspends_its_schedule():
    play = Play(policies=replace(ALLOW, exhausted=Exhaustion.SUSPEND))

    exhausted(play)

    assert play.record.state.exhausted
    assert play.claimable is None
    assert play.counts == {"failed": 1}


def test_exhaustion_of_a_side_run_lets_a_run_in_progress_go_on_to_its_outcome():
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND, retry=STEADY))
    held = play.start(1)
    play.run_now(1.1)

    exhausted(play, 1.1)
    play.end(held, 1.2, RAISED)
    assert play.claimable is not None
    play.run(2)

    assert play.claimable is None
    assert play.counts == {"failed": 1, "succeeded": 1}


def test_exhaustion_of_one_instance_suspends_no_other():
    play = Play(
        schedule=Once(at(1)), policies=Policies(exhausted=Exhaustion.SUSPEND), key=INSTANCE, own=False
    )

    exhausted(play)

    (template,) = play.records.values()
    assert not template.state.exhausted
    assert play.counts == {"failed": 1}


LETTER = Policies(exhausted=Exhaustion.DEAD_LETTER, retry=STEADY)


def test_a_dead_letter_is_kept_and_its_schedule_goes_on():
    play = Play(policies=LETTER)

    exhausted(play)

    (dead_letter,) = play.dead_letters
    assert (dead_letter.due_at, dead_letter.claimable_at) == (at(1), None)
    assert play.due == 2
    assert play.counts == {"dead_lettered": 1}


def test_a_dead_letter_is_redriven_with_all_its_attempts_its_time_and_its_key():
    play = Play(policies=LETTER, args='{"to":"ada"}')
    play.run(1, RAISED)
    original = play.run(2, REFUSED)

    play.redrive(10)
    key = play.dead_letters[0].key
    redriven = [play.start(10, key)]
    play.end(redriven[0], 10, RAISED)
    redriven.append(play.start(11, key))

    assert [(held.scheduled_at, held.attempt) for held in redriven] == [(at(1), 1), (at(1), 2)]
    assert redriven[0].record.spec.args == original.record.spec.args
    assert len({idempotency_key(h.record, h.scheduled_at) for h in (original, *redriven)}) == 1


def test_a_dead_letter_that_is_redriven_succeeds_and_its_occurrence_has_that_outcome():
    play = Play(policies=LETTER)
    exhausted(play)

    play.redrive(1.1)
    play.run(1.1)

    assert play.dead_letters == []
    assert play.counts == {"succeeded": 1}


@pytest.mark.parametrize("mode", Mode)
def test_a_dead_letter_whose_redrive_fails_stays_one_and_can_be_redriven_again(mode):
    play = Play(policies=replace(LETTER, mode=mode))
    exhausted(play)

    for number in (1.1, 1.2):
        play.redrive(number)
        exhausted(play, number)

    (dead_letter,) = play.dead_letters
    assert dead_letter.claimable_at is None
    assert play.counts == {"dead_lettered": 1}
    play.redrive(1.3)
    assert play.run(1.3).scheduled_at == at(1)
    assert play.counts == {"succeeded": 1}


def test_a_dead_letter_that_is_being_redriven_is_not_redriven_again():
    play = Play(policies=LETTER)
    exhausted(play)
    play.redrive(1.1)

    held = play.start(1.1)

    assert edits.redriven(play.dead_letters[0], at(1.2)) is play.dead_letters[0]
    assert play.end(held, 1.3)


def test_dead_letters_of_a_name_that_is_used_again_for_the_same_time_do_not_collide():
    play = Play(schedule=Once(at(1)), policies=LETTER, key=INSTANCE, own=False)
    exhausted(play)

    play.reschedule(2, Once(at(1)))
    exhausted(play, 2)

    assert len(play.dead_letters) == 2
    assert play.counts == {"dead_lettered": 2}


def test_a_crash_between_a_dead_letter_and_its_completion_repeats_harmlessly():
    play = Play(policies=LETTER)
    held = play.start(1)
    completion = rules.settle(held, REFUSED, at(1))
    play.put(rules.Change(None, completion.created))

    for number in (3, 5, 7):
        play.start(number)

    assert len(play.dead_letters) == 1
    assert play.counts["dead_lettered"] == 1
    assert completion.change is not None


def test_a_dead_letter_of_a_run_on_demand_differs_from_that_of_the_schedule():
    play = Play(policies=LETTER)
    play.run_now(1)

    exhausted(play)
    exhausted(play)

    assert len(play.dead_letters) == 2
    keys = {idempotency_key(dead_letter, dead_letter.due_at) for dead_letter in play.dead_letters}
    assert len(keys) == 2


# --- Two at once -----------------------------------------------------------------------------------------------------


def test_allow_runs_the_next_occurrence_while_the_one_before_runs():
    play = Play(policies=ALLOW)

    first = play.start(1)
    second = play.start(2)

    assert [first.scheduled_at, second.scheduled_at] == [at(1), at(2)]
    assert play.due == 3
    assert play.end(second, 2.5)
    assert play.end(first, 2.6)
    assert play.beside == []
    assert play.counts == {"succeeded": 2}


def test_allow_creates_what_runs_before_its_schedule_moves_on():
    play = Play(policies=ALLOW)

    plan = rules.begin(play.claim(at(1)), play.policies, at(1))

    creation, move = plan.changes
    assert creation.before is None
    assert creation.after == plan.run.record
    assert (move.before.key, move.after.due_at) == (play.key, at(2))


def test_a_crash_before_the_schedule_moves_on_repeats_harmlessly():
    play = Play(policies=ALLOW)
    plan = rules.begin(play.claim(at(1)), play.policies, at(1))
    play.put(plan.changes[0])

    assert play.start(3, play.key) is None
    held = play.start(3, play.beside[0].key)
    play.end(held, 3)

    assert play.called == [(1, 2)]
    assert (play.due, play.counts) == (2, {"succeeded": 1})


def test_a_side_run_is_retried_and_taken_over_on_its_own():
    play = Play(policies=replace(ALLOW, retry=STEADY))

    play.run(1, RAISED)
    assert play.due == 2
    play.start(1.5)
    held = play.start(1.5 + LEASE, play.beside[0].key)

    assert (held.scheduled_at, held.attempt) == (at(1), 3)


def test_a_drain_releases_a_side_run_at_once():
    play = Play(policies=ALLOW)

    play.end(play.start(1), 1.2, DRAINED)
    held = play.start(1.2)

    assert (held.scheduled_at, held.attempt) == (at(1), 1)


def test_replace_completes_the_run_as_replaced_when_the_next_occurrence_is_due():
    play = Play(policies=REPLACE)

    held = play.start(1)
    assert replaced_at(held) == at(2)
    play.end(held, 2, REPLACED)

    assert play.counts == {"replaced": 1}
    assert play.start(2).scheduled_at == at(2)


def test_replace_takes_the_place_of_a_dead_holder_when_its_lease_expires():
    play = Play(policies=replace(REPLACE, lease=5 * MINUTE))
    play.start(1)

    assert play.start(5) is None
    assert play.start(6) is None

    assert play.counts == {"replaced": 1}
    assert play.start(6).scheduled_at == at(6)


def test_replace_goes_on_with_a_dead_holder_s_occurrence_if_the_next_is_not_due():
    play = Play(schedule=Interval(HOUR), policies=REPLACE)
    play.start(60)

    assert play.start(70).attempt == 2


def test_replace_does_not_wait_for_a_backoff():
    play = Play(policies=replace(REPLACE, retry=replace(STEADY, initial=HOUR, maximum=HOUR)))

    play.run(1, RAISED)

    assert play.claimable == 2
    assert play.start(2) is None
    assert play.counts == {"replaced": 1}
    assert play.start(2).scheduled_at == at(2)


def test_replace_counts_from_nominal_plus_jitter():
    play = Play(schedule=Interval(HOUR), policies=replace(REPLACE, jitter=30 * MINUTE))

    held = play.start(119)

    assert replaced_at(held) == at(120) + jitter_of(STATIC, play.policies)


def test_replace_starts_nothing_that_is_replaced_already():
    play = Play(policies=replace(REPLACE, missed=Missed.ALL))

    for _ in range(4):
        assert play.start(5) is None
    held = play.start(5)

    assert held.scheduled_at == at(5)
    assert play.counts == {"replaced": 4}
    assert len(play.calls) == 1


def test_nothing_replaces_what_has_started_while_it_is_suspended():
    play = Play(policies=replace(REPLACE, lease=5 * MINUTE))
    held = play.start(1)

    play.edit(1.5, suspend=True)
    held = with_record(held, play.record)

    assert replaced_at(held) == NEVER
    assert replacement_check_at(held, at(3.5)) == at(4)
    assert play.start(6).attempt == 2


def test_what_was_resumed_in_mid_run_is_replaced_by_the_first_occurrence_since():
    play = Play(policies=replace(REPLACE, lease=30 * MINUTE))
    held = play.start(1)
    play.edit(1.5, suspend=True)

    play.edit(7.5, suspend=False)

    assert replaced_at(with_record(held, play.record)) == at(8)


def test_nothing_replaces_the_last_occurrence():
    play = Play(schedule=Once(at(1)), policies=REPLACE)

    assert replaced_at(play.start(1)) == NEVER


# --- At most once ----------------------------------------------------------------------------------------------------


def test_at_most_once_the_start_is_written_and_the_schedule_moved_before_the_handler_is_called():
    play = Play(policies=ONCE_FORBID)

    plan = rules.begin(play.claim(at(1)), play.policies, at(1))

    (change,) = plan.changes
    assert change.after.due_at == at(2)
    assert change.after.state.started.scheduled_at == at(1)
    assert plan.run.record == change.after


def test_at_most_once_forbid_keeps_the_record_leased_until_the_outcome():
    play = Play(policies=ONCE_FORBID)
    held = play.start(1)

    play.renew(held, at(1.9))
    assert play.start(2.5) is None
    play.end(held, 2.6)

    assert play.counts == {"succeeded": 1}
    assert play.start(2.6).scheduled_at == at(2)


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW, Overlap.REPLACE])
def test_at_most_once_a_dead_worker_s_occurrence_is_lost_and_not_run_again(overlap):
    play = Play(schedule=Interval(HOUR), policies=replace(ONCE_FORBID, overlap=overlap))
    play.start(60)

    assert play.start(62) is None

    assert play.counts == {"lost": 1}
    assert len(play.calls) == 1
    assert play.start(120).scheduled_at == at(120)


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW])
@pytest.mark.parametrize("ended", [RAISED, RAISED._replace(retry_after=SECOND), REFUSED])
def test_at_most_once_what_raised_has_failed(overlap, ended):
    play = Play(policies=replace(ONCE_FORBID, overlap=overlap))

    play.run(1, ended)

    assert play.counts == {"failed": 1}
    assert play.start(1.9) is None


def test_at_most_once_a_run_that_a_drain_cancels_is_lost():
    play = Play(policies=ONCE_FORBID)

    play.run(1, DRAINED)

    assert play.counts == {"lost": 1}


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW])
def test_at_most_once_an_occurrence_whose_handler_was_not_called_is_released_and_runs(overlap):
    play = Play(policies=replace(ONCE_FORBID, overlap=overlap, starting_deadline=HOUR, missed=Missed.LATEST))

    play.end(play.start(3.5), 3.5, UNSTARTED)
    held = play.start(3.6)
    play.end(held, 3.6)

    assert held.scheduled_at == at(3)
    assert play.counts == {"succeeded": 1, "missed": 2}


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW])
def test_an_occurrence_claimed_ahead_and_released_before_it_is_due_waits_for_its_time(overlap):
    play = Play(policies=replace(ONCE_FORBID, overlap=overlap))

    play.end(play.start(1), 0.9, UNSTARTED)

    (claimable,) = [record.claimable_at for record in play.records.values() if record.due_at == at(1)]
    assert claimable == at(1)


SINCE_RELEASED = {
    "edited": lambda play: play.edit(3.7, schedule=Interval(2 * MINUTE)),
    "rescheduled": lambda play: play.reschedule(3.7, Interval(2 * MINUTE)),
    "overwritten": lambda play: play.overwrite(3.7, Interval(2 * MINUTE)),
    "suspended": lambda play: play.edit(3.7, suspend=True),
    "exhausted": lambda play: play.put(
        Change(
            play.record,
            replace(
                play.record, version=play.record.version + 1, state=replace(play.record.state, exhausted=True)
            ),
        )
    ),
}


@pytest.mark.parametrize("since_released", SINCE_RELEASED)
def test_at_most_once_a_released_side_run_is_withdrawn_if_its_schedule_names_it_no_longer(since_released):
    play = Play(policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside

    SINCE_RELEASED[since_released](play)

    assert play.start(3.8, released.key) is None
    assert play.called == [(1, 1)]
    assert play.beside == []
    assert play.counts == {"withdrawn": 1}


def released_side_run(**policies):
    """Start the first occurrence at most once beside its schedule, and release it unstarted."""
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW, **policies))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    return play, released.key


def test_a_released_side_run_is_withdrawn_by_a_reschedule_that_keeps_the_sooner_time():
    play, key = released_side_run()

    play.reschedule(1.2, Interval(2 * MINUTE))

    assert play.due == 2
    assert play.start(1.5, key) is None
    assert play.counts == {"withdrawn": 1}


def test_a_released_side_run_is_withdrawn_by_an_exhaustion_that_has_ended():
    play, key = released_side_run()
    state = replace(play.record.state, exhausted=True)
    play.put(Change(play.record, replace(play.record, version=play.record.version + 1, state=state)))

    play.resume(1.2)

    assert play.start(1.5, key) is None


@pytest.mark.parametrize("args", ["{}", '{"a":1}'])
def test_a_released_side_run_runs_although_its_schedule_was_requested_again(args):
    play, key = released_side_run()

    play.reschedule(1.2, EACH_MINUTE, args)

    assert play.start(1.5, key).scheduled_at == at(1)


def test_a_released_side_run_is_withdrawn_if_its_template_is_suspended():
    play, key = released_side_run()
    suspended = policies_of(play.records[key], replace(play.policies, suspend=True))
    claimed = play.claim(at(1.5), key)

    plan = rules.with_parent(rules.begin(claimed, suspended, at(1.5)), play.record, at(1.5))

    assert plan.run is None


def test_a_released_side_run_is_withdrawn_once_its_resource_is_deleted():
    play, key = released_side_run()

    play.stop(1.2)

    assert play.start(1.5, key) is None


def test_a_released_side_run_is_withdrawn_once_it_lies_outside_of_the_window():
    play, key = released_side_run()

    play.edit(1.2, not_before=at(10))

    assert play.start(1.5, key) is None
    assert play.counts == {"withdrawn": 1}


def test_a_released_side_run_that_is_removed_is_counted_as_withdrawn():
    play, key = released_side_run()

    play.remove(1.2, key)

    assert play.counts == {"withdrawn": 1}


def released_one_off():
    """Start a one-off at most once, which removes its record, and release it unstarted."""
    play = Play(schedule=Once(at(1)), key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    held = play.start(1)
    assert INSTANCE not in play.records
    play.end(held, 1, UNSTARTED)
    return play, held


def test_the_instance_of_a_released_one_off_is_restored_and_the_one_off_runs():
    play, held = released_one_off()

    assert (play.due, play.claimable, play.beside) == (1, 1, [])
    again = play.start(1.5)
    play.end(again, 1.6)

    assert again.scheduled_at == at(1)
    assert again.record.fence > held.record.fence
    assert INSTANCE not in play.records
    assert play.beside == []


def test_a_restored_one_off_does_not_bring_back_the_schedule_before_it():
    play, key = released_side_run()
    play.reschedule(1.2, Once(at(3)))
    held = play.start(3, INSTANCE)
    play.end(held, 3, UNSTARTED)

    assert play.start(3.5, key) is None
    assert play.start(3.5).scheduled_at == held.scheduled_at


def test_a_released_one_off_can_be_removed_and_rescheduled():
    play, _ = released_one_off()

    play.reschedule(1.2, Once(at(3)))
    assert play.due == 1
    play.remove(1.3)

    assert play.start(4) is None


def test_a_released_one_off_is_withdrawn_if_its_name_was_scheduled_again_during_its_start():
    play = Play(schedule=Once(at(1)), key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    held = play.start(1)
    play.reschedule(1.1, Once(at(3)))

    play.end(held, 1.2, UNSTARTED)

    assert (play.due, play.beside) == (3, [])
    assert play.counts == {"withdrawn": 1}


def test_the_last_occurrence_in_a_window_is_released_and_runs():
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW, not_after=at(1.5)))
    play.end(play.start(1), 1, UNSTARTED)

    assert play.start(1.2).scheduled_at == at(1)


def test_at_most_once_a_released_side_run_does_not_run_once_its_instance_is_removed():
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside

    play.remove(1.2)

    assert play.start(1.5, released.key) is None
    assert play.beside == []


def test_at_most_once_a_released_side_run_does_not_run_for_an_instance_that_was_created_again():
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    play.remove(1.2)
    play.reschedule(1.3, play.schedule)

    assert play.start(1.5, released.key) is None


@pytest.mark.parametrize("edit", [{"args": '{"a":1}'}, {"mode": Mode.AT_LEAST_ONCE}])
def test_at_most_once_a_released_side_run_runs_after_an_edit_that_leaves_its_schedule_alone(edit):
    play = Play(policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    play.edit(1.2, **edit)
    assert play.put(Change(released, edits.in_step(released, play.record, play.policies)))

    held = play.start(1.5, released.key)
    play.end(held, 1.6)

    assert held.scheduled_at == at(1)
    assert play.counts == {"succeeded": 1}


def test_an_edit_at_the_moment_of_the_start_of_a_released_side_run_makes_the_start_fail():
    play = Play(policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    claimed = play.claim(at(1.5), released.key)
    plan = rules.begin(claimed, play.policies, at(1.5))

    plan = rules.with_parent(plan, play.record, at(1.5))
    play.edit(1.5, schedule=Interval(2 * MINUTE))

    assert not play.put(plan.parent_move)


def test_at_most_once_a_claim_that_died_before_the_start_was_written_is_no_start():
    play = Play(policies=ONCE_FORBID)
    play.claim(at(1))

    held = play.start(1 + LEASE)

    assert (held.scheduled_at, held.attempt) == (at(1), 1)
    play.end(held, 2.1)
    assert play.record.state.summary.last_attempts == 1


def test_at_most_once_of_the_python_api_locks_nothing_while_it_runs():
    play = Play(policies=AT_MOST_ONCE, key=INSTANCE, own=False)

    first = play.start(1)
    assert play.record.lease is None
    assert play.start(2).scheduled_at == at(2)

    assert play.end(first, 2.5)


def test_at_most_once_an_edit_to_at_least_once_in_mid_run_does_not_run_it_again():
    play = Play(policies=ONCE_FORBID)
    play.start(1)

    play.edit(1.2, mode=Mode.AT_LEAST_ONCE)
    assert play.start(2.2) is None

    assert play.counts == {"lost": 1}
    assert len(play.calls) == 1


def test_at_most_once_an_edit_of_schedule_and_mode_in_mid_run_counts_from_its_own_time():
    play = Play(policies=ONCE_FORBID)
    held = play.start(1)

    play.edit(1.25, mode=Mode.AT_LEAST_ONCE, schedule=Interval(HOUR))
    play.end(held, 1.5)

    assert play.due == 61.25
    assert play.counts == {"succeeded": 1}


def test_at_most_once_an_edit_between_claim_and_start_loses_nothing_and_runs_once():
    play = Play(policies=ONCE_FORBID)
    claimed = play.claim(at(1))

    play.edit(1, args='{"new":1}')
    assert play.begin(claimed, at(1)) is None
    assert play.begin(play.record, at(1)) is None
    held = play.start(1)

    assert held.scheduled_at == at(1)
    assert bytes(held.record.spec.args) == b'{"new":1}'
    assert play.counts == {}


def test_at_most_once_an_edit_of_the_schedule_between_claim_and_start_runs_nothing_too_early():
    play = Play(policies=ONCE_FORBID)
    claimed = play.claim(at(1))

    play.edit(1.1, schedule=Interval(HOUR))
    assert play.begin(claimed, at(1.1)) is None
    assert play.begin(play.record, at(1.1)) is None

    assert (play.due, play.claimable) == (61.1, 61.1)
    assert play.record.lease is None
    assert play.calls == []


def test_an_edit_to_at_most_once_in_mid_run_lets_that_run_go_on_as_it_began():
    play = Play(policies=Policies(retry=STEADY))
    held = play.start(1)

    play.edit(1.2, mode=Mode.AT_MOST_ONCE)
    play.end(held, 1.3, RAISED)
    second = play.start(1.9)
    play.end(second, 1.9)

    assert play.called == [(1, 1), (1, 2)]
    assert play.counts == {"succeeded": 1}
    assert play.start(2).scheduled_at == at(2)


def test_an_edit_to_at_most_once_in_mid_run_does_not_make_the_completed_run_due_again():
    play = Play()
    held = play.start(1)

    play.edit(1.2, mode=Mode.AT_MOST_ONCE)
    play.end(held, 1.3)

    assert play.due == 2


# --- One-offs --------------------------------------------------------------------------------------------------------


def test_a_one_off_of_the_python_api_is_removed_when_it_completes_and_its_template_counts_it():
    play = Play(schedule=Once(at(1)), policies=NONE, key=INSTANCE, own=False)

    play.run(1)

    assert play.key not in play.records
    assert play.counts == {"succeeded": 1}


@pytest.mark.parametrize("policies", [NONE, AT_MOST_ONCE])
def test_a_one_off_leaves_nothing_of_its_name_behind(policies):
    play = Play(schedule=Once(at(1)), policies=policies, key=INSTANCE, own=False)

    play.run(1)

    assert [key.instance for key in play.records] == [""]
    assert play.counts == {"succeeded": 1}


def test_a_one_off_of_a_resource_is_kept_finished_and_never_runs_again():
    play = Play(schedule=Once(at(1)), policies=Policies(keep_finished=True))

    play.run(1)

    assert (play.due, play.claimable) == (None, None)
    for minutes in (2, 60):
        play.edit(minutes, args=f'{{"n":{minutes}}}')
        assert play.claimable is None


def test_a_one_off_that_is_removed_as_skipped_is_counted_at_its_template():
    policies = replace(NONE, starting_deadline=MINUTE)
    play = Play(schedule=Once(at(1)), policies=policies, key=INSTANCE, own=False)

    assert play.run(5) is None

    assert play.key not in play.records
    assert play.counts == {"skipped": 1}


def test_a_one_off_whose_worker_died_runs_again_and_once_it_returned_never():
    play = Play(schedule=Once(at(1)), policies=NONE, key=INSTANCE, own=False)
    old = play.start(1)
    new = play.start(3)

    assert play.end(new, 3)
    assert not play.end(old, 4)
    assert play.claimables(at(1000)) == []


# --- Templates -------------------------------------------------------------------------------------------------------


def test_an_instance_of_a_suspended_template_moves_on_without_a_run_and_needs_no_waking():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    play.edit_template(suspend=True)

    assert play.start(3.5) is None
    assert play.claimable == 4
    play.edit_template(suspend=False)
    held = play.start(4)

    assert held.scheduled_at == at(4)
    assert play.counts == {}


def test_an_instance_that_completes_while_its_template_is_suspended_stays_claimable():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    held = play.start(1)

    play.edit_template(suspend=True)
    play.end(replace(held, policies=play.policies), 1.5)

    assert play.claimable == 2


def test_an_instance_that_is_declared_while_its_template_is_suspended_is_claimable():
    play = Play(policies=replace(NONE, suspend=True), key=INSTANCE, own=False)

    assert play.claimable == 1


def test_a_started_occurrence_goes_on_although_its_template_was_suspended():
    play = Play(policies=UNLOCK, key=INSTANCE, own=False)
    play.run(1, RAISED)

    play.edit_template(suspend=True)

    assert play.start(2).attempt == 2


def test_a_dead_worker_s_occurrence_goes_on_although_its_template_was_suspended():
    play = Play(policies=UNLOCK, key=INSTANCE, own=False)
    play.start(1)

    play.edit_template(suspend=True)

    assert play.start(3).attempt == 2


def test_a_one_off_whose_time_comes_while_its_template_is_suspended_is_missed():
    play = Play(schedule=Once(at(1)), policies=replace(NONE, suspend=True), key=INSTANCE, own=False)

    assert play.start(1) is None

    assert play.counts == {"missed": 1}


def test_an_instance_follows_the_window_that_its_template_got_meanwhile():
    play = Play(policies=NONE, key=INSTANCE, own=False)
    play.edit_template(not_before=at(3))

    assert play.start(2) is None
    assert play.claimable == 3
    assert play.start(3).scheduled_at == at(3)
    assert play.counts == {}


# --- Runs on demand --------------------------------------------------------------------------------------------------


def test_a_run_on_demand_is_one_extra_run_now_and_moves_no_schedule():
    play = Play(args='{"a":1}')
    play.run_now(0.5)

    held = play.start(0.5)
    play.end(held, 0.6)

    assert held.scheduled_at == at(0.5)
    assert bytes(held.record.spec.args) == b'{"a":1}'
    assert play.beside == []
    assert (play.due, play.counts) == (1, {"succeeded": 1})


@pytest.mark.parametrize("ended", [DRAINED, UNSTARTED, RAISED])
@pytest.mark.parametrize("mode", Mode)
def test_a_run_on_demand_of_what_is_suspended_goes_on_to_its_outcome(ended, mode):
    play = Play(policies=Policies(suspend=True, mode=mode, retry=STEADY))
    play.run_now(1)

    play.run(1, ended)
    play.run(2)

    assert play.beside == []
    assert sum(play.counts.values()) == 1


def test_a_run_on_demand_has_no_deadline_window_or_jitter():
    policies = Policies(starting_deadline=SECOND, jitter=HOUR, not_after=at(1), missed=Missed.SKIP)
    play = Play(policies=policies)
    play.run_now(10)

    assert play.start(15).scheduled_at == at(10)


def test_a_run_on_demand_at_the_very_time_of_an_occurrence_is_another_occurrence():
    play = Play()
    play.run_now(1)

    keys = {idempotency_key(h.record, h.scheduled_at) for h in (play.start(1), play.start(1))}

    assert len(keys) == 2


def test_a_run_on_demand_of_a_replace_task_is_replaced_by_nothing():
    play = Play(policies=REPLACE)
    play.run_now(0.5)

    assert replaced_at(play.start(0.5)) == NEVER


# --- Recomputed choices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missed", Missed)
def test_the_choice_of_a_claim_is_the_same_whenever_it_is_recomputed_from_the_record(missed):
    play = Play(policies=Policies(missed=missed, max_catch_up=3))
    record = play.claim(at(7) + SECOND)

    now, later = (rules.begin(record, play.policies, when) for when in (at(7), at(1000)))

    assert now.run.scheduled_at == later.run.scheduled_at
    assert now.run.dropped == later.run.dropped
    expected = Started(now.run.scheduled_at, at(7) + SECOND, now.run.dropped)
    assert edits.started_of(record, play.policies) == expected


def test_each_ending_has_one_outcome_or_none_yet():
    by_ending = {
        Ending.RETURNED: Outcome.SUCCEEDED,
        Ending.RAISED: None,
        Ending.REFUSED: Outcome.FAILED,
        Ending.REPLACED: Outcome.REPLACED,
        Ending.DRAINED: None,
        Ending.UNSTARTED: None,
    }

    for ending in Ending:
        play = Play()
        play.run(1, Ended(ending))
        assert play.record.state.summary.last_outcome == by_ending[ending]
