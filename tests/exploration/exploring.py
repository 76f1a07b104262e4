"""Explores one combination in quiet."""

from __future__ import annotations

from typing import NamedTuple

from tests.simulation.playing import in_quiet

from .combination import Combination
from .search import Search


class Explored(NamedTuple):
    """What was seen of one combination."""

    combination: Combination
    faults: int
    states: int
    broken: str | None
    is_complete: bool


def explore(combination: Combination, faults: int, states_max: int | None = None) -> Explored:
    """Explore all histories of *combination* with at most so many *faults*."""
    with in_quiet():
        found = Search(combination, faults).explore(states_max)
    return Explored(combination, faults, found.states, found.broken, found.complete)
