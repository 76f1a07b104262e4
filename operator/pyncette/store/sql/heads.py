"""Remembers where in a partition's index the living begin, while finding that out costs too much to do it each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from pyncette.clock import MILLISECOND, SECOND, Duration, Instant
from pyncette.core.record import Partition, Record

BEGINNING: Final = -(2**63)
"""Before every instant: nothing is passed over."""

SHARE: Final = 20
"""Whole looks, if they are slow, may take one part of the time in this many."""

USUAL: Final[Duration] = 2 * MILLISECOND
USUAL_EACH: Final[Duration] = 40
"""A look is slow if it takes longer than this, and this for each record that it got: a few times what it should."""

PAUSE_MAX: Final[Duration] = 10 * SECOND
"""Between whole looks, at most: as long as a notification that got lost may cost."""

MARGIN: Final[Duration] = 100 * MILLISECOND
"""How much later others may write what is due than they say it is, and be seen by a look that is not whole."""


class Head(NamedTuple):
    """What looks at one partition may pass over: what is claimable before *begin*, until it is *until*."""

    begin: Instant
    since: Instant
    until: Instant


class Heads:
    """
    Where looks at partitions may begin.

    What was completed leaves an entry in the index, at the instant at which it had been claimable, until the server
    removes it. As long as somebody holds an old snapshot (a backup, a report, a forgotten transaction) it may not, and a
    claim that begins at the beginning reads all of them: after a minute of work it takes a second. So after two such
    looks in a row, the next ones begin where the last found the first living record, for twenty times as long as it
    took. Meanwhile a record that others file before that place has to wait for the next whole look; what this store
    files there is seen.

    As long as no look is slow, all looks are whole. One slow look may have been slow for any reason. *usual* is how long
    one may take before it is slow, besides what each of its records takes.
    """

    def __init__(self, usual: Duration = USUAL) -> None:
        self._usual = usual
        self._heads: dict[Partition, Head] = {}
        self._slow: set[Partition] = set()

    def begin(self, partition: Partition, now: Instant) -> Instant:
        """Return where a look at *now* begins."""
        head = self._heads.get(partition)
        if head is None:
            return BEGINNING
        if not head.since <= now < head.until:
            del self._heads[partition]
            return BEGINNING
        return head.begin

    def until(self, partitions: Iterable[Partition]) -> Instant | None:
        """Return when the first of the heads known of *partitions* has to be found out anew."""
        return min(
            (head.until for partition in partitions if (head := self._heads.get(partition))), default=None
        )

    def learn(
        self, limits: Mapping[Partition, int], records: Sequence[Record], now: Instant, took: Duration
    ) -> None:
        """Take note of a look that took so long, and got *records*, soonest first: before those all was seen."""
        excess = took - self._usual - USUAL_EACH * len(records)
        if excess <= 0 and not self._heads and not self._slow:
            return
        firsts = {record.key.partition: record.claimable_at for record in reversed(records)}
        for partition, limit in limits.items():
            if limit:  # else nothing was looked for
                begin = (firsts.get(partition) or now) - MARGIN
                self._learn(partition, begin, now, excess)

    def _learn(self, partition: Partition, begin: Instant, now: Instant, excess: Duration) -> None:
        head = self._heads.get(partition)
        if head is not None:
            self._heads[partition] = head._replace(begin=max(begin, head.begin))
        elif excess <= 0:
            self._slow.discard(partition)
        elif partition in self._slow:
            self._heads[partition] = Head(begin, now, now + min(SHARE * excess, PAUSE_MAX))
        else:
            self._slow.add(partition)

    def file(self, records: Iterable[Record]) -> None:
        """Take note of what is written, so that it is not passed over."""
        if not self._heads:
            return
        for record in records:
            head = self._heads.get(record.key.partition)
            if head is not None and record.claimable_at is not None and record.claimable_at < head.begin:
                self._heads[record.key.partition] = head._replace(begin=record.claimable_at)

    def forget(self) -> None:
        """Know nothing, as at the beginning."""
        self._heads.clear()
        self._slow.clear()
