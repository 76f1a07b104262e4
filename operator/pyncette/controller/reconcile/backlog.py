"""What of a pool waits for a worker, and since when."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.core.record import Record


class Waiting(NamedTuple):
    """The backlog of a pool."""

    due: int = 0
    since: Instant | None = None
    """When the oldest of them was due; None if nothing waits."""

    def with_more(self, due: int, since: Instant | None) -> Waiting:
        """Return the sum of this and *due* more, the oldest of which was due at *since*."""
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
    """Return since when *record* waits for a worker; None if it does not."""
    at = record.claimable_at
    return at if at is not None and at <= now and not record.is_leased(now) else None
