"""Bounds the memory that the records of a backend take, so that no database and no namespace stops the operator."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

import msgspec

from pyncette.coordination.members import Member
from pyncette.core.record import Partition, Record

MEBIBYTE: Final = 1024 * 1024

RECORD_BYTES: Final = 2048
"""What a record takes by itself: its key, its numbers, and its places in the tables of the cache."""

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
    """
    The memory for one scan of a backend.

    A namespace whose records do not fit is overfull: the rest of them is not read. The sizes are estimates.
    """

    def __init__(self, limits: MemoryLimits) -> None:
        self._limits = limits
        self._spent: Counter[str] = Counter()
        self._total = 0
        self.overfull: set[str] = set()

    def admits(self, namespace: str, size: int) -> bool:
        """Take *size* bytes for *namespace*, and return whether they fit."""
        limits = self._limits
        if self._spent[namespace] + size > limits.namespace or self._total + size > limits.backend:
            self.overfull.add(namespace)
        if namespace in self.overfull:
            return False
        self._spent[namespace] += size
        self._total += size
        return True


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
