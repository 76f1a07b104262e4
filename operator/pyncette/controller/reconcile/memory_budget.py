"""Bounds the memory for the records of a backend, so that no database and no namespace can exhaust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple
from weakref import WeakSet

import msgspec

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.coordination.members import Member
from pyncette.core.record import Key, Partition, Record

MEBIBYTE: Final = 1024 * 1024

RECORD_BYTES: Final = 2048
"""Estimated size of a record without its texts: the key, the numbers, and the entries in the cache."""

ROWS_PER_RECORD: Final = 200
"""Maximum number of rows that a scan reads for each record that fits into memory: side runs, dead letters, instances."""

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
    total: int = 192 * MEBIBYTE
    """Limit for the records of all backends together."""


DEFAULT_LIMITS: Final = MemoryLimits()


class TotalMemory:
    """
    The memory for the records of all backends together, of at most *limit* bytes. Sizes are estimates.

    Any number of databases may be full. So the namespace with the most memory on a backend gives way to those with less:
    *evict* is called with that backend and namespace, and must forget the records.
    """

    def __init__(self, limit: int, evict: Callable[[str, str], None]) -> None:
        self._limit = limit
        self._evict = evict
        self._taken: dict[tuple[str, str], int] = {}
        """By backend and namespace: the bytes taken."""
        self._total = 0

    def take(self, backend: str, namespace: str, size: int) -> None:
        """Record that *namespace* takes *size* bytes on *backend* in all."""
        self._total += size - self._taken.pop((backend, namespace), 0)
        if size:
            self._taken[backend, namespace] = size

    def admits(self, backend: str, namespace: str, size: int) -> bool:
        """Return whether *namespace* may take *size* bytes on *backend* in all. A namespace that takes more gives way."""
        taker = (backend, namespace)
        while self._total - self._taken.get(taker, 0) + size > self._limit:
            largest = max(self._taken, key=self._taken.__getitem__, default=taker)
            if largest == taker or self._taken[largest] <= size:
                return False
            self.take(*largest, 0)
            self._evict(*largest)
        return True


class MemoryBudget:
    """The memory for the records of *backend*, by namespace, as a part of *shared*. Sizes are estimates, in bytes."""

    def __init__(self, limits: MemoryLimits, backend: str, shared: TotalMemory) -> None:
        self.limits = limits
        self._backend = backend
        self._shared = shared
        self._taken: dict[str, int] = {}
        self._preferred: frozenset[str] = frozenset()
        """Namespaces whose memory is not available to others."""
        self._total = 0
        self._total_preferred = 0
        self._under_way: WeakSet[ScanBudget] = WeakSet()

    def scan(self, namespace: str | None, preferred: Collection[str]) -> ScanBudget:
        """Return the budget for a scan of *namespace*. Without one, for a scan of everything, reset all usage."""
        if namespace is None:
            self.release()
        self._preferred = frozenset(preferred)
        self._total = sum(self._taken.values())
        self._total_preferred = sum(self._taken.get(name, 0) for name in self._preferred)
        scan = ScanBudget(self, namespace)
        self._under_way.add(scan)
        return scan

    def evict(self, namespace: str) -> None:
        """Make running scans forget *namespace*, and read no more of it."""
        for scan in self._under_way:
            scan.give_up(namespace)
        self.take(namespace, 0)

    def others(self, namespace: str) -> int:
        """Return the bytes taken by other namespaces that are not available to *namespace*."""
        total = self._total_preferred if namespace in self._preferred else self._total
        return total - self._taken.get(namespace, 0)

    def taken(self, namespace: str) -> int:
        """Return the bytes taken by *namespace*."""
        return self._taken.get(namespace, 0)

    def admits(self, namespace: str, size: int) -> bool:
        """Return whether *namespace* may take *size* bytes in all."""
        return (
            size <= self.limits.namespace
            and self.others(namespace) + size <= self.limits.backend
            and self._shared.admits(self._backend, namespace, size)
        )

    def release(self) -> None:
        """Record that nothing is taken."""
        for namespace in list(self._taken):
            self.take(namespace, 0)

    def take(self, namespace: str, size: int) -> None:
        """Record that *namespace* takes *size* bytes in all."""
        self._shared.take(self._backend, namespace, size)
        more = size - self._taken.pop(namespace, 0)
        self._total += more
        if namespace in self._preferred:
            self._total_preferred += more
        if size:
            self._taken[namespace] = size


class ScanBudget:
    """
    The memory for one scan of *namespace*, or of everything if it is None.

    A namespace whose records or rows exceed the limits is overfull, and the rest of its records is not read. Other namespaces
    may be scanned at the same time. During its scan, a namespace takes the larger of its former size and the size read so far.
    """

    def __init__(self, budget: MemoryBudget, namespace: str | None) -> None:
        self.found: dict[ObjectName, dict[tuple[str, Key], ObservedRecord]] = {}
        """The records read so far, by the tasks that own them."""
        self._budget = budget
        self._spent: Counter[str] = Counter() if namespace is None else Counter({namespace: 0})
        self._rows: Counter[str] = Counter()
        self.overfull: set[str] = set()

    def admits_rows(self, namespace: str, rows: int) -> bool:
        """Count *rows* read of *namespace*, and return whether they are within the limit of a scan."""
        self._rows[namespace] += rows
        if self._rows[namespace] > ROWS_PER_RECORD * self._budget.limits.namespace // RECORD_BYTES:
            self.overfull.add(namespace)
        return namespace not in self.overfull

    def admits(self, namespace: str, size: int) -> bool:
        """Take *size* bytes for *namespace*, and return whether they fit."""
        after = self._spent[namespace] + size
        if not self._budget.admits(namespace, after):
            self.overfull.add(namespace)
        if namespace in self.overfull:
            return False
        self._spent[namespace] = after
        if after > self._budget.taken(namespace):
            self._budget.take(namespace, after)
        return True

    def give_up(self, namespace: str) -> None:
        """Forget the records read of *namespace*, and admit no more of them."""
        self.overfull.add(namespace)
        self._spent.pop(namespace, None)
        for name in [name for name in self.found if name.namespace == namespace]:
            del self.found[name]

    def end(self) -> None:
        """Replace the sizes of the scanned namespaces by the sizes that this scan has read."""
        for namespace, size in self._spent.items():
            self._budget.take(namespace, size)


def size_of(record: Record) -> int:
    """Return the estimated size of *record* in memory, in bytes."""
    args = len(record.spec.args)
    return RECORD_BYTES + args + TEXT_FACTOR * (len(_encode(record.spec)) - args + len(_encode(record.state)))


def size_of_members(members: tuple[Member, ...]) -> int:
    """Return the estimated size of *members* in memory, in bytes."""
    return sum(RECORD_BYTES + TEXT_FACTOR * len(_encode(member)) for member in members)


def size_of_schemas(schemas: Mapping[str, bytes]) -> int:
    """Return the estimated size of *schemas* in memory, in bytes."""
    return sum(RECORD_BYTES + len(handler) + len(schema) for handler, schema in schemas.items())


def size_of_partitions(partitions: list[Partition]) -> int:
    """Return the estimated size of *partitions* in memory, in bytes."""
    return sum(PARTITION_BYTES + len(partition.realm) + len(partition.handler) for partition in partitions)
