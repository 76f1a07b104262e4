"""Packs records into the bytes that Redis stores and scripts read, and unpacks them. `common.lua` has the format."""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final

from pyncette.core.record import Change, HistoryRow, Key, Lease, Partition, Record
from pyncette.store.base import Renewal
from pyncette.store.codec import (
    PoisonedRecordError,
    decode_record,
    encode_run,
    encode_spec,
    encode_state,
    log_poisoned,
)
from pyncette.store.redis.keys import key_named

# Flags of a record.
DUE: Final = 1
CLAIMABLE: Final = 2
BEGAN: Final = 4
LEASED: Final = 8

# Kinds of a change.
_KNOWN: Final = 1
_DELETES: Final = 2
_KEEPS_LEASE: Final = 4
_KEEPS_SPEC: Final = 8

_FRONT: Final = Struct(">Bqqiqqqqq")
_LEASE: Final = Struct(">qHH")
_SPEC: Final = Struct(">I")
_INTEGER: Final = Struct(">q")
_CHANGE: Final = Struct(">IIiIIIB8sHII")
_ROW: Final = Struct(">iI")
_RENEWAL: Final = Struct(">IqHH")

_NO_LEASE: Final = _LEASE.pack(0, 0, 0)
_AFTER_FRONT: Final = _FRONT.size + _LEASE.size


def packed_integer(value: int) -> bytes:
    """Return an instant, a length or a version as scripts take it. Raises ValueError if it exceeds 64 bits."""
    try:
        return _INTEGER.pack(value)
    except struct.error:
        raise ValueError(f"{value} does not fit into 64 bits") from None


def unpack(key: Key, value: bytes) -> Record | None:
    """Return the record in *value*. A record that cannot be read is logged, and None."""
    try:
        return _unpack(key, value)
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None


def _unpack(key: Key, value: bytes) -> Record:
    if not value:
        raise PoisonedRecordError(key, "it is too long")
    try:
        flags, version, fence, attempt, due_at, since, claimable_at, length, began_at = _FRONT.unpack_from(
            value
        )
        expires_at, id_length, holder_length = _LEASE.unpack_from(value, _FRONT.size)
        id_end = _AFTER_FRONT + id_length
        lease_end = id_end + holder_length
        (spec_length,) = _SPEC.unpack_from(value, lease_end)
        spec_begin = lease_end + _SPEC.size
        lease = None
        if flags & LEASED:
            lease = Lease(value[_AFTER_FRONT:id_end].decode(), value[id_end:lease_end].decode(), expires_at)
    except (struct.error, UnicodeError) as error:
        raise PoisonedRecordError(key, error) from None
    return decode_record(
        key,
        value[spec_begin : spec_begin + spec_length],
        value[spec_begin + spec_length :],
        version,
        fence,
        due_at if flags & DUE else None,
        since,
        claimable_at if flags & CLAIMABLE else None,
        length,
        attempt,
        began_at if flags & BEGAN else None,
        lease,
    )


def unpack_named(partition: Partition, name: bytes, value: bytes) -> Record | None:
    """Return the record *name* of *partition* in *value*. A record that cannot be read is logged, and None."""
    return unpack(key_named(partition, name), value)


def packed_change(change: Change, name: bytes, number: int, deleted: int, written: int) -> bytes:
    """
    Return *change* as `swap.lua` takes it, in one argument, which takes the driver less time than many.

    *number* is that of its partition. *deleted* and *written* are the numbers of the histories that it deletes and
    writes. Raises ValueError for an integer that exceeds 64 bits.
    """
    before, after, rows, _, group = change
    kind, version = (0, b"") if before is None else (_KNOWN, packed_integer(before.version))
    front = back = b""
    if after is None:
        kind |= _DELETES
    else:
        front, back = _front(after), encode_state(after.state).encode()
        if before is not None and _id(before) == _id(after):
            kind |= _KEEPS_LEASE
        else:
            front += _packed_lease(after.lease)
        if before is not None and after.spec is before.spec:
            kind |= _KEEPS_SPEC
        else:
            back = _packed_spec(after) + back
    history = b"".join(_packed_row(row) for row in rows)
    size = _CHANGE.size + len(name) + len(front) + len(back) + len(history)
    header = _CHANGE.pack(
        size, number, group, deleted, written, len(rows), kind, version, len(name), len(front), len(back)
    )
    return header + name + front + back + history


def _packed_row(row: HistoryRow) -> bytes:
    text = encode_run(row.run).encode()
    return _ROW.pack(row.slot, len(text)) + text


def packed_renewal(renewal: Renewal, name: bytes, number: int) -> bytes:
    """Return *renewal* as `renew.lua` takes it. Raises ValueError for a length that exceeds 64 bits."""
    lease_id = renewal.lease_id.encode()
    try:
        return _RENEWAL.pack(number, renewal.length, len(name), len(lease_id)) + name + lease_id
    except struct.error:
        raise ValueError(f"{renewal.length} does not fit into 64 bits") from None


def _id(record: Record) -> str | None:
    return None if record.lease is None else record.lease.id


def _front(record: Record) -> bytes:
    due_at, claimable_at, began_at = record.due_at, record.claimable_at, record.began_at
    flags = (
        (due_at is not None) * DUE
        | (claimable_at is not None) * CLAIMABLE
        | (began_at is not None) * BEGAN
        | (record.lease is not None) * LEASED
    )
    try:
        return _FRONT.pack(
            flags,
            record.version,
            record.fence,
            record.attempt,
            due_at or 0,
            record.schedule_since,
            claimable_at or 0,
            record.lease_length,
            began_at or 0,
        )
    except struct.error:
        raise ValueError(f"a number of {record.key} does not fit into 64 bits") from None


def _packed_lease(lease: Lease | None) -> bytes:
    if lease is None:
        return _NO_LEASE
    id_, holder = lease.id.encode(), lease.holder.encode()
    try:
        return _LEASE.pack(lease.expires_at, len(id_), len(holder)) + id_ + holder
    except struct.error:
        raise ValueError(f"the end of a lease, {lease.expires_at}, does not fit into 64 bits") from None


def _packed_spec(record: Record) -> bytes:
    spec = encode_spec(record.spec).encode()
    return _SPEC.pack(len(spec)) + spec
