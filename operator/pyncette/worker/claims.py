"""Claims records for one worker, and corrects its clock by the answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import NamedTuple

from pyncette.clock import Clock, Duration, Instant
from pyncette.core.record import Partition, Record
from pyncette.store.base import Store


class Claim(NamedTuple):
    """The answer to a claim."""

    records: Sequence[Record]
    now: Instant
    """The time that the leases were stamped with."""
    held_since: Duration
    """When the leases begin at the latest, by the monotonic clock."""
    next_claimable_at: Instant | None
    """As in `Claimed`."""


class Claims:
    """
    The claims of the worker *holder*.

    Occurrences are claimed up to *ahead* before they are due. A listener enters *polling* for the time of each claim.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        holder: str,
        ahead: Duration,
        polling: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ahead = ahead
        self._polling = polling
        self._lease_ids = (f"{secrets.token_hex(8)}-{number:x}" for number in count())
        self.claimed = 0
        """Records, so far."""

    async def claim(self, limits: Mapping[Partition, int]) -> Claim:
        """Claim what is due, and what is due soon. Raises StoreError."""
        return await self._claim(limits, self._ahead, 0)

    async def claim_overdue(self, limits: Mapping[Partition, int], age: Duration) -> Claim:
        """Claim only what has been claimable for *age*; leases are stamped that much earlier. Raises StoreError."""
        return await self._claim(limits, 0, age)

    async def _claim(self, limits: Mapping[Partition, int], ahead: Duration, age: Duration) -> Claim:
        clock = self._clock
        asked_at, now = clock.monotonic(), clock.now()
        stamp = now - age
        with self._polling():
            claimed = await self._store.claim(
                limits, next(self._lease_ids), self._holder, stamp, clock.expired_at() - age, ahead
            )
        answered_at = clock.monotonic()
        self.claimed += len(claimed.records)
        for length in {record.lease_length for record in claimed.records}:
            clock.expect_lease(length)
        clock.observe(claimed.backend_now, asked_at, answered_at)
        held_since = asked_at - clock.lag(now, claimed.backend_now, asked_at, answered_at) - age
        return Claim(claimed.records, stamp, held_since, claimed.next_claimable_at)
