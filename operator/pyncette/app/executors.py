"""Executors, which limit the number of handlers that a worker runs at the same time."""

from __future__ import annotations

from typing import Final

from pyncette.app.configuration import takes_all_settings
from pyncette.errors import ConfigurationError

CONCURRENCY_LIMIT: Final = 100


class DefaultExecutor:
    """
    An executor of up to *concurrency_limit* handlers at the same time, each as an asyncio task. Plain functions among them
    have a thread each.

    The worker reads the `slots` of its executor and claims only what it has free slots for. So there is no queue in
    which leases could expire.
    """

    @takes_all_settings()
    def __init__(self, *, concurrency_limit: int = CONCURRENCY_LIMIT) -> None:
        if concurrency_limit < 1:
            raise ConfigurationError(f"concurrency_limit must be at least 1, got {concurrency_limit}")
        self.slots = concurrency_limit


class SynchronousExecutor:
    """An executor of one handler at a time. The next is claimed when it has ended. *concurrency_limit* has no effect."""

    @takes_all_settings()
    def __init__(self, *, concurrency_limit: int = 1) -> None:
        del concurrency_limit
        self.slots = 1
