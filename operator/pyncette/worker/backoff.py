"""How a worker bears a backend that is away: it says so once, turns unready, and asks again ever less often."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from typing import Final

from pyncette.core.backoff import Backoff
from pyncette.errors import StoreRefusedError

logger = logging.getLogger(__name__)

RETRIES: Final = Backoff(0.05, 2.0, jitter=1.0)
"""A backend that is back is noticed within two seconds. The jitter spreads the workers that waited for it."""


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
        """Yield the seconds to wait before each next attempt."""
        return RETRIES.delays(random.random)

    async def wait(self, meaning: str, error: Exception, waits: Iterator[float]) -> None:
        """Note that the backend did not answer, or refused, what that means, and wait before the next attempt."""
        if self.ready:
            self.ready = False
            what = "refuses" if isinstance(error, StoreRefusedError) else "does not answer"
            logger.warning("the backend %s: %s", what, meaning, extra={"error": str(error)})
        await asyncio.sleep(next(waits))
