"""Turns rows of PostgreSQL into records, and changes into the columns of a statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Final

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, HistoryRow, Key, Lease, Partition, Record
from pyncette.store.codec import (
    PoisonedRecordError,
    decode_record,
    encode_run,
    encode_spec,
    encode_state,
    log_poisoned,
)
from pyncette.store.postgres_schema import NO_LEASE
from pyncette.store.postgres_statements import DOCUMENT_SEPARATOR

Columns = tuple[Any, ...]

PLACE: Final = 18
"""Where the answer to one of several questions says which one it answers, counted from 1."""

_key = partial(tuple.__new__, Key)  # half the time of calling the class, and a claim makes many
_claimable_at = itemgetter(11)


Located = tuple[int, Change]
"""A change, and the id of the record that it is about. A list of them is ordered by the ids, as all lock them."""


Told = tuple[int, Key, HistoryRow]
"""A row of history: the id of the record that tells it, and whose it is. A list of them is in the order of the batch."""


# --- Rows ------------------------------------------------------------------------------------------------------------


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


# --- Columns ---------------------------------------------------------------------------------------------------------


def names_of(keys: Iterable[Key], ids: Mapping[Partition, int]) -> Columns:
    """Return the columns that name *keys*: partition, task, instance, occurrence."""
    keys = list(keys)
    return (
        [ids[key.partition] for key in keys],
        [key.task for key in keys],
        [key.instance for key in keys],
        [key.occurrence for key in keys],
    )


def is_completion(change: Change) -> bool:
    """Say whether *change* ends an occurrence and writes no history: it goes by a statement with fewer columns."""
    before, after, rows, _, group = change
    return (
        before is not None
        and after is not None
        and after.lease is None
        and after.attempt == 0
        and after.began_at is None
        and not rows
        and not group
        and after.spec is before.spec
        and after.version == before.version + 1
        and after.fence == before.fence
        and after.schedule_since == before.schedule_since
        and after.lease_length == before.lease_length
    )


def parts_of(changes: Sequence[Change]) -> list[Sequence[Change]]:
    """
    Return *changes* in parts that one statement each can make.

    That is one part, unless a record is removed of which another change tells a row of history: a statement that both
    removes and writes a row does it in an order of its own.
    """
    homes = {home for change in changes if (home := change.history_of)}
    if not homes or homes.isdisjoint(
        change.before.key for change in changes if change.before and not change.after
    ):
        return [changes] if changes else []
    parts: list[Sequence[Change]] = []
    begin, told, removed = 0, set[Key](), set[Key]()
    for place, change in enumerate(changes):
        gone = change.before.key if change.before and not change.after else None
        if gone in told or change.history_of in removed:
            parts.append(changes[begin:place])
            begin, told, removed = place, set(), set()
        told.update([change.history_of] if change.history_of else [])
        removed.update([gone] if gone else [])
    return [*parts, changes[begin:]]


def partitions_told_of(changes: Sequence[Change]) -> set[Partition]:
    """Return the partitions that names in *changes* begin with."""
    keys = [record.key for change in changes if (record := change.after or change.before)]
    return {key.partition for key in keys + [change.history_of for change in changes if change.history_of]}


def completion_columns(completed: Sequence[Located]) -> Columns:
    """Return the columns of `Statements.complete`."""
    afters: list[Any] = [change.after for _, change in completed]
    return (
        _integers([id_ for id_, _ in completed]),
        _versions(completed),
        _integers([after.due_at for after in afters]),
        _integers([after.claimable_at for after in afters]),
        _documents([encode_state(after.state) for after in afters]),
    )


def swap_columns(located: Sequence[Located], told: Sequence[Told], ids: Mapping[Partition, int]) -> Columns:
    """Return the columns of `Statements.swap`, and those more of `Statements.swap_together` if there are groups."""
    created = [(id_, change) for id_, change in located if change.before is None]
    updated = [(id_, change) for id_, change in located if change.before and change.after]
    deleted = [(id_, change) for id_, change in located if change.after is None]
    grouped = has_groups(change for _, change in located)
    # One statement updates and another deletes; if there are both, one takes the locks for both, in order.
    locking = grouped or (updated and deleted)
    held = [(id_, change) for id_, change in located if change.before] if locking else []
    groups = [
        _integers([change.group for _, change in changes]) for changes in (created, held, updated, deleted)
    ]
    return (
        *_created(created, ids),
        _integers([id_ for id_, _ in held]),
        _versions(held),
        *_updated(updated),
        _integers([id_ for id_, _ in deleted]),
        _versions(deleted),
        _integers([id_ for id_, _, _ in told]),
        *_names([key for _, key, _ in told], ids),
        _integers([row.slot for _, _, row in told]),
        _documents([encode_run(row.run) for _, _, row in told]),
        *(groups if grouped else ()),
    )


def has_groups(changes: Iterable[Change]) -> bool:
    """Say whether some of *changes* are to be made together or not at all."""
    return any(change.group for change in changes)


def told_rows(located: Sequence[int | None], changes: Sequence[Change]) -> list[Told]:
    """Return the rows of history of *changes*, whose records have the ids *located*."""
    return [
        (id_, key, row)
        for id_, change in zip(located, changes, strict=True)
        if change.history and id_ is not None and (key := _home(change)) is not None
        for row in change.history
    ]


def _versions(located: Sequence[Located]) -> str:
    return _integers([change.before.version for _, change in located if change.before])


def _values(records: Sequence[Record]) -> Columns:
    return (
        _integers([record.version for record in records]),
        _integers([record.fence for record in records]),
        _integers([record.due_at for record in records]),
        _integers([record.schedule_since for record in records]),
        _integers([record.claimable_at for record in records]),
        _integers([record.lease_length for record in records]),
        _integers([record.attempt for record in records]),
        _integers([record.began_at for record in records]),
        _documents([encode_state(record.state) for record in records]),
    )


def _names(keys: Sequence[Key], ids: Mapping[Partition, int]) -> Columns:
    partitions, *names = names_of(keys, ids)
    return _integers(partitions), *names


def _leases(records: Sequence[Record]) -> Columns:
    leases = [record.lease for record in records]
    return (
        _integers([NO_LEASE if lease is None else lease.expires_at for lease in leases]),
        [None if lease is None else lease.id for lease in leases],
        [None if lease is None else lease.holder for lease in leases],
    )


def _integers(values: Sequence[int | None]) -> str:
    """Return *values* as the text of an array; `statements.integers` says why."""
    text = "{" + repr(values)[1:-1] + "}"
    return text.replace("None", "NULL") if "N" in text else text


def _documents(texts: Sequence[str]) -> str:
    """Return JSON texts as one. Raises ValueError if one is no JSON, which cannot hold the separator."""
    text = DOCUMENT_SEPARATOR.join(texts)
    if text.count(DOCUMENT_SEPARATOR) >= len(texts) > 0:
        raise ValueError("The arguments of an instance must be JSON, which knows no control characters.")
    return text


def _created(created: Sequence[Located], ids: Mapping[Partition, int]) -> Columns:
    records = [change.after for _, change in created if change.after]
    return (
        _integers([id_ for id_, _ in created]),
        *_names([record.key for record in records], ids),
        *_values(records),
        _documents([encode_spec(record.spec) for record in records]),
        *_leases(records),
    )


def _updated(updated: Sequence[Located]) -> Columns:
    pairs = [(change.before, change.after) for _, change in updated if change.before and change.after]
    afters = [after for _, after in pairs]
    return (
        _integers([id_ for id_, _ in updated]),
        _versions(updated),
        *_values(afters),
        _documents(["" if after.spec is before.spec else encode_spec(after.spec) for before, after in pairs]),
        [_same_lease(before, after) for before, after in pairs],
        *_leases(afters),
    )


def _same_lease(before: Record, after: Record) -> bool:
    if before.lease is None or after.lease is None:
        return before.lease is after.lease
    return before.lease.id == after.lease.id


def _home(change: Change) -> Key | None:
    """Return whose history *change* tells; None for one that goes with the record that it is of."""
    record = change.after or change.before
    assert record is not None
    key = change.history_of or record.key
    gone = change.after is None and not record.key.occurrence and key == record.key
    return None if gone else key
