"""Turns changes into calls of the script that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from pyncette.core.record import Change, Key, Partition
from pyncette.store.redis.connection import Call
from pyncette.store.redis.keys import Keyspace, name_of
from pyncette.store.redis.records import packed_change

Places: TypeAlias = Sequence[int]
"""The indexes in the batch of the changes of a call."""


def check_places(changes: Sequence[Change]) -> None:
    """Raise ValueError unless each group, and each change with its history, is in one partition, as a cluster requires."""
    partitions: dict[int, Partition] = {}
    for change in changes:
        partition = _key_of(change).partition
        if change.history_of is not None and change.history and change.history_of.partition != partition:
            raise ValueError(
                "On a Redis Cluster the history of a record must be in the partition of the record."
            )
        if change.group and partitions.setdefault(change.group, partition) != partition:
            raise ValueError("On a Redis Cluster the changes of a group must be in one partition.")


def swap_calls(changes: Sequence[Change], keyspace: Keyspace, *, together: bool) -> list[tuple[Places, Call]]:
    """Return the calls that make *changes*: a single one with *together*, else one for each partition."""
    if together:
        return [(range(len(changes)), _call(changes, keyspace))]
    places: dict[Partition, list[int]] = {}
    for place, change in enumerate(changes):
        places.setdefault(_key_of(change).partition, []).append(place)
    return [(some, _call([changes[place] for place in some], keyspace)) for some in places.values()]


def _call(changes: Sequence[Change], keyspace: Keyspace) -> Call:
    partitions = dict.fromkeys(_key_of(change).partition for change in changes)
    numbers = {partition: number for number, partition in enumerate(partitions, 1)}
    histories: dict[bytes, int] = {}

    def history(key: Key) -> int:
        return histories.setdefault(keyspace.history(key), len(histories) + 1)

    packed: list[bytes] = []
    for change in changes:
        key = _key_of(change)
        deleted = history(key) if change.after is None and not key.occurrence else 0
        written = history(change.history_of or key) if change.history else 0
        packed.append(packed_change(change, name_of(key), numbers[key.partition], deleted, written))
    keys: list[str | bytes] = [key for partition in partitions for key in keyspace.of(partition)]
    return Call([*keys, *histories], [len(numbers), b"".join(packed)])


def _key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key
