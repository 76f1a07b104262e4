"""How often an occurrence is tried, and what a worker that dies or drains leaves of an attempt."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.accounting import idempotency_key
from pyncette.core.record import replace
from pyncette.core.runs import with_record
from pyncette.core.spec import Missed, Policies
from tests.core.play import (
    COMMIT,
    DRAINED,
    LEASE,
    MINUTE,
    NONE,
    RAISED,
    REFUSED,
    RETURNED,
    STEADY,
    UNLOCK,
    UNSTARTED,
    Play,
    at,
)

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
