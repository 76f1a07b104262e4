"""Computes how many occurrences wait for a worker, and since when."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.core.record import Record


class Waiting(NamedTuple):
    """The backlog of a pool."""

    due: int = 0
    since: Instant | None = None
    """The due time of the oldest one; None if nothing waits."""

    def with_more(self, due: int, since: Instant | None) -> Waiting:
        """Return this backlog with *due* more occurrences; the oldest of them was due at *since*."""
        instants = [at for at in (self.since, since) if at is not None]
        return Waiting(self.due + due, min(instants, default=None))


def runs_instances(record: Record) -> bool:
    """Return whether *record* is a template whose instances may run."""
    policies = record.spec.policies
    return (
        record.spec.partitions is not None
        and record.state.withdrawn_at is None
        and not (policies is not None and policies.suspend)
    )


def late_since_of(record: Record, now: Instant) -> Instant | None:
    """Return the time since which *record* waits for a worker; None if it does not wait."""
    at = record.claimable_at
    return at if at is not None and at <= now and not record.is_leased(now) else None
