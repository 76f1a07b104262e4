"""Instances follow their template: its suspension and its window."""

import pytest

from pyncette.core.record import replace
from pyncette.core.schedule import Once
from tests.core.play import (
    INSTANCE,
    NONE,
    RAISED,
    UNLOCK,
    Play,
    at,
)


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


@pytest.mark.parametrize("template", [{"not_after": at(0.5)}, {"suspend": True}], ids=["window", "suspended"])
def test_an_edit_of_an_instance_that_was_claimed_but_is_passed_over_starts_nothing(template):
    play = Play(key=INSTANCE, own=False)
    play.edit_template(**template)
    play.claim(at(1))

    play.edit(1, args='{"a":1}')

    assert play.record.state.started is None
