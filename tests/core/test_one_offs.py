"""One-offs run once, and are kept or removed afterwards."""

import pytest

from pyncette.core.record import replace
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies
from tests.core.play import (
    AT_MOST_ONCE,
    INSTANCE,
    MINUTE,
    NONE,
    Play,
    at,
)


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
