"""An occurrence that is due while the one before it runs: both run, or it replaces it."""

from pyncette.core import rules
from pyncette.core.policies import jitter_of
from pyncette.core.record import replace
from pyncette.core.runs import NEVER, replaced_at, replacement_check_at, with_record
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Missed
from tests.core.play import (
    ALLOW,
    DRAINED,
    HOUR,
    LEASE,
    MINUTE,
    RAISED,
    REPLACE,
    REPLACED,
    STATIC,
    STEADY,
    Play,
    at,
)


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
