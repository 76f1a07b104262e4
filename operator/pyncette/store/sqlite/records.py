"""Decodes the answers of SQLite into records. A row that cannot be read does not affect the others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Final

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import Key, Lease, Partition, Record
from pyncette.store.codec import PoisonedRecordError, decode_record, log_poisoned

Row = tuple[
    int,  # id
    int,  # partition
    str,  # task
    str,  # instance
    str,  # occurrence
    int,  # version
    int,  # fence
    Instant | None,  # due_at
    Instant,  # schedule_since
    Instant | None,  # claimable_at
    Duration,  # lease_length
    int,  # attempt
    Instant | None,  # began_at
    str | None,  # spec; None if it is too long
    str | None,  # state; likewise
    str | None,  # the lease's id
    str | None,  # its holder
    Instant | None,  # its end
]
_decode_rows = msgspec.json.Decoder(list[Row]).decode
_decode_numbered = msgspec.json.Decoder(list[tuple[int, Row]]).decode
decode = msgspec.json.Decoder().decode
"""Decodes answers without texts of records, which are valid JSON."""

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError)

claimable_at_of = itemgetter(9)
names_of = itemgetter(2, 3, 4)


def rows_in(text: bytes) -> list[Row]:
    """Return the rows of *text*, without those whose columns have the wrong type."""
    try:
        return _decode_rows(text)
    except _UNREADABLE:
        return [row for row in map(_row_or_none, tolerant(text)) if row is not None]


def numbered_rows_in(text: bytes) -> list[tuple[int, Row]]:
    try:
        return _decode_numbered(text)
    except _UNREADABLE:
        numbered = [(number, _row_or_none(row)) for number, row in tolerant(text)]
        return [(number, row) for number, row in numbered if row is not None]


def tolerant(text: bytes) -> list[Any]:
    """
    Decode *text*, which may contain invalid UTF-8.

    Invalid bytes become characters that later decoding refuses, so only the text that contains them is unreadable.
    """
    return json.loads(text.decode("utf-8", "surrogateescape"))  # type: ignore[no-any-return]


def _row_or_none(values: list[Any]) -> Row | None:
    try:
        row: Row = msgspec.convert(values, Row)
    except msgspec.ValidationError as error:
        names = [str(value) for value in values[2:5]]
        log_poisoned(PoisonedRecordError(Key(Partition("", ""), *names), error))
        return None
    return row


def as_claimed(row: Row, lease_id: str, holder: str, now: Instant) -> Row:
    """Return the columns after a claim of *row*, which was read before it."""
    (
        id_,
        partition,
        task,
        instance,
        occurrence,
        version,
        fence,
        due_at,
        since,
        at,
        length,
        attempt,
        began_at,
    ) = row[:13]
    assert at is not None
    began_at = max(now, at) if began_at is None else began_at
    mine = (lease_id, holder, now + length)
    return (
        *(id_, partition, task, instance, occurrence, version + 1, fence + 1, due_at, since, at, length),
        *(attempt + 1, began_at, row[13], row[14], *mine),
    )


def records_of(rows: Iterable[tuple[Key, Row]]) -> list[Record]:
    """Return the records of *rows*, without those that cannot be read."""
    found = (record_of(key, row) for key, row in rows)
    return [record for record in found if record is not None]


def record_of(key: Key, row: Row) -> Record | None:
    """Return the record of *row*. A record that cannot be read is logged, and None."""
    (
        id_,
        _,
        _,
        _,
        _,
        version,
        fence,
        due_at,
        since,
        at,
        length,
        attempt,
        began_at,
        spec,
        state,
        lease_id,
        holder,
        end,
    ) = row
    lease = None if lease_id is None or holder is None or end is None else Lease(lease_id, holder, end)
    try:
        return decode_record(
            key, spec, state, version, fence, due_at, since, at, length, attempt, began_at, lease, id_
        )
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None
