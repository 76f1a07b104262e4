"""Notifies workers of records that become claimable sooner than they expect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pyncette.clock import SECOND, Clock, Duration, Instant
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Change, Partition, Record
from pyncette.errors import StoreError
from pyncette.store.base import Notification, Store

logger = naming_logger(__name__)

ANNOUNCED_AHEAD: Final[Duration] = 20 * SECOND
"""
Other processes are notified of records that become claimable within this time. Workers find later ones by themselves:
they poll at least every `SAFETY_POLL`, which is half of this. The other half is for slow polls and for clocks that differ.
"""

Wake = Callable[[Partition, Instant], None]
"""Takes a partition with a claimable record, and the time from which it is claimable."""


class Announcements:
    """Notifications of what is claimable: to the worker of this process by *wake*, to others through the store."""

    def __init__(self, store: Store, clock: Clock, wake: Wake | None) -> None:
        self._store = store
        self._clock = clock
        self.wake = wake

    async def announce(self, changes: Iterable[Change | None], *, by_holder: bool = False) -> None:
        """
        Announce each record that may be claimable sooner than workers expect: see `_announced_at`.

        The worker of this process is woken however far ahead the record is claimable. Other processes are notified if
        that is within `ANNOUNCED_AHEAD`, since a notification is expensive for some backends. Sleeping workers find
        later records by polling. Simulated time may skip that poll, so it has no such limit.
        """
        soonest: dict[Partition, Instant] = {}
        for change in changes:
            at = None if change is None else _announced_at(change, by_holder=by_holder)
            if change is not None and change.after is not None and at is not None:
                partition = change.after.key.partition
                soonest[partition] = min(at, soonest.get(partition, at))
        if not soonest:
            return
        if self.wake is not None:
            for partition, at in soonest.items():
                self.wake(partition, at)
        if self._store.capabilities.notifies:
            await self._notify(soonest)

    async def _notify(self, soonest: Mapping[Partition, Instant]) -> None:
        last = self._clock.latest_after(ANNOUNCED_AHEAD)
        notifications = [Notification(partition, at) for partition, at in soonest.items() if at <= last]
        if not notifications:
            return
        try:
            await self._store.notify(notifications)
        except StoreError as error:
            # The write stands, and other workers find the records at their next poll.
            logger.debug("could not notify workers of claimable records", extra={"error": str(error)})


def _announced_at(change: Change, *, by_holder: bool) -> Instant | None:
    """
    Return when the record of *change* is now claimable; None if workers need no notification.

    They need one if it is claimable sooner than it was, or has lost a lease: a worker that saw the lease sleeps until it
    ends. With *by_holder*, the holder of the lease has moved the record on, and knows when it is next claimable. Then
    others need a notification only if the record is due no later than before.
    """
    before, after = change.before, change.after
    at = _free_at(after)
    was_at = _free_at(before)
    if at is None or before is None or was_at is None:
        return at
    if by_holder:
        is_news = before.claimable_at is not None and at <= before.claimable_at
    else:
        is_news = at < was_at or (before.lease is not None and after is not None and after.lease is None)
    return at if is_news else None


def _free_at(record: Record | None) -> Instant | None:
    """Return when a worker that does not hold *record* can claim it."""
    if record is None or record.claimable_at is None:
        return None
    return record.claimable_at if record.lease is None else max(record.claimable_at, record.lease.expires_at)
