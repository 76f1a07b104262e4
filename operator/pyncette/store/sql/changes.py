"""What the stores that name a record by a number of their own have in common: questions about a batch of changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyncette.core.record import Change, HistoryRow, Key, Partition, Record

Told = tuple[int, Key, HistoryRow]
"""A row of history: the id of the record that tells it, and whose it is. A list of them is in the order of the batch."""


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


def has_groups(changes: Iterable[Change]) -> bool:
    """Say whether some of *changes* are to be made together or not at all."""
    return any(change.group for change in changes)


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


def halves_of(changes: Sequence[Change]) -> list[list[int]]:
    """Return the places in *changes* of one half and of the other, groups whole; nothing if there are no two halves."""
    units: dict[tuple[int, int], list[int]] = {}
    for place, change in enumerate(changes):
        units.setdefault((change.group, 0 if change.group else place), []).append(place)
    parts = list(units.values())
    middle = len(parts) // 2
    if not middle:
        return []
    return [[place for part in half for place in part] for half in (parts[:middle], parts[middle:])]


def partitions_told_of(changes: Sequence[Change]) -> set[Partition]:
    """Return the partitions that names in *changes* begin with."""
    keys = [record.key for change in changes if (record := change.after or change.before)]
    return {key.partition for key in keys + [change.history_of for change in changes if change.history_of]}


def created_key(change: Change) -> Key | None:
    """Return the key of the record that *change* creates, if it does."""
    return change.after.key if change.before is None and change.after is not None else None


def first_after(after: Key | None, task: str | None) -> tuple[str, str, str] | None:
    """Return the first names that may come after the key *after* (of *task*, if it is given); None if none can."""
    if after is None or (task is not None and after.task < task):
        return task or "", "", ""
    if task is not None and after.task > task:
        return None
    # No text is between one and itself with the smallest character at its end, since NUL is none.
    return after.task, after.instance, after.occurrence + "\1"


def told_rows(located: Sequence[int | None], changes: Sequence[Change]) -> list[Told]:
    """Return the rows of history of *changes*, whose records have the ids *located*."""
    return [
        (id_, key, row)
        for id_, change in zip(located, changes, strict=True)
        if change.history and id_ is not None and (key := _home(change)) is not None
        for row in change.history
    ]


def same_lease(before: Record, after: Record) -> bool:
    """Say whether a swap leaves the stored lease as it is, since it is one that both know."""
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
