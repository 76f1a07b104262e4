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
        self._by_handler = {registration.handler: registration for registration in registrations}

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
        registration = self._by_handler.get(partition.handler)
        # Read each time: a program may set `enabled_partitions` while the worker runs.
        count = 0 if registration is None else registration.shared_among
        return not count or self.assignment.is_ours(partition, count)
