"""Turns the rows of servers that speak SQL into records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

from pyncette.clock import Duration, Instant
from pyncette.core.record import Key, Lease, Partition, Record
from pyncette.store.base import Counted
from pyncette.store.codec import PoisonedRecordError, decode_record, log_poisoned

PLACE: Final = 18
"""Where the answer to one of several questions says which one it answers, counted from 1."""

_key = partial(tuple.__new__, Key)  # half the time of calling the class, and a claim makes many
_claimable_at = itemgetter(11)


def record_of(row: Sequence[Any], partition: Partition) -> Record | None:
    """Return the record that stands in *row*, or None, logged, if it cannot be read."""
    (
        id_, _, task, instance, occurrence, spec, state, version, fence, due_at, since,
        claimable_at, length, attempt, began_at, lease_until, lease_id, holder,
    ) = row[:PLACE]  # fmt: skip
    lease = None if lease_id is None else Lease(lease_id, holder, lease_until)
    key = Key(partition, task, instance, occurrence)
    try:
        return decode_record(
            key, spec, state, version, fence, due_at, since, claimable_at, length, attempt, began_at, lease, id_
        )  # fmt: skip
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None


def claimed_records(
    rows: list[Any], partition_of: Mapping[int, Partition], lease_id: str, holder: str, now: Instant
) -> list[Record]:
    """Return the records of a claim that can be read, soonest first."""
    rows.sort(key=_claimable_at)
    leases: dict[Duration, Lease] = {}
    records = []
    for (
        id_, partition, task, instance, occurrence, spec, state, version, fence, due_at, since,
        claimable_at, length, attempt, began_at,
    ) in rows:  # fmt: skip
        lease = leases.get(length)
        if lease is None:
            lease = leases[length] = Lease(lease_id, holder, now + length)
        key = _key((partition_of[partition], task, instance, occurrence))
        try:
            records.append(decode_record(
                key, spec, state, version, fence, due_at, since, claimable_at, length, attempt, began_at, lease, id_
            ))  # fmt: skip
        except PoisonedRecordError as error:
            log_poisoned(error)
    return records


def counted(row: Sequence[int], task: str | None, limit: int) -> Counted:
    """Return what a count told: the due, of how many; the leased, of how many further ones; the instances, of how many names."""
    due, due_seen, leased, further_seen, total, named = row
    exact = max(due_seen, further_seen) < limit
    return Counted(due, min(leased, limit), exact, None if task is None or named > limit else total)
