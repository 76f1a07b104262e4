"""Turns keys and changes into the values of statements of PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyncette.core.record import Key, Partition, Record
from pyncette.store.codec import encode_run, encode_spec, encode_state
from pyncette.store.postgres.schema import NO_LEASE
from pyncette.store.postgres.statements import COMPLETE, SWAP, SWAP_TOGETHER
from pyncette.store.sql.changes import HistoryWrite, Located, has_groups, same_lease

Table = dict[str, list[Any]]
"""The values of each column, by its name."""


def names_of(keys: Sequence[Key], ids: Mapping[Partition, int]) -> Table:
    """Return the columns `NAMES` of *keys*."""
    return {
        "partition_id": [ids[key.partition] for key in keys],
        "task": [key.task for key in keys],
        "instance": [key.instance for key in keys],
        "occurrence": [key.occurrence for key in keys],
    }


def completion_values(completed: Sequence[Located]) -> tuple[Any, ...]:
    """Return the values of `Statements.complete`."""
    afters: list[Any] = [change.after for _, change in completed]
    return COMPLETE.values(
        completed={
            **_ids_and_versions(completed),
            "due_at": [after.due_at for after in afters],
            "claimable_at": [after.claimable_at for after in afters],
            "state": [encode_state(after.state) for after in afters],
        }
    )


def swap_values(
    located: Sequence[Located], history: Sequence[HistoryWrite], ids: Mapping[Partition, int]
) -> tuple[Any, ...]:
    """Return the values of `Statements.swap`, or of `Statements.swap_together` if there are groups."""
    created = [(id_, change) for id_, change in located if change.before is None]
    updated = [(id_, change) for id_, change in located if change.before and change.after]
    deleted = [(id_, change) for id_, change in located if change.after is None]
    grouped = has_groups(change for _, change in located)
    # One part of the statement updates and another deletes. If there are both, a first part takes all locks in order.
    locking = grouped or (updated and deleted)
    held = [(id_, change) for id_, change in located if change.before] if locking else []

    def groups(changes: Sequence[Located]) -> Table:
        return {"made_with": [change.group for _, change in changes]} if grouped else {}

    return (SWAP_TOGETHER if grouped else SWAP).values(
        created=_created(created, ids) | groups(created),
        held=_ids_and_versions(held) | groups(held),
        updated=_updated(updated) | groups(updated),
        deleted=_ids_and_versions(deleted) | groups(deleted),
        history={
            "writer": [id_ for id_, _, _ in history],
            **names_of([key for _, key, _ in history], ids),
            "slot": [row.slot for _, _, row in history],
            "run": [encode_run(row.run) for _, _, row in history],
        },
    )


def _ids_and_versions(located: Sequence[Located]) -> Table:
    return {
        "id": [id_ for id_, _ in located],
        "before": [change.before.version for _, change in located if change.before],
    }


def _created(created: Sequence[Located], ids: Mapping[Partition, int]) -> Table:
    records = [change.after for _, change in created if change.after]
    return {
        "id": [id_ for id_, _ in created],
        **names_of([record.key for record in records], ids),
        **_values(records),
        "spec": [encode_spec(record.spec) for record in records],
    }


def _updated(updated: Sequence[Located]) -> Table:
    pairs = [(change.before, change.after) for _, change in updated if change.before and change.after]
    return {
        **_ids_and_versions(updated),
        **_values([after for _, after in pairs]),
        "spec": ["" if after.spec is before.spec else encode_spec(after.spec) for before, after in pairs],
        "keeps_lease": [same_lease(before, after) for before, after in pairs],
    }


def _values(records: Sequence[Record]) -> Table:
    leases = [record.lease for record in records]
    return {
        "version": [record.version for record in records],
        "fence": [record.fence for record in records],
        "due_at": [record.due_at for record in records],
        "schedule_since": [record.schedule_since for record in records],
        "claimable_at": [record.claimable_at for record in records],
        "lease_length": [record.lease_length for record in records],
        "attempt": [record.attempt for record in records],
        "began_at": [record.began_at for record in records],
        "state": [encode_state(record.state) for record in records],
        "lease_until": [NO_LEASE if lease is None else lease.expires_at for lease in leases],
        "lease_id": [None if lease is None else lease.id for lease in leases],
        "holder": [None if lease is None else lease.holder for lease in leases],
    }
