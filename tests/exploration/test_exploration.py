"""Every history of a few actors, in which no promise may be broken; and the behaviour of before, which must be found."""

from collections.abc import Sequence
from itertools import product

import pytest

from pyncette.core.spec import Overlap

from .combination import Combination, Depth, depths_of, pairwise
from .exploring import explore
from .mutants import MUTANTS
from .search import Search


@pytest.mark.parametrize("combination", pairwise(), ids=str)
def test_no_promise_is_broken_in_any_short_history(combination, record_property):
    record_property("states", explore_to(combination, [shallow(combination)]))


@pytest.mark.long
@pytest.mark.parametrize("combination", pairwise(), ids=str)
def test_no_promise_is_broken_in_any_longer_history(combination, record_property):
    record_property("states", explore_to(combination, depths_of(combination)))


def shallow(combination: Combination) -> Depth:
    return Depth(0 if combination.records > 1 else 1, 1)


def explore_to(combination: Combination, depths: Sequence[Depth]) -> int:
    states = 0
    for depth in depths:
        found = explore(combination._replace(occurrences=depth.occurrences), depth.faults)
        assert found.broken is None, found.broken
        assert found.is_complete
        states += found.states
    print(f"{states:,} states of {combination}")
    return states


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_behaviour_of_before_is_found(mutant):
    whole = explore(mutant.combination, mutant.faults)

    found = mutant.explored()

    assert whole.broken is None, whole.broken
    assert found.broken is not None


def test_a_search_sees_the_same_states_each_time():
    combination = pairwise()[0]._replace(occurrences=1)

    seen = [Search(combination, 1).explore().states for _ in range(2)]

    assert seen[0] == seen[1] > 1


def test_pairs_of_all_values_meet():
    chosen = pairwise()
    apart = [(Overlap.ALLOW, 2)]  # two records have no runs side by side

    for first in range(7):
        for second in range(first + 1, 7):
            met = {(combination[first], combination[second]) for combination in chosen}
            every = product(*({combination[place] for combination in chosen} for place in (first, second)))
            assert [pair for pair in every if pair not in met] in ([], apart)
