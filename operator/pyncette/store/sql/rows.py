"""Turns the rows of SQL servers into records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

from pyncette.clock import Duration, Instant
from pyncette.core.record import Key, Lease, Partition, Record
from pyncette.store.base import Counted
from pyncette.store.codec import PoisonedRecordError, decode_record, log_poisoned

POSITION: Final = 18
"""The column after those of a record. It holds the position of the key that was asked for, counted from 1."""

# perf: half the time of calling the class, and a claim makes hundreds. tests/store/test_sql.py checks the order of the fields.
_key = partial(tuple.__new__, Key)
_claimable_at = itemgetter(11)


def record_of(row: Sequence[Any], partition: Partition) -> Record | None:
    """Return the record in *row*. A record that cannot be read is logged, and None."""
    (
        id_, _, task, instance, occurrence, spec, state, version, fence, due_at, since,
        claimable_at, length, attempt, began_at, lease_until, lease_id, holder,
    ) = row[:POSITION]  # fmt: skip
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
    """Return the records of a claim, soonest first, without those that cannot be read."""
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


def counted(numbers: Sequence[int], task: str | None, limit: int) -> Counted:
    """
    Return what *numbers* of a count mean, of which at most *limit* were read each.

    They are: the due, and the records read for that; the leased, and the further records read for that; the instances,
    and the names read for that.
    """
    due, due_read, leased, further_read, total, names_read = numbers
    exact = max(due_read, further_read) < limit
    return Counted(due, min(leased, limit), exact, None if task is None or names_read > limit else total)
