"""Turns records, rows of history and partitions into items of DynamoDB, and back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import HistoryRow, Key, Lease, Partition, Record
from pyncette.store.base import SPEC_BYTES_MAX, STATE_BYTES_MAX, check_partition
from pyncette.store.codec import (
    UNREADABLE,
    PoisonedRecordError,
    decode_record,
    encode_run,
    encode_spec,
    encode_state,
    log_poisoned,
)
from pyncette.store.dynamodb.schema import HASH_KEY, NEXT, SORT_KEY

Value: TypeAlias = dict[str, Any]
"""A value as DynamoDB represents it: {"N": "1"}, {"S": "text"}, {"B": b"bytes"}."""

Item: TypeAlias = dict[str, Value]

NO_LEASE: Final = -(2**63)
"""The end of the lease of a record without one: before every instant, so one comparison covers both cases."""

VERSION: Final = "version"
CLAIMABLE: Final = "claimable"
UNTIL: Final = "until"
FIELDS: Final = "fields"
SPEC: Final = "spec"
STATE: Final = "state"
RUN: Final = "run"

SLOT_BYTES: Final = 8


class Fields(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    The fields of a record that no condition and no index needs, as one text. Single attributes would cost more to send.

    New fields go to the end and have defaults, so that older texts can be read.
    """

    fence: int
    due_at: Instant | None
    schedule_since: Instant
    lease_length: Duration
    attempt: int
    began_at: Instant | None
    lease_id: str | None
    holder: str | None


_encode_fields = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(Fields).decode


class ItemKey(NamedTuple):
    """The primary key of an item."""

    pk: bytes
    sk: bytes

    @property
    def key(self) -> Item:
        return {HASH_KEY: {"B": self.pk}, SORT_KEY: {"B": self.sk}}


class Layout:
    """
    The keys of the items below a *prefix*, with the records of a partition in so many *shards*.

    A shard is an item collection. One physical partition of DynamoDB holds it, and takes 1,000 writes a second. Names are
    separated by NUL, which sorts before all other characters and is in no name, so sort keys are ordered as keys are.
    """

    def __init__(self, prefix: str, shards: int) -> None:
        self._prefix = prefix.encode() + b"\0"
        self.shards = shards

    def record(self, key: Key) -> ItemKey:
        sk = names(key)
        return ItemKey(self.shard(key.partition, zlib.crc32(sk) % self.shards), sk)

    def shard(self, partition: Partition, shard: int) -> bytes:
        return b"r" + self._prefix + _partition(partition) + shard.to_bytes(2, "big")

    def all_shards(self, partition: Partition) -> list[bytes]:
        return [self.shard(partition, shard) for shard in range(self.shards)]

    def history(self, key: Key) -> bytes:
        """Return the hash key of the history of *key*: a digest, since the names may be too long."""
        digest = blake2b(_partition(key.partition) + names(key), digest_size=32).digest()
        return b"h" + self._prefix + digest

    def row(self, home: Key, slot: int) -> ItemKey:
        return ItemKey(self.history(home), (slot + 2**63).to_bytes(SLOT_BYTES, "big"))

    def realm(self, realm: str) -> bytes:
        return b"p" + self._prefix + realm.encode()

    def partition(self, partition: Partition) -> ItemKey:
        return ItemKey(self.realm(partition.realm), _handler(partition))


def names(key: Key) -> bytes:
    """Return the sort key of a record, which is ordered as the names are, by code points."""
    return f"{key.task}\0{key.instance}\0{key.occurrence}".encode()


def key_of(partition: Partition, item: Item) -> Key:
    """Return the key of the record in *item*. A sort key that another program wrote becomes a key with that name."""
    parts = item[SORT_KEY]["B"].decode("utf-8", "backslashreplace").split("\0")
    return Key(partition, *parts) if len(parts) == 3 else Key(partition, "\0".join(parts))


def partition_of(realm: str, item: Item) -> Partition | None:
    """Return the partition that *item* stands for; None if no store can keep it."""
    sk: bytes = item[SORT_KEY]["B"]
    try:
        partition = Partition(realm, sk[:-5].decode(), int.from_bytes(sk[-4:], "big"))
        check_partition(partition)
    except ValueError:
        return None
    return partition


def item_of(place: ItemKey, record: Record) -> Item:
    """Return the item of a new record."""
    until = until_of(record.lease)
    item = {
        **place.key,
        VERSION: number(record.version),
        UNTIL: number(until),
        FIELDS: fields_value(fields_of(record, record.lease)),
        SPEC: {"S": encode_spec(record.spec)},
        STATE: {"S": encode_state(record.state)},
    }
    if record.claimable_at is not None:
        item |= {CLAIMABLE: number(record.claimable_at), NEXT: number(max(record.claimable_at, until))}
    return item


def fields_of(record: Record, lease: Lease | None) -> Fields:
    """Return the fields of *record* with *lease* as its lease."""
    return Fields(
        record.fence,
        record.due_at,
        record.schedule_since,
        record.lease_length,
        record.attempt,
        record.began_at,
        lease.id if lease else None,
        lease.holder if lease else None,
    )


def fields_value(fields: Fields) -> Value:
    return {"S": _encode_fields(fields).decode()}


def fields_in(key: Key, item: Item) -> Fields:
    """Return the fields of the record *key* in *item*. Raises PoisonedRecordError."""
    try:
        return _decode_fields(text(item, FIELDS))
    except UNREADABLE as error:
        raise PoisonedRecordError(key, error) from None


def until_of(lease: Lease | None) -> Instant:
    return lease.expires_at if lease else NO_LEASE


def row_of(place: ItemKey, row: HistoryRow) -> Item:
    return {**place.key, RUN: {"S": encode_run(row.run)}}


def number(value: int) -> Value:
    return {"N": str(value)}


def integer(item: Item, name: str) -> int | None:
    value = item.get(name)
    return None if value is None else int(value["N"])


def sure_integer(item: Item, name: str) -> int:
    return int(item[name]["N"])


def text(item: Item, name: str) -> Any:
    """Return a text; None if it is missing, which the decoder then reports."""
    value = item.get(name)
    return None if value is None else value.get("S")


def without_long_texts(items: Iterable[Item]) -> Iterator[Item]:
    """
    Yield *items* without texts that are too long to be read. Decoding then reports these as missing.

    DynamoDB has no query that leaves out an attribute by its length. A response has at most a megabyte, and callers pass
    each response at once.
    """
    for item in items:
        for name, limit in _LIMITS.items():
            if len(text(item, name) or "") > limit:
                del item[name]
        yield item


_LIMITS: Final = {SPEC: SPEC_BYTES_MAX, STATE: STATE_BYTES_MAX, RUN: STATE_BYTES_MAX}


def record_of(key: Key, item: Item) -> Record | None:
    """Return the record in *item*. A record that cannot be read is logged, and None."""
    try:
        return _record(key, item)
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None


def _record(key: Key, item: Item) -> Record:
    fields = fields_in(key, item)
    try:
        version, until = sure_integer(item, VERSION), sure_integer(item, UNTIL)
        claimable_at = integer(item, CLAIMABLE)
    except (KeyError, ValueError) as error:
        raise PoisonedRecordError(key, f"{error} is missing or not a number") from None
    lease = None
    if fields.lease_id is not None and fields.holder is not None:
        lease = Lease(fields.lease_id, fields.holder, until)
    return decode_record(
        key,
        text(item, SPEC),
        text(item, STATE),
        version,
        fields.fence,
        fields.due_at,
        fields.schedule_since,
        claimable_at,
        fields.lease_length,
        fields.attempt,
        fields.began_at,
        lease,
    )


def _partition(partition: Partition) -> bytes:
    return partition.realm.encode() + b"\0" + _handler(partition)


def _handler(partition: Partition) -> bytes:
    return partition.handler.encode() + b"\0" + partition.number.to_bytes(4, "big")
