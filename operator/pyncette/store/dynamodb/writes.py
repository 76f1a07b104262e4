"""Describes writes to DynamoDB, and puts them in each form that it accepts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.record import Change, Key, Record
from pyncette.store.codec import PoisonedRecordError, encode_spec, encode_state
from pyncette.store.dynamodb.items import (
    CLAIMABLE,
    FIELDS,
    SPEC,
    STATE,
    UNTIL,
    VERSION,
    Fields,
    Item,
    ItemKey,
    Layout,
    Value,
    fields_in,
    fields_of,
    fields_value,
    item_of,
    number,
    row_of,
    sure_integer,
    until_of,
)
from pyncette.store.dynamodb.schema import HASH_KEY, NEXT, SORT_KEY

STATEMENTS_KEPT: Final = 256
"""Statements differ by the attributes that they set. Some dozens of combinations are in use."""

UNREADABLE_FOR: Final[Duration] = 60 * SECOND
"""The lease of a record that cannot be read, which keeps it from being claimed again and again."""


class Put(NamedTuple):
    """A whole item to write; with *new* only if it does not exist."""

    place: ItemKey
    item: Item
    new: bool


class Update(NamedTuple):
    """Attributes to set and remove, if the item exists and meets the conditions *equal* and *at_most*."""

    place: ItemKey
    sets: Item
    removes: tuple[str, ...]
    equal: Item
    at_most: Item


class Delete(NamedTuple):
    """An item to delete; with *equal* only if it exists and has these values."""

    place: ItemKey
    equal: Item


Write = Put | Update | Delete


class Take(NamedTuple):
    """The write that leases the record *key*."""

    key: Key
    update: Update
    after: Item
    """The item after the write."""


class Unit(NamedTuple):
    """Writes that are made as a whole or not at all, for the changes at the indexes *places* of a batch."""

    places: list[int]
    writes: list[Write]
    touches: frozenset[object]
    """Units that touch the same item are written one after the other, in the order of the batch."""


# --- Forms -----------------------------------------------------------------------------------------------------------


def statement(table: str, write: Put | Update) -> dict[str, Any]:
    """Return a new item or an update as a statement of a batch, in which each statement succeeds or fails by itself."""
    if isinstance(write, Put):
        assert write.new
        return {
            "Statement": _insert(table, tuple(write.item)),
            "Parameters": list(write.item.values()),
        }
    return {
        "Statement": _update(
            table, tuple(write.sets), write.removes, tuple(write.equal), tuple(write.at_most)
        ),
        "Parameters": [
            *write.sets.values(),
            *write.place.key.values(),
            *write.equal.values(),
            *write.at_most.values(),
        ],
    }


@lru_cache(STATEMENTS_KEPT)
def _insert(table: str, names: tuple[str, ...]) -> str:
    fields = ", ".join(f"'{name}': ?" for name in names)
    return f'INSERT INTO "{table}" VALUE {{{fields}}}'


@lru_cache(STATEMENTS_KEPT)
def _update(
    table: str,
    sets: tuple[str, ...],
    removes: tuple[str, ...],
    equal: tuple[str, ...],
    at_most: tuple[str, ...],
) -> str:
    clauses = [f'SET "{name}"=?' for name in sets] + [f'REMOVE "{name}"' for name in removes]
    conditions = [f'"{name}"=?' for name in (HASH_KEY, SORT_KEY, *equal)]
    conditions += [f'"{name}"<=?' for name in at_most]
    return f'UPDATE "{table}" {" ".join(clauses)} WHERE {" AND ".join(conditions)}'


def request(table: str, write: Write) -> tuple[str, dict[str, Any]]:
    """Return the name and the parameters of an action, for a request of its own or an item of a transaction."""
    if isinstance(write, Put):
        condition = {"ConditionExpression": f"attribute_not_exists({HASH_KEY})"} if write.new else {}
        return "Put", {"TableName": table, "Item": write.item, **condition}
    terms = _Terms()
    conditions = [f"{terms.name(name)} = {terms.value(value)}" for name, value in write.equal.items()]
    parameters: dict[str, Any] = {"TableName": table, "Key": write.place.key}
    if isinstance(write, Update):
        conditions += [f"{terms.name(name)} <= {terms.value(value)}" for name, value in write.at_most.items()]
        sets = [f"{terms.name(name)} = {terms.value(value)}" for name, value in write.sets.items()]
        parameters["UpdateExpression"] = f"SET {', '.join(sets)}"
        if write.removes:
            parameters["UpdateExpression"] += f" REMOVE {', '.join(map(terms.name, write.removes))}"
    if conditions:
        parameters["ConditionExpression"] = " AND ".join(conditions)
    return type(write).__name__, parameters | terms.parameters()


class _Terms:
    """Placeholders for names and values, since some names are reserved words."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: Item = {}

    def name(self, name: str) -> str:
        self._names[f"#{name}"] = name
        return f"#{name}"

    def value(self, value: Value) -> str:
        name = f":v{len(self._values)}"
        self._values[name] = value
        return name

    def parameters(self) -> dict[str, Any]:
        named: dict[str, Any] = {}
        if self._names:
            named["ExpressionAttributeNames"] = self._names
        if self._values:
            named["ExpressionAttributeValues"] = self._values
        return named


# --- Claims and renewals ---------------------------------------------------------------------------------------------


def taking(
    key: Key, pk: bytes, item: Item, lease_id: str, holder: str, now: Instant, expired_at: Instant
) -> Take:
    """Return the write that leases the record *key*, which is *item* below *pk*."""
    at, found = sure_integer(item, CLAIMABLE), _readable(key, item)
    until = now + (UNREADABLE_FOR if found is None else found.lease_length)
    sets = {
        VERSION: number(sure_integer(item, VERSION) + 1),
        UNTIL: number(until),
        NEXT: number(max(at, until)),
    }
    # A record that cannot be read is leased too; else each scan would find it first.
    if found is not None:
        sets[FIELDS] = fields_value(_leased(found, lease_id, holder, max(now, at)))
    # A renewal does not change the version.
    equal, at_most = {VERSION: item[VERSION]}, {UNTIL: number(expired_at)}
    update = Update(ItemKey(pk, item[SORT_KEY]["B"]), sets, (), equal, at_most)
    return Take(key, update, {**item, **sets})


def _readable(key: Key, item: Item) -> Fields | None:
    try:
        return fields_in(key, item)
    except PoisonedRecordError:
        return None


def _leased(found: Fields, lease_id: str, holder: str, at: Instant) -> Fields:
    return msgspec.structs.replace(
        found,
        fence=found.fence + 1,
        attempt=found.attempt + 1,
        began_at=at if found.began_at is None else found.began_at,
        lease_id=lease_id,
        holder=holder,
    )


def prolonging(place: ItemKey, item: Item, end: Instant) -> Update:
    """Return the write that moves the end of the lease of a record, which is *item*, to *end*."""
    sets = {UNTIL: number(end)}
    if CLAIMABLE in item:
        sets[NEXT] = number(max(sure_integer(item, CLAIMABLE), end))
    # No claim, completion or other renewal may come in between.
    return Update(place, sets, (), {VERSION: item[VERSION], UNTIL: item[UNTIL]}, {})


# --- Swaps -----------------------------------------------------------------------------------------------------------


def units_of(
    layout: Layout, changes: Sequence[Change], kept: dict[Key, list[ItemKey]]
) -> tuple[list[Unit], list[Unit]]:
    """
    Return the units of a batch: those of one write, and those that need a transaction.

    *kept* tells of the rows of history that go with the records which are deleted.
    """
    groups: dict[object, list[int]] = {}
    for place, change in enumerate(changes):
        groups.setdefault(change.group or f"alone {place}", []).append(place)
    deleted = {change.before.key for change in changes if change.after is None and change.before}
    single: list[Unit] = []
    several: list[Unit] = []
    for places in groups.values():
        unit = _unit(layout, changes, places, kept, deleted)
        (single if len(unit.writes) == 1 else several).append(unit)
    return single, several


def _unit(
    layout: Layout,
    changes: Sequence[Change],
    places: list[int],
    kept: dict[Key, list[ItemKey]],
    deleted: set[Key],
) -> Unit:
    records: list[Write] = []
    rows: dict[ItemKey, Write] = {}  # if a slot is written twice, the last row wins
    touches: set[object] = set()
    for place in places:
        change = changes[place]
        key = _key_of(change)
        records.append(write_of(layout, change))
        if key in kept and change.after is None:
            touches.add(key)
            rows |= {row: Delete(row, {}) for row in kept[key]}
        for home, row_place, write in _rows_of(layout, change):
            rows[row_place] = write
            touches.add(home if home in deleted else row_place)
    return Unit(places, [*records, *rows.values()], frozenset(touches))


def _rows_of(layout: Layout, change: Change) -> Iterator[tuple[Key, ItemKey, Put]]:
    key = _key_of(change)
    home = change.history_of or key
    if change.after is None and home == key and not key.occurrence:
        return  # deleted with their record
    for row in change.history:
        place = layout.row(home, row.slot)
        yield home, place, Put(place, row_of(place, row), new=False)


def write_of(layout: Layout, change: Change) -> Write:
    """Return the write of the record of a change."""
    before, after = change.before, change.after
    if after is None:
        assert before is not None
        return Delete(layout.record(before.key), {VERSION: number(before.version)})
    place = layout.record(after.key)
    if before is None:
        return Put(place, item_of(place, after), new=True)
    return _replacing(place, before, after)


def _replacing(place: ItemKey, before: Record, after: Record) -> Update:
    # Values of *before* are left out, since the item has its version.
    sets: Item = {VERSION: number(after.version)}
    removes: list[str] = []
    keeps_lease = _keeps_lease(before, after)
    lease = before.lease if keeps_lease else after.lease
    fields = fields_of(after, lease)
    if fields != fields_of(before, before.lease):
        sets[FIELDS] = fields_value(fields)
    if after.spec is not before.spec:
        sets[SPEC] = {"S": encode_spec(after.spec)}
    if after.state is not before.state:
        sets[STATE] = {"S": encode_state(after.state)}
    if not keeps_lease:
        sets[UNTIL] = number(until_of(lease))
    # A lease that stays may have been renewed since. Then the record is found too early, and its lease still lives.
    if after.claimable_at is None:
        removes += [CLAIMABLE, NEXT]
    else:
        sets[NEXT] = number(max(after.claimable_at, until_of(lease)))
        if after.claimable_at != before.claimable_at:
            sets[CLAIMABLE] = number(after.claimable_at)
    return Update(place, sets, tuple(removes), {VERSION: number(before.version)}, {})


def _keeps_lease(before: Record, after: Record) -> bool:
    return before.lease is not None and after.lease is not None and before.lease.id == after.lease.id


def _key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key
