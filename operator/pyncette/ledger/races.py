"""Spreads the retries of writes that lost a race, and ends them when a series of losses is too long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Final

from pyncette.core.backoff import Backoff
from pyncette.errors import ContentionError

RACE_SECONDS: Final = 30.0
"""
A write is retried until it has lost every race for this long. Hundreds of processes that write one record finish within a
few seconds, so a longer series means a bug or an attack, not load. Most callers wait at least as long for an answer.
"""

RACE_BACKOFF: Final = Backoff(0.005, 0.5, jitter=1.0)
"""Delays between retries of a lost race: long enough to spread out many writers, and negligible within a lease."""


class Races:
    """Pauses between retries of a write that lost a race; an error once every race was lost for *seconds*."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self.won()

    def won(self) -> None:
        """Reset the pauses and the time limit, since something was written."""
        self._until = self._loop.time() + self._seconds
        self._pauses = race_pauses()

    async def lost(self, what: str) -> None:
        """Pause before the next try. Raises ContentionError, which says *what* was lost, once the time is up."""
        if self._loop.time() >= self._until:
            raise ContentionError(f"{what} for {self._seconds:g} s")
        await asyncio.sleep(next(self._pauses))


def race_pauses() -> Iterator[float]:
    """Yield the delay before each retry of a lost race, in seconds."""
    return RACE_BACKOFF.delays(random.random)
