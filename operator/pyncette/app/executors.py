"""Says how many handlers a worker runs at once."""

from __future__ import annotations

from typing import Final

from pyncette.app.configuration import takes_all_settings
from pyncette.errors import ConfigurationError

CONCURRENCY_LIMIT: Final = 100


class DefaultExecutor:
    """
    Runs up to *concurrency_limit* handlers at once, each as an asyncio task.

    An executor tells a worker its `slots`; the worker claims only what it has slots for, so there is no queue in
    between whose leases could expire.
    """

    @takes_all_settings()
    def __init__(self, *, concurrency_limit: int = CONCURRENCY_LIMIT) -> None:
        if concurrency_limit < 1:
            raise ConfigurationError(f"concurrency_limit must be at least 1, got {concurrency_limit}")
        self.slots = concurrency_limit


class SynchronousExecutor:
    """Runs one handler at a time, and looks for the next only when it is over. A *concurrency_limit* is of no effect."""

    @takes_all_settings()
    def __init__(self, *, concurrency_limit: int = 1) -> None:
        del concurrency_limit
        self.slots = 1
