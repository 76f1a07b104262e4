"""Skips dead index entries at the start of a partition, while VACUUM or purge cannot remove them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pyncette.clock import MILLISECOND, SECOND, Duration, Instant
from pyncette.core.record import Partition, Record

BEGINNING: Final = -(2**63)
"""Before every instant: the scan skips nothing."""

FULL_SCAN_SHARE: Final = 20
"""Slow full scans may take one part in this many of the time."""

USUAL: Final[Duration] = 2 * MILLISECOND
USUAL_EACH: Final[Duration] = 40
"""A scan is slow if it takes longer than the first, and the second for each record: a few times the usual duration."""

PAUSE_MAX: Final[Duration] = 10 * SECOND
"""The longest time between full scans: what a lost notification may cost."""

MARGIN: Final[Duration] = 100 * MILLISECOND
"""A scan that skips still sees records that others write this much later than their `claimable_at`."""


class ScanStart(NamedTuple):
    """The start of the scans of one partition until *until*: they skip what is claimable before *begin*."""

    begin: Instant
    since: Instant
    until: Instant


class ScanStarts:
    """
    The instants at which claims start to scan the index of a partition.

    A completion leaves a dead index entry at the instant at which its record was claimable. VACUUM (PostgreSQL) or purge
    (MySQL) cannot remove it while an old snapshot is open: a backup, a report, a forgotten transaction. A claim that
    scans from the beginning reads all dead entries, which takes a second after a minute of work.

    So after two slow scans in a row, claims start at the first live record that the last one found. They do so for twenty
    times as long as the scan took. A record that another process writes before that start has to wait for the next
    full scan. A record that this store writes there moves the start, and is seen.

    While no scan is slow, all scans are full. A single slow scan may have any cause. *usual* is the longest duration of a
    scan that is not slow, apart from what its records take.
    """

    def __init__(self, usual: Duration = USUAL) -> None:
        self._usual = usual
        self._starts: dict[Partition, ScanStart] = {}
        self._slow: set[Partition] = set()

    def begin(self, partition: Partition, now: Instant) -> Instant:
        """Return where a scan of *partition* starts at *now*."""
        start = self._starts.get(partition)
        if start is None:
            return BEGINNING
        if not start.since <= now < start.until:
            del self._starts[partition]
            return BEGINNING
        return start.begin

    def until(self, partitions: Iterable[Partition]) -> Instant | None:
        """Return when the next full scan of any of *partitions* is due; None if their scans are full anyway."""
        return min(
            (start.until for partition in partitions if (start := self._starts.get(partition))), default=None
        )

    def learn(
        self, limits: Mapping[Partition, int], records: Sequence[Record], now: Instant, took: Duration
    ) -> None:
        """Note that a scan took *took* and found *records*, soonest first. Nothing live is before those."""
        excess = took - self._usual - USUAL_EACH * len(records)
        if excess <= 0 and not self._starts and not self._slow:
            return
        firsts = {record.key.partition: record.claimable_at for record in reversed(records)}
        for partition, limit in limits.items():
            if limit:  # a partition with the limit 0 was not scanned
                begin = (firsts.get(partition) or now) - MARGIN
                self._learn(partition, begin, now, excess)

    def _learn(self, partition: Partition, begin: Instant, now: Instant, excess: Duration) -> None:
        start = self._starts.get(partition)
        if start is not None:
            self._starts[partition] = start._replace(begin=max(begin, start.begin))
        elif excess <= 0:
            self._slow.discard(partition)
        elif partition in self._slow:
            self._starts[partition] = ScanStart(begin, now, now + min(FULL_SCAN_SHARE * excess, PAUSE_MAX))
        else:
            self._slow.add(partition)

    def include(self, records: Iterable[Record]) -> None:
        """Move starts so that no scan skips *records*, which are about to be written."""
        if not self._starts:
            return
        for record in records:
            start = self._starts.get(record.key.partition)
            if start is not None and record.claimable_at is not None and record.claimable_at < start.begin:
                self._starts[record.key.partition] = start._replace(begin=record.claimable_at)

    def forget(self) -> None:
        """Return to full scans."""
        self._starts.clear()
        self._slow.clear()
