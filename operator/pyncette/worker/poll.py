"""Looks for what is due: sleeps until something may be claimable, claims as much as there are slots, and starts it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final

from pyncette.clock import MILLISECOND, SECOND, Clock, Duration, Instant
from pyncette.core import rules
from pyncette.core.record import Partition, Record
from pyncette.core.rules import Beginning
from pyncette.core.spec import Policies
from pyncette.errors import SchemaError, StoreError
from pyncette.ledger import Ledger
from pyncette.store.base import Claimed, Notification
from pyncette.worker.occurrence import Registration
from pyncette.worker.outbox import Outbox
from pyncette.worker.patience import Patience
from pyncette.worker.run import Runs

logger = logging.getLogger(__name__)

SAFETY_LOOK: Final[Duration] = 10 * SECOND
"""Where the backend notifies, a look comes at least this often: a notification may get lost."""

BEATEN_PAUSE: Final[Duration] = 10 * MILLISECOND
"""The wait after a look that found claimable records and got none: others are faster, or the records cannot be read."""

HINT_PAUSE: Final[Duration] = 100 * MILLISECOND
"""A worker that has no slot for what is due says so at most this often, for those that have."""


class Poller:
    """Claims, and hands over to the runs."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        runs: Runs,
        outbox: Outbox,
        patience: Patience,
        registrations: Sequence[Registration],
        holder: str,
        batch_size: int,
        interval: Duration,
        polled: Callable[[float, BaseException | None], None],
    ) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._clock = clock
        self._runs = runs
        self._outbox = outbox
        self._patience = patience
        self._registrations = registrations
        self._holder = holder
        self._batch_size = batch_size
        self._interval = SAFETY_LOOK if self._store.capabilities.notifies else interval
        self._polled = polled
        self._woken = asyncio.Event()
        self._next_at: Instant = 0
        self._stopping = False
        self._parked = False
        self._polled_at: Instant | None = None
        self._hinted_at: Instant = 0
        self._hungry: frozenset[Partition] = frozenset()
        self._turn = count()
        self._lease_ids = (f"{secrets.token_hex(8)}-{number:x}" for number in count())
        self._starting: set[asyncio.Task[None]] = set()

    @property
    def polled_at(self) -> Instant | None:
        """When the last look ended; now, while it waits for the next one to be worth it."""
        return self._clock.now() if self._parked and self._polled_at is not None else self._polled_at

    @property
    def is_parked(self) -> bool:
        """Whether nothing is claimable, as far as is known, and nothing is being started."""
        return (
            self._parked
            and not self._woken.is_set()
            and not self._starting
            and self._next_at > self._clock.now()
        )

    def wake(self, _: Partition, at: Instant) -> None:
        """Take note that something is claimable at *at*."""
        if at < self._next_at:
            self._next_at = at
            self._woken.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._woken.set()
        self._runs.freed.set()

    async def run(self) -> None:
        """Look whenever it may be worth it, until stopped."""
        waits = self._patience.waits()
        while not self._stopping:
            if self._runs.free <= 0 or self._outbox.is_full:
                await self._wait_for_a_slot()
            elif self._next_at > self._clock.now():
                await self._park()
            else:
                try:
                    await self._look()
                except SchemaError:
                    raise
                except StoreError as error:
                    self._polled(0.0, error)
                    self._next_at = 0
                    await self._patience.wait("nothing is claimed until it does", error, waits)
                else:
                    self._patience.answered()
                    waits = self._patience.waits()
        if self._starting:
            await asyncio.wait(self._starting)

    async def _park(self) -> None:
        self._parked = True
        try:
            await self._clock.wait(self._woken, self._next_at)
        finally:
            self._parked = False
            self._woken.clear()

    async def _wait_for_a_slot(self) -> None:
        """Wait, and if something falls due in the meantime tell the others: they may have slots, and not know of it."""
        self._runs.freed.clear()
        if self._runs.free > 0 and not self._outbox.is_full:
            return
        if await self._clock.wait(self._runs.freed, self._clock.now() + HINT_PAUSE):
            return
        now = self._clock.now()
        if self._store.capabilities.notifies and now >= self._next_at and now >= self._hinted_at + HINT_PAUSE:
            self._hinted_at = now
            partitions = [
                partition for registration in self._registrations for partition in registration.partitions
            ]
            try:
                await self._store.notify([Notification(partition, now) for partition in partitions])
            except StoreError as error:
                logger.debug("no hint given", extra={"error": str(error)})

    async def _look(self) -> None:
        clock = self._clock
        now = clock.now()
        self._next_at = now + self._interval
        by_partition = {
            partition: registration
            for registration in self._registrations
            for partition in registration.partitions
        }
        limits = self._limits(by_partition)
        if not limits:
            return
        asked_at = clock.monotonic()
        claimed = await self._store.claim(
            limits, next(self._lease_ids), self._holder, now, clock.expired_at()
        )
        answered_at = clock.monotonic()
        clock.observe(claimed.backend_now, asked_at, answered_at)
        self._start(claimed.records, by_partition, now, asked_at)
        self._plan(claimed, limits, now)
        self._polled_at = clock.now()
        self._polled((answered_at - asked_at) / SECOND, None)

    def _limits(self, by_partition: dict[Partition, Registration]) -> dict[Partition, int]:
        """
        Share the free slots among the partitions in turns.

        Each gets an equal share first; what others leave goes, by a second look at once, to those that were still
        hungry. So a backlog in one delays no other, and is itself not held up by their emptiness.
        """
        free = min(self._runs.free, self._batch_size)
        wanted = [partition for partition in by_partition if not self._hungry or partition in self._hungry]
        self._hungry = frozenset()
        if not wanted:
            return {}
        if len(wanted) > free:
            first = next(self._turn) * free % len(wanted)
            wanted = (wanted + wanted)[first : first + free]
        share = max(1, free // len(wanted))
        limits = {}
        for partition in wanted:
            limit = min(share, self._runs.free_for(by_partition[partition]))
            if limit > 0:
                limits[partition] = limit
        return limits

    def _plan(self, claimed: Claimed, limits: dict[Partition, int], now: Instant) -> None:
        """Decide when the next look is worth it."""
        taken: dict[Partition, int] = {}
        for record in claimed.records:
            partition = record.key.partition
            taken[partition] = taken.get(partition, 0) + 1
        self._hungry = frozenset(
            partition for partition, number in taken.items() if number >= limits[partition]
        )
        at = claimed.next_claimable_at
        if self._hungry:
            self._next_at = now
        elif at is not None and at < self._next_at:
            self._next_at = at if claimed.records or at > now else now + BEATEN_PAUSE

    def _start(
        self,
        records: Sequence[Record],
        by_partition: dict[Partition, Registration],
        now: Instant,
        asked_at: Duration,
    ) -> None:
        writing: list[tuple[Beginning, Policies]] = []
        runs = self._runs
        for record in records:
            registration = by_partition[record.key.partition]
            policies = record.spec.policies or registration.policies
            try:
                beginning = rules.begin(record, policies, now)
            except Exception:
                # A record that cannot be decided hurts itself only: its lease expires, and it is seen again.
                logger.exception("a claimed record could not be decided", extra={"record": str(record.key)})
                continue
            if beginning.first:
                writing.append((beginning, policies))
            elif beginning.held is not None:
                runs.start(beginning.held, registration, asked_at + record.lease_length)
        if writing:
            runs.reserved += len(writing)
            task = asyncio.get_running_loop().create_task(
                self._write_and_start(writing, by_partition, asked_at)
            )
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _write_and_start(
        self,
        writing: Sequence[tuple[Beginning, Policies]],
        by_partition: dict[Partition, Registration],
        asked_at: Duration,
    ) -> None:
        """Run only what was written: a start at most once, or an occurrence beside its schedule."""
        try:
            ready = await self._ledger.start(writing)
        except StoreError as error:
            # Nothing is known of what was written, so nothing is run. The leases expire, and tell.
            logger.warning(
                "starts could not be written", extra={"error": str(error), "records": len(writing)}
            )
            self._runs.reserved -= len(writing)
            self._runs.freed.set()
            return
        self._runs.reserved -= len(writing)
        self._runs.freed.set()
        for held in ready:
            self._runs.start(
                held, by_partition[held.record.key.partition], asked_at + held.record.lease_length
            )
        soonest: dict[Partition, Instant] = {}
        for beginning, _ in writing:
            for change in beginning.first:
                if (
                    change.before is not None
                    and change.after is not None
                    and change.after.claimable_at is not None
                ):
                    partition = change.after.key.partition
                    at = change.after.claimable_at
                    soonest[partition] = min(at, soonest.get(partition, at))
        for partition, at in soonest.items():
            self.wake(partition, at)
