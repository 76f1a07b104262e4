"""Bounds the memory for the records of a backend, so that no database and no namespace can exhaust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from pyncette.coordination.members import Member
from pyncette.core.record import Partition, Record

MEBIBYTE: Final = 1024 * 1024

RECORD_BYTES: Final = 2048
"""Estimated size of a record without its texts: the key, the numbers, and the entries in the cache."""

PARTITION_BYTES: Final = 512
"""Estimated size of a partition without its names."""

TEXT_FACTOR: Final = 4
"""Estimated ratio of decoded values to their JSON: small numbers and short strings become objects."""

_encode: Final = msgspec.json.Encoder().encode


class MemoryLimits(NamedTuple):
    """The largest estimated size of cached records, in bytes."""

    namespace: int = 64 * MEBIBYTE
    """Limit for the records of one namespace on one backend."""
    backend: int = 192 * MEBIBYTE
    """Limit for all records of one backend."""


DEFAULT_LIMITS: Final = MemoryLimits()


class MemoryBudget:
    """The memory for the records of one backend, by namespace. Sizes are estimates, in bytes."""

    def __init__(self, limits: MemoryLimits) -> None:
        self.limits = limits
        self._taken: dict[str, int] = {}
        self._preferred: frozenset[str] = frozenset()
        """Namespaces whose memory is not available to others."""
        self._total = 0
        self._total_preferred = 0

    def scan(self, namespace: str | None, preferred: Collection[str]) -> ScanBudget:
        """Return the budget for a scan of *namespace*. Without one, for a scan of everything, reset all usage."""
        if namespace is None:
            self._taken.clear()
        self._preferred = frozenset(preferred)
        self._total = sum(self._taken.values())
        self._total_preferred = sum(self._taken.get(name, 0) for name in self._preferred)
        return ScanBudget(self, namespace)

    def others(self, namespace: str) -> int:
        """Return the bytes taken by other namespaces that are not available to *namespace*."""
        total = self._total_preferred if namespace in self._preferred else self._total
        return total - self._taken.get(namespace, 0)

    def taken(self, namespace: str) -> int:
        """Return the bytes taken by *namespace*."""
        return self._taken.get(namespace, 0)

    def take(self, namespace: str, size: int) -> None:
        """Record that *namespace* takes *size* bytes in all."""
        more = size - self._taken.pop(namespace, 0)
        self._total += more
        if namespace in self._preferred:
            self._total_preferred += more
        if size:
            self._taken[namespace] = size


class ScanBudget:
    """
    The memory for one scan of *namespace*, or of everything if it is None.

    A namespace whose records exceed the limits is overfull, and the rest of its records is not read. Other namespaces may be
    scanned at the same time. During its scan, a namespace takes the larger of its former size and the size read so far.
    """

    def __init__(self, budget: MemoryBudget, namespace: str | None) -> None:
        self._budget = budget
        self._spent: Counter[str] = Counter() if namespace is None else Counter({namespace: 0})
        self.overfull: set[str] = set()

    def admits(self, namespace: str, size: int) -> bool:
        """Take *size* bytes for *namespace*, and return whether they fit."""
        limits, after = self._budget.limits, self._spent[namespace] + size
        if after > limits.namespace or self._budget.others(namespace) + after > limits.backend:
            self.overfull.add(namespace)
        if namespace in self.overfull:
            return False
        self._spent[namespace] = after
        if after > self._budget.taken(namespace):
            self._budget.take(namespace, after)
        return True

    def end(self) -> None:
        """Replace the sizes of the scanned namespaces by those that this scan has read."""
        for namespace, size in self._spent.items():
            self._budget.take(namespace, size)


def size_of(record: Record) -> int:
    """Return the estimated size of *record* in memory, in bytes."""
    args = len(record.spec.args)
    return RECORD_BYTES + args + TEXT_FACTOR * (len(_encode(record.spec)) - args + len(_encode(record.state)))


def size_of_members(members: tuple[Member, ...]) -> int:
    """Return the estimated size of *members* in memory, in bytes."""
    return sum(RECORD_BYTES + TEXT_FACTOR * len(_encode(member)) for member in members)


def size_of_partitions(partitions: list[Partition]) -> int:
    """Return the estimated size of *partitions* in memory, in bytes."""
    return sum(PARTITION_BYTES + len(partition.realm) + len(partition.handler) for partition in partitions)
