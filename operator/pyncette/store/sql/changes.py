"""Answers questions about a batch of changes, for stores that give each record an id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyncette.core.record import Change, HistoryRow, Key, Partition, Record

Located = tuple[int, Change]
"""A change, and the id of the record that it is about. A list of them is sorted by the ids, the order of all locks."""

HistoryWrite = tuple[int, Key, HistoryRow]
"""A row of history, the id of the record whose change writes it, and its key. A list is in the order of the batch."""


def is_completion(change: Change) -> bool:
    """Return whether *change* ends an occurrence and writes no history. Such changes need fewer columns."""
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


def has_groups(changes: Iterable[Change]) -> bool:
    """Return whether any of *changes* belongs to a group, which is made as a whole or not at all."""
    return any(change.group for change in changes)


def parts_of(changes: Sequence[Change]) -> list[Sequence[Change]]:
    """
    Split *changes* into parts, each of which one statement can make.

    One part is enough, unless one change deletes a record and another writes a row of its history: a statement that
    both deletes and writes a row does so in an order of its own.
    """
    keys = {key for change in changes if (key := change.history_of)}
    if not keys or keys.isdisjoint(
        change.before.key for change in changes if change.before and not change.after
    ):
        return [changes] if changes else []
    parts: list[Sequence[Change]] = []
    begin, written, deleted = 0, set[Key](), set[Key]()
    for place, change in enumerate(changes):
        gone = change.before.key if change.before and not change.after else None
        if gone in written or change.history_of in deleted:
            parts.append(changes[begin:place])
            begin, written, deleted = place, set(), set()
        written.update([change.history_of] if change.history_of else [])
        deleted.update([gone] if gone else [])
    return [*parts, changes[begin:]]


def halves_of(changes: Sequence[Change]) -> list[list[int]]:
    """Split *changes* into halves, without splitting a group, and return their indexes; empty if that is impossible."""
    units: dict[tuple[int, int], list[int]] = {}
    for place, change in enumerate(changes):
        units.setdefault((change.group, 0 if change.group else place), []).append(place)
    parts = list(units.values())
    middle = len(parts) // 2
    if not middle:
        return []
    return [[place for part in half for place in part] for half in (parts[:middle], parts[middle:])]


def partitions_of(changes: Sequence[Change]) -> set[Partition]:
    """Return the partitions of all keys in *changes*."""
    keys = [record.key for change in changes if (record := change.after or change.before)]
    return {key.partition for key in keys + [change.history_of for change in changes if change.history_of]}


def created_key(change: Change) -> Key | None:
    """Return the key of the record that *change* creates; None if it creates none."""
    return change.after.key if change.before is None and change.after is not None else None


def first_after(after: Key | None, task: str | None) -> tuple[str, str, str] | None:
    """Return the smallest names that may come after the key *after*, within *task* if it is given; None if none can."""
    if after is None or (task is not None and after.task < task):
        return task or "", "", ""
    if task is not None and after.task > task:
        return None
    # Names hold no NUL, so nothing sorts between a name and that name with the next character appended.
    return after.task, after.instance, after.occurrence + "\1"


def history_writes(located: Sequence[int | None], changes: Sequence[Change]) -> list[HistoryWrite]:
    """Return the rows of history that *changes* write; *located* has the ids of their records."""
    return [
        (id_, key, row)
        for id_, change in zip(located, changes, strict=True)
        if change.history and id_ is not None and (key := _history_key(change)) is not None
        for row in change.history
    ]


def same_lease(before: Record, after: Record) -> bool:
    """Return whether a swap leaves the stored lease as it is, since both records have that lease, or none."""
    if before.lease is None or after.lease is None:
        return before.lease is after.lease
    return before.lease.id == after.lease.id


def _history_key(change: Change) -> Key | None:
    """Return the key whose history *change* writes; None if that history is deleted with its record."""
    record = change.after or change.before
    assert record is not None
    key = change.history_of or record.key
    gone = change.after is None and not record.key.occurrence and key == record.key
    return None if gone else key
