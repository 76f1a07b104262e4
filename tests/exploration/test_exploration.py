"""Every history of a few actors, in which no promise may be broken; and the behaviour of before, which must be found."""

from collections.abc import Sequence
from itertools import product

import pytest

from pyncette.core.spec import Overlap
from tests.rotation import part_of_today

from .combination import Combination, Depth, depths_of, pairwise
from .exploring import explore
from .mutants import MUTANTS
from .search import Search

DAYS = 6
"""In which all longer histories are explored, by `make test-long` once a day."""


def to_depths(depths_for) -> list:
    """Each of the pairs with each of its depths, as parameters."""
    return [
        pytest.param(
            whole := combination._replace(occurrences=depth.occurrences),
            depth.faults,
            id=f"{whole}, {depth.faults} faults",
        )
        for combination in pairwise()
        for depth in depths_for(combination)
    ]


def shallow(combination: Combination) -> Sequence[Depth]:
    return (Depth(0 if combination.records > 1 else 1, 1),)


@pytest.mark.parametrize(("combination", "faults"), to_depths(shallow))
def test_no_promise_is_broken_in_any_short_history(combination, faults, record_property):
    record_property("states", explored(combination, faults))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("combination", "faults"), part_of_today(to_depths(depths_of), DAYS))
def test_no_promise_is_broken_in_any_longer_history(combination, faults, record_property):
    record_property("states", explored(combination, faults))


def explored(combination: Combination, faults: int) -> int:
    """Explore all, and return how many states were seen."""
    found = explore(combination, faults)
    print(f"{found.states:,} states of {combination}, {faults} faults")
    assert found.broken is None, found.broken
    assert found.is_complete
    return found.states


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_behaviour_of_before_is_found(mutant):
    whole = explore(mutant.combination, mutant.faults)

    found = mutant.explored()

    assert whole.broken is None, whole.broken
    assert found.broken is not None
    assert mutant.says in found.broken


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
