"""Turns changes into rows, and a batch of changes into the script that makes them, on MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyncette.core.record import Partition, Record
from pyncette.store.codec import encode_run, encode_spec, encode_state
from pyncette.store.mysql.schema import NO_LEASE
from pyncette.store.mysql.statements import BEGIN, COMMIT, Statements, name_of
from pyncette.store.sql.changes import HistoryWrite, Located, same_lease

Row = list[Any]


def completion_rows(completed: Sequence[Located]) -> list[Row]:
    """Return the rows of `Statements.complete`."""
    return [
        [id_, before.version, after.due_at, after.claimable_at, encode_state(after.state)]
        for id_, (before, after, *_) in completed
        if before and after
    ]


def swap_script(
    sql: Statements,
    located: Sequence[Located],
    history: Sequence[HistoryWrite],
    ids: Mapping[Partition, int],
    stamp: int,
) -> list[str]:
    """
    Return the transaction that makes changes of every kind, and a group as a whole or not at all.

    All transactions take locks in one order: existing records by their ids, then new records by their names, then rows of
    history. Each record that is unchanged gets the *stamp* of this batch, and only stamped records are written.
    """
    created = [(id_, change) for id_, change in located if change.before is None]
    updated = [(id_, change) for id_, change in located if change.before and change.after]
    deleted = [(id_, change) for id_, change in located if change.after is None]
    grouped = [[id_, change.group] for id_, change in located if change.group]
    # An update stamps its records itself, unless groups must be checked or more records locked before.
    marking = bool(grouped or deleted)
    script = [BEGIN]
    if marking and (held := [[id_, change.before.version] for id_, change in located if change.before]):
        script.append(sql.mark(held, stamp))
    if created:
        script.append(sql.create(_created(created, ids), stamp))
    if grouped:
        script += sql.hold_back(grouped, [[id_] for id_, change in created if change.group], stamp)
    if updated:
        script.append(sql.update(_updated(updated), stamp, marked=marking))
    script.append(sql.winners([[id_] for id_, _ in located], stamp))
    if history:
        script.append(sql.write_history(_history(history, ids), stamp))
    if deleted:
        script += sql.delete([[id_] for id_, _ in deleted], stamp)
    return [*script, COMMIT]


def _created(created: Sequence[Located], ids: Mapping[Partition, int]) -> list[Row]:
    return [
        [id_, *name_of(after.key, ids), *_values(after, encode_spec(after.spec))]
        for id_, (_, after, *_) in created
        if after
    ]


def _updated(updated: Sequence[Located]) -> list[Row]:
    return [
        [
            id_,
            before.version,
            int(same_lease(before, after)),
            *_values(after, None if after.spec is before.spec else encode_spec(after.spec)),
        ]
        for id_, (before, after, *_) in updated
        if before and after
    ]


def _values(record: Record, spec: str | None) -> Row:
    """Return the columns `VALUES`."""
    lease = record.lease
    return [
        record.version,
        record.fence,
        record.due_at,
        record.schedule_since,
        record.claimable_at,
        record.lease_length,
        record.attempt,
        record.began_at,
        encode_state(record.state),
        spec,
        NO_LEASE if lease is None else lease.expires_at,
        None if lease is None else lease.id,
        None if lease is None else lease.holder,
    ]


def _history(history: Sequence[HistoryWrite], ids: Mapping[Partition, int]) -> list[Row]:
    """Return the rows of history in the order of their locks; those of one slot in the order of the batch."""
    rows = [[id_, *name_of(key, ids), row.slot, encode_run(row.run)] for id_, key, row in history]
    return sorted(rows, key=lambda row: row[1:6])
