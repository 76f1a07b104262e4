"""Exponential backoff: how long to wait before something is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

DOUBLINGS_MAX: Final = 40
"""Doubling a microsecond this often passes any maximum that an instant can hold."""

_Delay = TypeVar("_Delay", int, float)


def doubled(first: _Delay, maximum: _Delay, times: int) -> _Delay:
    """Return *first* doubled so many *times*, at most *maximum*."""
    return min(first * (1 << min(times, DOUBLINGS_MAX)), maximum)


class Backoff(NamedTuple):
    """
    Delays in seconds that double from *first* up to *maximum*, and of which a share is random.

    The random numbers come from the caller, as those of `random.random`: this package decides without randomness.
    """

    first: float
    maximum: float
    jitter: float
    """The random share: 1 spreads a delay between zero and its full length, 0.5 over its upper half, 0 not at all."""

    def after(self, failures: int, chance: float) -> float:
        """Return the delay after so many *failures* in a row, at least one; *chance* is a random number in [0, 1)."""
        return doubled(self.first, self.maximum, failures - 1) * (1 - self.jitter * (1 - chance))

    def delays(self, chance: Callable[[], float]) -> Iterator[float]:
        """Yield the delay after each further failure; a new iterator starts with the shortest delay again."""
        failures = 0
        while True:
            failures += 1
            yield self.after(failures, chance())
