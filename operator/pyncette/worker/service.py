"""Runs what is due in one process: claims, calls handlers, writes what became of them, and renews their leases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, Instant
from pyncette.ledger import Ledger
from pyncette.store.base import Store
from pyncette.worker.occurrence import Occurrence, Registration


class WorkerSettings(NamedTuple):
    """How a worker works; durations are microseconds."""

    holder: str
    """Who holds the leases, as logs and histories name it."""
    slots: int = 100
    """Handlers that run at once."""
    batch_size: int = 100
    """Records of one claim, at most."""
    poll_interval: Duration = 1 * SECOND
    grace: Duration | None = None
    """How long a drain lets handlers run; None: until they return."""


class Listener(Protocol):
    """Is told what a worker does; must not block."""

    def polled(self, seconds: float, error: BaseException | None) -> None:
        """A look for claimable records is over."""
        ...
