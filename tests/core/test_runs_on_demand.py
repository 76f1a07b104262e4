"""A run on demand is one extra run now, and moves no schedule."""

import pytest

from pyncette.clock import SECOND
from pyncette.core.accounting import idempotency_key
from pyncette.core.runs import NEVER, replaced_at
from pyncette.core.spec import Missed, Mode, Policies
from tests.core.play import (
    DRAINED,
    HOUR,
    RAISED,
    REPLACE,
    STEADY,
    UNSTARTED,
    Play,
    at,
)


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
