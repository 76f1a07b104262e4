"""What becomes of occurrences that are late, moved by jitter, or outside of the window."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.policies import jitter_of
from pyncette.core.record import replace
from pyncette.core.schedule import Interval
from pyncette.core.spec import Missed, Policies
from tests.core.play import (
    DRAINED,
    FAST_FORWARD,
    HOUR,
    MINUTE,
    RAISED,
    STATIC,
    STEADY,
    T0,
    Play,
    at,
    minute,
)

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
