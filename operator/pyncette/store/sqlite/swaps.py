"""Makes a batch of changes on SQLite: finds out which of them win, and writes these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyncette.core.record import Change, Key, Partition, Record
from pyncette.store.codec import encode_run, encode_spec, encode_state
from pyncette.store.sqlite.database import Session
from pyncette.store.sqlite.records import decode
from pyncette.store.sqlite.statements import Statements

_Name = tuple[int, str, str, str]
"""The columns of a key."""


class Swap:
    """
    A batch of changes, made in two steps.

    The event loop encodes the values. The thread of the database finds out which changes win, and writes these, statement
    by statement.
    """

    def __init__(self, sql: Statements, changes: Sequence[Change], ids: Mapping[Partition, int]) -> None:
        self._sql = sql
        self._changes = changes
        self._keys = [_name(_key_of(change), ids) for change in changes]
        self._history_names = [
            None if change.history_of is None else _name(change.history_of, ids) for change in changes
        ]
        self._states = [
            None if change.after is None else encode_state(change.after.state) for change in changes
        ]
        self._specs = [
            encode_spec(after.spec)
            if after is not None and (before is None or before.spec is not after.spec)
            else None
            for before, after, *_ in changes
        ]
        self._runs = {
            number: [(row.slot, encode_run(row.run)) for row in change.history]
            for number, change in enumerate(changes)
            if change.history
        }

    def make(self, session: Session) -> list[bool]:
        sql, changes = self._sql, self._changes
        ids = self._winners(session)
        won = [number in ids for number in range(len(changes))]
        creations: list[tuple[Any, ...]] = []
        updates: list[tuple[Any, ...]] = []
        specs: list[tuple[Any, ...]] = []
        deletions: list[tuple[int]] = []
        freed: list[tuple[int]] = []
        kept: list[tuple[Any, ...]] = []
        put: list[int] = []
        for number, id_ in ids.items():
            before, after, *_ = changes[number]
            if after is None:
                deletions.append((id_,))
            elif before is None:
                creations.append(self._creation(number, after))
            else:
                updates.append(self._update(number, id_, after))
                if self._specs[number] is not None:
                    specs.append((id_, self._specs[number]))
            lease = None if after is None else after.lease
            old = None if before is None else before.lease
            if after is None or lease is None:
                if old is not None:
                    freed.append((id_,))
            elif old is not None and old.id == lease.id:
                kept.append((id_, after.version, after.fence, after.attempt, after.began_at))
            else:
                put.append(number)
        sql.create.write(session, creations)
        sql.update.write(session, updates)
        sql.update_spec.write(session, specs)
        sql.free.write(session, freed)
        sql.keep_lease.write(session, kept)
        sql.put_lease.write(session, self._leases(session, ids, put))
        sql.delete.write(session, deletions)
        sql.remember.write(session, self._rows(won))
        sql.forget.write(session, self._forgotten(ids))
        return won

    def _winners(self, session: Session) -> dict[int, int]:
        """Return the ids of the records whose *before* is current, by their index in the batch; 0 for new records."""
        placed: list[tuple[int, int, int]] = []
        named: list[tuple[Any, ...]] = []
        for number, (before, *_) in enumerate(self._changes):
            if before is not None and before.locator is not None:
                placed.append((number, before.locator, before.version))
            else:
                named.append((*self._keys[number], number))
        ids = {number: id_ for number, id_, _ in placed}
        won: dict[int, int] = {}
        for text in self._sql.unchanged.read(session, placed):
            for number in decode(text):
                won[number] = ids[number]
        found = self._found(session, named)
        for *_, number in named:
            before = self._changes[number].before
            if before is None and number not in found:
                won[number] = 0
            elif before is not None and number in found and found[number][1] == before.version:
                won[number] = found[number][0]
        return self._whole_groups(won)

    def _whole_groups(self, won: dict[int, int]) -> dict[int, int]:
        """Return *won* without the changes of groups in which one lost."""
        broken = {
            change.group for number, change in enumerate(self._changes) if change.group and number not in won
        }
        if not broken:
            return won
        return {number: id_ for number, id_ in won.items() if self._changes[number].group not in broken}

    def _found(self, session: Session, named: list[Any]) -> dict[int, tuple[int, int]]:
        return {
            number: (id_, version)
            for text in self._sql.found.read(session, named)
            for number, id_, version in decode(text)
        }

    def _creation(self, number: int, after: Record) -> tuple[Any, ...]:
        return (
            *self._keys[number],
            after.version,
            after.fence,
            after.due_at,
            after.schedule_since,
            after.claimable_at,
            after.lease_length,
            after.attempt,
            after.began_at,
            self._states[number],
            self._specs[number],
        )

    def _update(self, number: int, id_: int, after: Record) -> tuple[Any, ...]:
        return (
            id_,
            after.version,
            after.fence,
            after.due_at,
            after.schedule_since,
            after.claimable_at,
            after.lease_length,
            after.attempt,
            after.began_at,
            self._states[number],
        )

    def _leases(self, session: Session, ids: Mapping[int, int], put: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return the rows of new leases. The ids of records that were just created are read from the table."""
        created = self._found(session, [(*self._keys[number], number) for number in put if not ids[number]])
        rows = []
        for number in put:
            after = self._changes[number].after
            assert after is not None
            assert after.lease is not None
            rows.append(
                (
                    ids[number] or created[number][0],
                    self._keys[number][0],
                    *after.lease,
                    after.version,
                    after.fence,
                    after.attempt,
                    after.began_at,
                )
            )
        return rows

    def _rows(self, won: Sequence[bool]) -> list[tuple[Any, ...]]:
        return [
            (*(self._history_names[number] or self._keys[number]), slot, text)
            for number, runs in self._runs.items()
            if won[number]
            for slot, text in runs
        ]

    def _forgotten(self, ids: Mapping[int, int]) -> list[tuple[Any, ...]]:
        """Return the keys whose history is deleted with their record."""
        return [
            self._keys[number]
            for number in ids
            if self._changes[number].after is None and not self._keys[number][3]
        ]


def _key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key


def partitions_of(changes: Sequence[Change]) -> set[Partition]:
    of_history = {change.history_of.partition for change in changes if change.history_of is not None}
    return of_history | {_key_of(change).partition for change in changes}


def _name(key: Key, ids: Mapping[Partition, int]) -> _Name:
    return ids[key.partition], key.task, key.instance, key.occurrence
