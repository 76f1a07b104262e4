"""Bounds the memory that the records of a backend take, so that no database and no namespace stops the operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from pyncette.coordination.members import Member
from pyncette.core.record import Partition, Record

MEBIBYTE: Final = 1024 * 1024

RECORD_BYTES: Final = 2048
"""What a record takes by itself: its key, its numbers, and its places in the tables of the cache."""

ROWS_PER_RECORD: Final = 200
"""Rows that a scan reads at most for each record that fits into memory: runs beside schedules, dead letters, instances."""

PARTITION_BYTES: Final = 512
"""What a partition takes, apart from its names."""

TEXT_FACTOR: Final = 4
"""How much more a decoded text takes than the JSON that it was: small numbers and short strings are objects of their own."""

_encode: Final = msgspec.json.Encoder().encode


class MemoryLimits(NamedTuple):
    """The largest estimated size of cached records, in bytes."""

    namespace: int = 64 * MEBIBYTE
    """Of those of one namespace on one backend."""
    backend: int = 192 * MEBIBYTE
    """Of those of one backend."""


DEFAULT_LIMITS: Final = MemoryLimits()


class MemoryBudget:
    """The memory for the records of one backend, by namespace. The sizes are estimates."""

    def __init__(self, limits: MemoryLimits) -> None:
        self.limits = limits
        self._taken: dict[str, int] = {}
        self._preferred: frozenset[str] = frozenset()
        """Namespaces whose memory no other one takes."""
        self._total = 0
        self._total_preferred = 0

    def scan(self, namespace: str | None, preferred: Collection[str]) -> ScanBudget:
        """Return the budget for a scan of *namespace*, or for one of everything: then nothing is taken yet."""
        if namespace is None:
            self._taken.clear()
        self._preferred = frozenset(preferred)
        self._total = sum(self._taken.values())
        self._total_preferred = sum(self._taken.get(name, 0) for name in self._preferred)
        return ScanBudget(self, namespace)

    def others(self, namespace: str) -> int:
        """Return how much is taken by others, as far as *namespace* has to leave that to them."""
        total = self._total_preferred if namespace in self._preferred else self._total
        return total - self._taken.get(namespace, 0)

    def taken(self, namespace: str) -> int:
        """Return how much *namespace* takes."""
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

    A namespace whose records do not fit, or that has too many rows, is overfull: the rest of them is not read. Other namespaces may be scanned at the
    same time. While it is scanned, a namespace takes what it took before, or what was read if that is more.
    """

    def __init__(self, budget: MemoryBudget, namespace: str | None) -> None:
        self._budget = budget
        self._spent: Counter[str] = Counter() if namespace is None else Counter({namespace: 0})
        self._rows: Counter[str] = Counter()
        self.overfull: set[str] = set()

    def admits_rows(self, namespace: str, rows: int) -> bool:
        """Count *rows* that were read of *namespace*, and return whether it has no more than a scan reads."""
        self._rows[namespace] += rows
        if self._rows[namespace] > ROWS_PER_RECORD * self._budget.limits.namespace // RECORD_BYTES:
            self.overfull.add(namespace)
        return namespace not in self.overfull

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
        """Record that nothing is held any more but what this scan has read."""
        for namespace, size in self._spent.items():
            self._budget.take(namespace, size)


def size_of(record: Record) -> int:
    """Return about how many bytes *record* takes in memory."""
    args = len(record.spec.args)
    return RECORD_BYTES + args + TEXT_FACTOR * (len(_encode(record.spec)) - args + len(_encode(record.state)))


def size_of_members(members: tuple[Member, ...]) -> int:
    """Return about how many bytes *members* take in memory."""
    return sum(RECORD_BYTES + TEXT_FACTOR * len(_encode(member)) for member in members)


def size_of_partitions(partitions: list[Partition]) -> int:
    """Return about how many bytes *partitions* take in memory."""
    return sum(PARTITION_BYTES + len(partition.realm) + len(partition.handler) for partition in partitions)
