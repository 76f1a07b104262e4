"""What happens once all attempts failed: a suspension, or a dead letter and its redrive."""

import pytest

from pyncette.core import edits, rules
from pyncette.core.accounting import idempotency_key
from pyncette.core.record import replace
from pyncette.core.schedule import Once
from pyncette.core.spec import Exhaustion, Missed, Mode, Policies
from tests.core.play import (
    ALLOW,
    HOUR,
    INSTANCE,
    RAISED,
    REFUSED,
    STEADY,
    Play,
    at,
)


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


def suspended_in_mid_run() -> Play:
    """A run of the schedule has begun, and one beside it has suspended the schedule since."""
    play = Play(policies=Policies(exhausted=Exhaustion.SUSPEND, retry=STEADY), key=INSTANCE, own=False)
    play.start(1)
    play.run_now(1.1)
    exhausted(play, 1.1)
    assert play.record.state.exhausted
    return play


def test_a_run_in_progress_is_withdrawn_with_a_schedule_that_a_side_run_has_suspended():
    play = suspended_in_mid_run()

    play.stop(1.2)

    assert play.counts == {"failed": 1, "withdrawn": 1}


def test_a_run_in_progress_keeps_its_outcome_when_its_suspended_schedule_is_edited():
    play = suspended_in_mid_run()

    play.edit(1.2, args='{"a":1}')

    assert play.record.state.started is not None
    assert play.record.state.started.scheduled_at == at(1)


def test_nothing_is_missed_while_a_run_goes_on_whose_schedule_a_side_run_has_suspended():
    policies = Policies(exhausted=Exhaustion.SUSPEND, retry=STEADY, missed=Missed.FAST_FORWARD, lease=HOUR)
    play = Play(policies=policies)
    held = play.start(1)
    play.run_now(1.1)
    exhausted(play, 1.1)

    play.end(held, 5.5)

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
