"""Packs records into the bytes that Redis keeps and scripts look into, and unpacks them; `common.lua` says how they lie."""

from __future__ import annotations

import struct
from struct import Struct
from typing import Final

from pyncette.core.record import Change, Key, Lease, Partition, Record
from pyncette.store.codec import (
    PoisonedRecordError,
    decode_record,
    encode_spec,
    encode_state,
    log_poisoned,
)
from pyncette.store.redis_keys import key_named

DUE: Final = 1
CLAIMABLE: Final = 2
BEGAN: Final = 4
LEASED: Final = 8

_FRONT: Final = Struct(">Bqqiqqqqq")
_LEASE: Final = Struct(">qHH")
_SPEC: Final = Struct(">I")
_INTEGER: Final = Struct(">q")

_NO_LEASE: Final = _LEASE.pack(0, 0, 0)
_AFTER_FRONT: Final = _FRONT.size + _LEASE.size


def packed_integer(value: int) -> bytes:
    """Return an instant, a length or a version as scripts take it. Raises ValueError if it has more than 64 bits."""
    try:
        return _INTEGER.pack(value)
    except struct.error:
        raise ValueError(f"{value} does not fit into 64 bits") from None


def unpack(key: Key, value: bytes) -> Record | None:
    """Return the record that *value* holds, or None, logged, if it cannot be read."""
    try:
        return _unpack(key, value)
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None


def _unpack(key: Key, value: bytes) -> Record:
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
    """Return the record of *partition* that is kept as *name*, or None, logged, if it cannot be read."""
    return unpack(key_named(partition, name), value)


def parts_of(change: Change) -> tuple[bytes, bytes, bytes, bytes]:
    """
    Return what *change* puts there, in four parts: front, lease, spec and state.

    An empty lease or spec leaves the stored one as it is; an empty front deletes.
    Raises ValueError for an integer that has more than 64 bits.
    """
    before, after = change.before, change.after
    if after is None:
        return b"", b"", b"", b""
    keeps_spec = before is not None and after.spec is before.spec
    keeps_lease = before is not None and _id(before) == _id(after)
    return (
        _front(after),
        b"" if keeps_lease else _packed_lease(after.lease),
        b"" if keeps_spec else _packed_spec(after),
        encode_state(after.state).encode(),
    )


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
