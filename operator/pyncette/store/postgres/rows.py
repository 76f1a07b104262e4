"""Turns keys and changes into the columns of a statement of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyncette.core.record import Change, Key, Partition, Record
from pyncette.store.codec import encode_run, encode_spec, encode_state
from pyncette.store.postgres.schema import NO_LEASE
from pyncette.store.postgres.statements import DOCUMENT_SEPARATOR
from pyncette.store.sql.changes import Told, has_groups, same_lease

Columns = tuple[Any, ...]

Located = tuple[int, Change]
"""A change, and the id of the record that it is about. A list of them is ordered by the ids, as all lock them."""


def names_of(keys: Iterable[Key], ids: Mapping[Partition, int]) -> Columns:
    """Return the columns that name *keys*: partition, task, instance, occurrence."""
    keys = list(keys)
    return (
        [ids[key.partition] for key in keys],
        [key.task for key in keys],
        [key.instance for key in keys],
        [key.occurrence for key in keys],
    )


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
    return _integers(partitions), *map(_texts, names)


def _leases(records: Sequence[Record]) -> Columns:
    leases = [record.lease for record in records]
    return (
        _integers([NO_LEASE if lease is None else lease.expires_at for lease in leases]),
        _texts([None if lease is None else lease.id for lease in leases]),
        _texts([None if lease is None else lease.holder for lease in leases]),
    )


def _integers(values: Sequence[int | None]) -> str:
    """Return *values* as the text of an array; `statements.integers` says why."""
    text = "{" + repr(values)[1:-1] + "}"
    return text.replace("None", "NULL") if "N" in text else text


def _texts(values: Iterable[str | None]) -> str:
    """Return strings as the text of an array, quoted as PostgreSQL reads it (its manual, "Array Value Input")."""
    return "{" + ",".join(map(_quoted, values)) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


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
        [same_lease(before, after) for before, after in pairs],
        *_leases(afters),
    )
