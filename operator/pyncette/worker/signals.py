"""Wakes the loops of a worker: the poller, when a poll may be worth it sooner than planned, and the renewer."""

from __future__ import annotations

import asyncio
from typing import Final

from pyncette.clock import Clock, Instant
from pyncette.core.record import Partition
from pyncette.worker.partitions import Partitions
from pyncette.worker.turns import Turns

FOR_ALL: Final[Instant] = 0
"""The time of a notification to every worker with a free slot: another one cannot poll its own partitions."""


class Signals:
    """The events that the parts of a worker share; it is made before all of them."""

    def __init__(self, clock: Clock, turns: Turns, partitions: Partitions) -> None:
        self.poll_sooner = asyncio.Event()
        """The next poll was brought forward."""
        self.slot_freed = asyncio.Event()
        """A slot has become free."""
        self._clock = clock
        self._turns = turns
        self._partitions = partitions
        self._renew_sooner = asyncio.Event()
        self._renewer_loop: asyncio.AbstractEventLoop | None = None

    def claimable(self, partition: Partition, at: Instant) -> None:
        """Plan a poll for a record of *partition* that is claimable *at*; `FOR_ALL` also polls partitions of other workers."""
        assignment = self._partitions.assignment
        if assignment is not None:
            if at == FOR_ALL:
                assignment.hurry()
                self.poll_sooner.set()
            if not self._partitions.is_ours(partition):
                return
        if self._turns.due_at(at):
            self.poll_sooner.set()

    def poll_now(self) -> None:
        """Poll everything again as soon as a slot is free, including what this round has polled already."""
        self._turns.poll_now()
        self.poll_sooner.set()

    def permit_free(self, at: Instant) -> None:
        """Poll for records that had no permit: one may be free *at*."""
        if at <= self._clock.now():
            self.poll_now()
        elif self._turns.poll_at(at):
            self.poll_sooner.set()

    def renewals(self) -> asyncio.Event:
        """Return the event that `renew_sooner` sets in the running loop, which may be on a thread of its own."""
        self._renewer_loop = asyncio.get_running_loop()
        return self._renew_sooner

    def renew_sooner(self) -> None:
        """Have the next renewal planned again: it may be due sooner than it was. Can be called from any thread."""
        loop = self._renewer_loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._renew_sooner.set)
