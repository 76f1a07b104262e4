"""Templates whose instances are spread over partitions."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final, Literal

from pyncette.app.options import PartitionSelector
from pyncette.app.tasks import P, Task

DIGEST_BITS: Final = 160

SHARED: Final = "shared"
"""The value of enabled_partitions that assigns partitions to the running workers."""


class PartitionedTask(Task[P]):
    """A template whose instances are spread over partitions, which can be assigned to several processes."""

    def __init__(
        self,
        *,
        partition_count: int,
        partition_selector: PartitionSelector | None = None,
        enabled_partitions: Sequence[int] | Literal["shared"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options, dynamic=True)
        self._spread(partition_count, partition_selector, enabled_partitions)

    def _spread(
        self,
        partition_count: int,
        partition_selector: PartitionSelector | None,
        enabled_partitions: Sequence[int] | Literal["shared"] | None,
    ) -> None:
        """Set the partitions of a new task. Raises ValueError for invalid ones."""
        if partition_count < 1:
            raise ValueError("Partition count must be greater than or equal to 1")
        self._partition_count = partition_count
        self.partition_selector = partition_selector or default_partition
        self.enabled_partitions = enabled_partitions

    @property
    def enabled_partitions(self) -> Sequence[int] | Literal["shared"] | None:
        """
        The partitions that this process polls; None: all; "shared": those assigned to this worker.

        It can be set at any time and takes effect immediately; "shared" must be set before `run`. Raises ValueError for
        invalid values.
        """
        return self._enabled_partitions

    @enabled_partitions.setter
    def enabled_partitions(self, enabled: Sequence[int] | Literal["shared"] | None) -> None:
        everyone = range(self._partition_count)
        polled: tuple[Any, ...] = tuple(everyone)
        if isinstance(enabled, str):
            if enabled != SHARED:
                raise ValueError(f"enabled_partitions must be numbers or {SHARED!r}, not {enabled!r}")
        elif enabled is not None:
            polled = tuple(sorted(set(enabled)))
            if not all(number in everyone for number in polled):
                raise ValueError(
                    f"enabled_partitions of the task {self.name} must be from 0 to {self._partition_count - 1}, "
                    f"not {polled}"
                )
            enabled = polled
        self._enabled_partitions = enabled
        self._polled = polled
        self._notify()

    def _prefix_of(self, instance_name: str) -> str:
        try:
            return f"{self.name}:{self.partition_of(instance_name)}"
        except Exception:  # noqa: BLE001 - a selector may raise anything, and errors about the instance need its name
            return self.name

    @property
    def partition_count(self) -> int:
        return self._partition_count

    @property
    def _polled_partitions(self) -> Sequence[int]:
        return self._polled

    @property
    def _shares_partitions(self) -> bool:
        return self._enabled_partitions == SHARED

    def partition_of(self, instance_name: str) -> int:
        number = self.partition_selector(self._partition_count, instance_name)
        if number not in range(self._partition_count):
            raise ValueError(
                f"The partition selector of the task {self.name} returned {number!r} for {instance_name!r}; "
                f"it must be from 0 to {self._partition_count - 1}"
            )
        return number


def default_partition(partition_count: int, instance_name: str) -> int:
    """Return the partition of the hash of the name, in an even division of the range of hashes."""
    digest = sha1(instance_name.encode(), usedforsecurity=False).digest()
    return (int.from_bytes(digest) * partition_count) >> DIGEST_BITS
