"""The records of permits: where they are stored, which are missing, and how they are removed with their task or limit."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record
from pyncette.core.spec import Spec
from pyncette.store.base import Store

PERMITS_REALM: Final = f"{RESERVED_REALMS}permits"
"""
The permits of a task are a partition here, and a free one is a record that is due: so to claim is to take some, and
what a worker that died has held is free again when its leases end. No leader hands them out.
"""

PAGE: Final = 500
"""Permits that are read, created or removed at once."""


def permit_partition(realm: str, handler: str, task: str) -> Partition:
    """Return where the permits of a *task* are, or of all records of a handler if *task* is its name."""
    place = f"{realm}\0{handler}\0{task}"
    return Partition(PERMITS_REALM, blake2b(place.encode(), digest_size=16).hexdigest())


def permit_key(partition: Partition, task: str, number: int) -> Key:
    """Return the key of a permit; permits are numbered from 0."""
    return Key(partition, task, f"{number:05}")


def number_of(record: Record) -> int:
    """Return which permit a record is."""
    return int(record.key.instance)


def new_permit(partition: Partition, task: str, number: int, length: Duration, now: Instant) -> Record:
    """Return a free permit, whose leases have this *length*."""
    return Record(
        key=permit_key(partition, task, number),
        spec=Spec(args=msgspec.Raw(b"{}")),
        version=now,
        fence=now,
        due_at=None,
        schedule_since=now,
        claimable_at=number,  # long ago: the first are taken first, so what a lower limit leaves over is not
        lease_length=length,
    )


async def missing_permits(
    store: Store, partition: Partition, task: str, first: int, limit: int, at_most: int
) -> list[int]:
    """Return the lowest missing numbers from *first* to below *limit*, at most *at_most* of them. Raises StoreError."""
    missing: list[int] = []
    after = permit_key(partition, task, first - 1) if first else None
    while first < limit and len(missing) < at_most:
        page = await store.scan(partition, task, after, PAGE)
        there = {number_of(record) for record in page}
        end = min(limit, number_of(page[-1]) + 1) if page else limit
        for number in range(first, end):
            if number not in there:
                missing.append(number)
                if len(missing) == at_most:
                    break
        first = end
        after = page[-1].key if page else None
    return missing


async def remove_permits(
    store: Store, partition: Partition, task: str, now: Instant, *, limit: int = 0
) -> None:
    """
    Remove the permits from number *limit* on that are free at *now*. Raises StoreError.

    A held one is removed when it is released, if its worker knows the limit by then.
    """
    last = permit_key(partition, task, limit - 1) if limit else None
    while page := await store.scan(partition, task, last, PAGE):
        free = [record for record in page if not record.is_leased(now)]
        size = store.capabilities.swap_batch_max
        for start in range(0, len(free), size):
            await store.swap([Change(record, None) for record in free[start : start + size]])
        last = page[-1].key
