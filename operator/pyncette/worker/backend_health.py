"""Knows whether the backend answers, and spreads the retries of a worker whose backend does not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Final

from pyncette.core.backoff import Backoff
from pyncette.core.log_messages import naming_logger
from pyncette.errors import StoreRefusedError

logger = naming_logger(__name__)

RETRIES: Final = Backoff(0.05, 2.0, jitter=1.0)
"""A backend that is back is noticed within two seconds. The jitter spreads the workers that waited for it."""


class BackendHealth:
    """The health of the backend, as the last request of any part of a worker found it."""

    def __init__(self) -> None:
        self.ready = True

    def answered(self) -> None:
        """Note that the backend answered."""
        if not self.ready:
            self.ready = True
            logger.info("the backend answers again")

    @staticmethod
    def delays() -> Iterator[float]:
        """Yield the seconds to wait before each next attempt."""
        return RETRIES.delays(random.random)

    async def wait(self, consequence: str, error: Exception, delays: Iterator[float]) -> None:
        """Note that the backend refused or did not answer, log the *consequence*, and wait before the next attempt."""
        if self.ready:
            self.ready = False
            what = "refuses" if isinstance(error, StoreRefusedError) else "does not answer"
            logger.warning("the backend %s: %s", what, consequence, extra={"error": str(error)})
        await asyncio.sleep(next(delays))
