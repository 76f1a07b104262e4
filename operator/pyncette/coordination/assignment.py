"""Assigns the partitions of a task to the running workers, without a leader: each computes the same assignment."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from pyncette.clock import SECOND, Clock, Duration, Instant
from pyncette.coordination.members import members
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Partition
from pyncette.errors import StoreError
from pyncette.store.base import Store

logger = naming_logger(__name__)

REFRESH_PAUSE: Final[Duration] = 20 * SECOND
"""Time between two reads of the other workers. After it, each worker knows which have started or stopped."""

ORPHAN_AGE: Final[Duration] = 1 * SECOND
"""Age of a due record in another worker's partition from which this worker polls the partition, too."""

TURN: Final[Duration] = 2 * SECOND
"""Time between the turns of two workers: an orphaned partition waits this long if one worker is gone."""

LONGEST_TURNS: Final[Duration] = 10 * SECOND
"""Maximum time between two turns of a worker: an orphaned partition waits this long if all but one are gone."""

ADOPTED: Final[Duration] = 90 * SECOND
"""Time for which a worker polls an adopted partition. After it, each worker knows whether the former one still exists."""


def shared_out(count: int, task: str, holders: Sequence[str]) -> dict[str, list[int]]:
    """
    Return which of the partitions 0 to *count* - 1 of *task* each of *holders* has: as many as the others, or one more.

    A partition goes to the holder with the highest hash of both, among those that have fewer than their part. So most stay
    where they are when workers come and go.
    """
    shares: dict[str, list[int]] = {holder: [] for holder in sorted(holders)}
    if not shares:
        return shares
    less, more = divmod(count, len(shares))
    for number in range(count):
        for holder in sorted(shares, key=lambda holder: _rank(task, number, holder), reverse=True):
            share = shares[holder]
            if len(share) < less or (len(share) == less and more > 0):
                more -= len(share) == less
                share.append(number)
                break
    return shares


def _rank(task: str, number: int, holder: str) -> bytes:
    return blake2b(f"{task}\0{number}\0{holder}".encode(), digest_size=8).digest()


class PartitionAssignment:
    """
    The partitions of *realm* that the worker *holder* polls; all of them while it knows no other worker.

    Workers may disagree for a while without harm: the first claim gets the lease, and partitions that none considers its
    own are found when a worker polls those of others.
    """

    def __init__(self, store: Store, clock: Clock, realm: str, holder: str) -> None:
        self._store = store
        self._clock = clock
        self._realm = realm
        self._holder = holder
        self._others: dict[str, tuple[str, ...]] = {}
        """The handlers that each other worker serves."""
        self._ours: dict[tuple[str, int], frozenset[int]] = {}
        """By handler and partition count: this worker's partitions, for the current set of workers."""
        self.is_new = True
        """True once the assignment has changed; the reader resets it."""
        self._adopted: dict[Partition, Duration] = {}
        self._refresh_at: Duration = 0
        self._hurried_at: Duration = -REFRESH_PAUSE
        self._turn_at: Instant = 0

    def is_ours(self, partition: Partition, count: int) -> bool:
        """Return whether this worker polls *partition*, one of the *count* partitions of its task."""
        if not self._others or partition.number in self._share(partition.handler, count):
            return True
        return self._adopted.get(partition, 0) > self._clock.monotonic()

    def adopt(self, partition: Partition) -> None:
        """Poll *partition* for a while, since its worker does not seem to."""
        if partition not in self._adopted:
            logger.info(
                "took over a partition that its worker does not poll", extra={"partition": str(partition)}
            )
        self._adopted[partition] = self._clock.monotonic() + ADOPTED

    def hurry(self) -> None:
        """Poll all partitions soon: another worker is full, or stops. Idempotent."""
        now = self._clock.monotonic()
        if now >= self._hurried_at + ORPHAN_AGE:
            self._hurried_at = now
            self._refresh_at = now
            self._turn_at = 0

    def next_refresh_in(self) -> Duration:
        """Return the time until the next call of `refresh` is due."""
        until = self._refresh_at - self._clock.monotonic()
        if self._others:
            until = min(until, self._turn_at - self._clock.now())
        return max(0, until)

    async def refresh(self) -> bool:
        """Read the other workers if that is due, and return whether it is this worker's turn to poll their partitions."""
        now = self._clock.monotonic()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_PAUSE
            await self._read_others()
        if not self._others or self._clock.now() < self._turn_at:
            return False
        self._turn_at = self._next_turn(self._clock.now())
        return True

    async def _read_others(self) -> None:
        try:
            found = await members(self._store, self._realm, self._clock.now())
        except StoreError as error:  # the last assignment stays
            logger.debug(
                "could not list other workers; keeping the last assignment", extra={"error": str(error)}
            )
            return
        others = {
            member.holder: tuple(name for name in member.handlers if name not in member.refused)
            for member in found
            if member.holder != self._holder
        }
        if others != self._others:
            self._others = others
            self._ours.clear()
            self._adopted.clear()
            self.is_new = True
            self._turn_at = self._next_turn(self._clock.now())

    def _next_turn(self, now: Instant) -> Instant:
        """Return the time of this worker's next turn. All workers count the same turns, by the backend's time."""
        holders = sorted([*self._others, self._holder])
        length = min(TURN * len(holders), LONGEST_TURNS)
        offset = length * holders.index(self._holder) // len(holders)
        return now + length - (now - offset) % length

    def _share(self, handler: str, count: int) -> frozenset[int]:
        share = self._ours.get((handler, count))
        if share is None:
            holders = [holder for holder, handlers in self._others.items() if handler in handlers]
            shares = shared_out(count, handler, [*holders, self._holder])
            share = self._ours[handler, count] = frozenset(shares[self._holder])
        return share
