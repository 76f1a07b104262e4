"""What a claim and the end of a run make of a record: every promise about the life of an occurrence."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.record import Outcome, Started, replace
from pyncette.core.runs import Ended, Ending
from pyncette.core.spec import Missed, Policies
from tests.core.play import (
    NONE,
    T0,
    Play,
    at,
)

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
