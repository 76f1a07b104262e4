"""Knows the partitions of a worker's handlers, and which of them this worker polls."""

from __future__ import annotations

from collections.abc import Sequence

from pyncette.coordination.assignment import PartitionAssignment
from pyncette.core.record import Partition
from pyncette.worker.occurrence import Registration


class Partitions:
    """
    The partitions of all *registrations*, as they are now: a task may be disabled at any time.

    With an *assignment*, workers share out the partitions of tasks that have many; without one, each polls all.
    """

    def __init__(
        self, registrations: Sequence[Registration], assignment: PartitionAssignment | None = None
    ) -> None:
        self.registrations = registrations
        self.assignment = (
            assignment if any(registration.shared_among for registration in registrations) else None
        )
        self._counts = {
            registration.handler: registration.shared_among
            for registration in registrations
            if registration.shared_among
        }

    def all(self) -> dict[Partition, Registration]:
        """Return the registration of each partition."""
        return {
            partition: registration
            for registration in self.registrations
            for partition in registration.partitions
        }

    def is_ours(self, partition: Partition) -> bool:
        """Say whether this worker polls *partition*."""
        if self.assignment is None:
            return True
        count = self._counts.get(partition.handler, 0)
        return not count or self.assignment.is_ours(partition, count)
