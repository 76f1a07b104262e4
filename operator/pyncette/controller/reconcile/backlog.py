"""Computes how many occurrences wait for a worker, and since when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.cluster.api import ObjectName
from pyncette.core.record import Partition, Record
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.counting import waiting_in

COUNT_PAUSE: Final[Duration] = 10 * SECOND
"""Between two counts of waiting instances of dynamic tasks: a count takes a request or more for each partition."""


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


class WaitingInstances:
    """The last count of the waiting instances of dynamic tasks, for each pool on each backend."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, ObjectName], tuple[Duration, Waiting]] = {}
        """When they were counted, by the monotonic clock, and the result."""

    async def of(
        self,
        backend: str,
        pool: ObjectName,
        ledger: Ledger,
        partitions: Sequence[Partition],
        templates: Collection[str],
    ) -> Waiting:
        """Return the backlog of the instances of *templates*, counted at most `COUNT_PAUSE` ago. Raises StoreError."""
        if not templates:
            self.forget(backend, pool)
            return Waiting()
        now = ledger.clock.monotonic()
        counted = self._counts.get((backend, pool))
        if counted is None or now - counted[0] >= COUNT_PAUSE:
            waiting, latest = Waiting(), 0
            for partition in partitions:
                if partition.handler in templates:
                    due, late = await waiting_in(
                        ledger.store, partition, partition.handler, ledger.clock.now(), latest
                    )
                    latest = max(latest, late or 0)
                    since = None if late is None else ledger.clock.now() - late
                    waiting = waiting.with_more(due, since)
            counted = self._counts[backend, pool] = (now, waiting)
        return counted[1]

    def forget(self, backend: str, pool: ObjectName) -> None:
        """Forget the count of a pool that has no dynamic task any more, or is gone."""
        self._counts.pop((backend, pool), None)
