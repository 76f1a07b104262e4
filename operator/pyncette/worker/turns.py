"""Decides which partitions are polled next, and when: every partition has its turn, and no backlog delays another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pyncette.clock import MILLISECOND, SECOND, Duration, Instant
from pyncette.core.record import Partition
from pyncette.core.runs import NEVER

CONTENDED_PAUSE: Final[Duration] = 10 * MILLISECOND
"""
The pause after a poll that got less than was claimable: a record was locked or cannot be read, or others were faster.
It doubles from poll to poll, until a poll gets something or nothing more is claimable.
"""

LOCKED_PAUSE_MAX: Final[Duration] = 80 * MILLISECOND
"""The longest of these pauses while the lock may be our own: a run starts at most 100 ms after the lock ends."""

LOCK_MAX: Final[Duration] = 10 * SECOND
"""Backends end our own statements after this time, so a lock that lasts longer belongs to another program."""

CONTENDED_PAUSE_MAX: Final[Duration] = 1 * SECOND
"""The longest of these pauses, since each worker may repeat such a poll for hours."""


class Pauses:
    """The pauses between polls that got less than was claimable."""

    def __init__(self) -> None:
        self._last: Duration = 0
        self._total: Duration = 0

    def next(self) -> Duration:
        """Return how long to pause now."""
        longest = LOCKED_PAUSE_MAX if self._total < LOCK_MAX else CONTENDED_PAUSE_MAX
        self._last = min(max(2 * self._last, CONTENDED_PAUSE), longest)
        self._total += self._last
        return self._last

    def reset(self) -> None:
        """Start with the shortest pause again."""
        self._last = self._total = 0


class Turns:
    """
    The order in which partitions are polled, and the time of the next poll.

    In a round, each partition that is not backlogged is polled once. The answers tell when another round is worth it.
    Until then the backlogged partitions have all slots, and after each round they have at least one poll. So a backlog
    delays no other partition, and the polls of empty partitions do not hold it up.

    *now* is the backend's time. *real_time* is that of the event loop in seconds, which passes even where time is
    simulated. Occurrences are claimed up to *ahead* before they are due. Everything is polled at least every *interval*.
    """

    def __init__(self, interval: Duration, ahead: Duration = 0) -> None:
        self.next_at: Instant = 0
        """When the next poll is worth it."""
        self.stale_at = 0.0
        """The real time to poll everything again: others may have changed something unnoticed."""
        self.is_contended = False
        """True if a poll of this round got less than was claimable, so that the next round comes after a pause."""
        self._interval = interval
        self._ahead = ahead
        self._lead = ahead // 2
        """
        How long before something is due the poll comes that claims it: longer than a claim takes. That poll also claims
        what is due soon after, so that occurrences due one by one do not cost a claim each.
        """
        self._pauses = Pauses()
        self._first = 0
        """The index of the partition that begins the current round."""
        self._round: list[Partition] = []
        """Partitions that are still to be polled before the worker may sleep."""
        self._round_next_at: Instant = NEVER
        """When the next round is worth it."""
        self._backlogged: list[Partition] = []
        """Partitions that may hold more than their last limit let through; they are polled outside of the rounds."""
        self._backlog_waited = False
        """True if a round has begun since backlogged partitions were last polled."""

    @property
    def backlogged(self) -> frozenset[Partition]:
        """The partitions that had more due than the last poll could take."""
        return frozenset(self._backlogged)

    def due_at(self, at: Instant) -> bool:
        """Plan a poll for what is due *at*, and say whether that is sooner than the poll planned so far."""
        return self.poll_at(at - self._lead)

    def poll_at(self, at: Instant) -> bool:
        """Plan a poll for *at*, and say whether that is sooner than the poll planned so far."""
        # A round of several polls plans the next one anew with each; this plan must not be lost in between.
        self._round_next_at = min(self._round_next_at, at)
        if at >= self.next_at:
            return False
        self.next_at = at
        return True

    def poll_now(self) -> None:
        """Poll everything again, including what this round has polled already."""
        self._round_next_at = 0
        self.next_at = 0

    def start_over(self) -> None:
        """Forget rounds and backlogs after a poll that failed: their partitions are found again."""
        self._round, self._backlogged = [], []
        self.next_at = 0

    def begin_poll(self) -> None:
        """Forget the planned time: whatever plans a poll from now on has news."""
        self.next_at = NEVER

    def needs_round(self, now: Instant, real_time: float) -> bool:
        """Say whether a new round has to begin before partitions can be taken."""
        if self._round:
            return False
        is_due = now >= self._round_next_at or real_time >= self.stale_at
        return not self._backlogged or (is_due and not self._backlog_waited)

    def begin_round(self, partitions: Sequence[Partition], real_time: float) -> None:
        """Begin a round of all *partitions* of this worker; each round begins with another one."""
        self._first = (self._first + 1) % max(1, len(partitions))
        backlogged = set(self._backlogged)
        self._round = [
            partition
            for partition in (*partitions[self._first :], *partitions[: self._first])
            if partition not in backlogged
        ]
        self._round_next_at = NEVER
        if not self.is_contended:
            self._pauses.reset()
        self.is_contended = False
        self._backlog_waited = True
        self.stale_at = real_time + self._interval / SECOND

    def take(self, at_most: int) -> list[Partition]:
        """Return the next partitions to poll: those of the round, or else the backlogged ones."""
        if self._round:
            taken, self._round = self._round[:at_most], self._round[at_most:]
        else:
            taken, self._backlogged = self._backlogged[:at_most], self._backlogged[at_most:]
            self._backlog_waited = False
        return taken

    def put_first(self, partitions: Sequence[Partition]) -> None:
        """Poll *partitions* next, before the rest of the round."""
        self._round = [*partitions, *self._round]

    def repeat(self, partitions: Sequence[Partition], now: Instant) -> None:
        """Poll *partitions* once more, at once."""
        self.put_first(partitions)
        self.next_at = min(self.next_at, now)

    def plan(self, now: Instant) -> None:
        """Plan the next poll, if none is planned sooner."""
        at = now if self._backlogged or self._round else self._round_next_at
        self.next_at = min(self.next_at, at)

    def polled(
        self,
        limits: Mapping[Partition, int],
        taken: Mapping[Partition, int],
        next_at: Instant | None,
        now: Instant,
        real_time: float,
    ) -> None:
        """
        Plan the next poll by the answer to one of *limits*, which got as many records as *taken* says.

        *next_at* is when to claim again, as the store says: see `Claimed.next_claimable_at`.
        """
        backlogged = [partition for partition, number in taken.items() if number >= limits[partition]]
        self._backlogged += backlogged
        if taken:
            self._pauses.reset()
        if next_at is not None and next_at > now:
            next_at += self._ahead - self._lead
        elif next_at is not None and not any(limits.values()):
            # Every limit was 0, for want of permits. By then some are free, or none can be had.
            next_at = now + CONTENDED_PAUSE
        elif next_at is not None and not backlogged:
            self._pause(real_time)
            next_at = None
        # Backlogged partitions are polled again anyway. If all are, this time tells of no other. If only some are, their
        # backlog may hide when the others are next due, and these have to be polled once more, by themselves.
        if next_at is not None and len(backlogged) < len(limits):
            self._round_next_at = min(self._round_next_at, next_at)
        self.plan(now)

    def _pause(self, real_time: float) -> None:
        """Begin the next round after a pause, in real time even where time is simulated, since locks are real."""
        if not self.is_contended:
            self.is_contended = True
            self.stale_at = min(self.stale_at, real_time + self._pauses.next() / SECOND)
