"""How a worker bears a backend that is away: it says so once, turns unready, and asks again ever less often."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Final

from pyncette.errors import StoreRefusedError

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 2.0
"""A backend that is back is noticed within this time, and one that starts is not run over by those that waited."""


class Patience:
    """Whether the backend answers, as seen by all that ask it."""

    def __init__(self) -> None:
        self.ready = True

    def answered(self) -> None:
        """Note that the backend answered."""
        if not self.ready:
            self.ready = True
            logger.info("the backend answers again")

    @staticmethod
    def waits() -> Iterator[float]:
        """Yield the seconds to wait before each next attempt: doubling, bounded, with full jitter."""
        longest = FIRST_WAIT_SECONDS
        while True:
            yield random.uniform(0, longest)
            longest = min(2 * longest, LONGEST_WAIT_SECONDS)

    async def wait(self, meaning: str, error: Exception, waits: Iterator[float]) -> None:
        """Note that the backend did not answer, or refused, what that means, and wait before the next attempt."""
        if self.ready:
            self.ready = False
            what = "refuses" if isinstance(error, StoreRefusedError) else "does not answer"
            logger.warning("the backend %s: %s", what, meaning, extra={"error": str(error)})
        await asyncio.sleep(next(waits))
