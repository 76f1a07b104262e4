"""Turns records, rows of history and partitions into items of DynamoDB, and back."""

from __future__ import annotations

import zlib
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

from pyncette.clock import Instant
from pyncette.core.record import HistoryRow, Key, Lease, Partition, Record
from pyncette.store.codec import (
    PoisonedRecordError,
    decode_record,
    encode_run,
    encode_spec,
    encode_state,
    log_poisoned,
)
from pyncette.store.dynamodb_schema import HASH_KEY, NEXT, SORT_KEY

Value: TypeAlias = dict[str, Any]
"""As DynamoDB writes one: {"N": "1"}, {"S": "text"}, {"B": b"bytes"}."""

Item: TypeAlias = dict[str, Value]

NO_LEASE: Final = -(2**63)
"""The end of a lease that is not there: ended at whatever instant, so one comparison does for both."""

VERSION: Final = "version"
FENCE: Final = "fence"
DUE: Final = "due"
SINCE: Final = "since"
CLAIMABLE: Final = "claimable"
LENGTH: Final = "length"
ATTEMPT: Final = "attempt"
BEGAN: Final = "began"
LEASE: Final = "lease"
HOLDER: Final = "holder"
UNTIL: Final = "until"
SPEC: Final = "spec"
STATE: Final = "state"
RUN: Final = "run"

SLOT_BYTES: Final = 8


class Place(NamedTuple):
    """The primary key of an item."""

    pk: bytes
    sk: bytes

    @property
    def key(self) -> Item:
        return {HASH_KEY: {"B": self.pk}, SORT_KEY: {"B": self.sk}}


class Layout:
    """
    Where items stand: those of one *prefix*, the records of a partition in so many *shards*.

    A shard is an item collection, which one physical partition of DynamoDB holds, with 1,000 writes a second. Names
    are separated by NUL, which none contains and which comes before all else, so bytes are ordered as keys are.
    """

    def __init__(self, prefix: str, shards: int) -> None:
        self._prefix = prefix.encode() + b"\0"
        self.shards = shards

    def record(self, key: Key) -> Place:
        sk = names(key)
        return Place(self.shard(key.partition, zlib.crc32(sk) % self.shards), sk)

    def shard(self, partition: Partition, shard: int) -> bytes:
        return b"r" + self._prefix + _partition(partition) + shard.to_bytes(2, "big")

    def all_shards(self, partition: Partition) -> list[bytes]:
        return [self.shard(partition, shard) for shard in range(self.shards)]

    def history(self, key: Key) -> bytes:
        """Return the hash key of the rows kept for *key*: a digest, since the names may be too long for it."""
        digest = blake2b(_partition(key.partition) + names(key), digest_size=32).digest()
        return b"h" + self._prefix + digest

    def row(self, home: Key, slot: int) -> Place:
        return Place(self.history(home), (slot + 2**63).to_bytes(SLOT_BYTES, "big"))

    def realm(self, realm: str) -> bytes:
        return b"p" + self._prefix + realm.encode()

    def partition(self, partition: Partition) -> Place:
        return Place(self.realm(partition.realm), _handler(partition))


def names(key: Key) -> bytes:
    """Return the sort key of a record: in the order of the names, as code points."""
    return f"{key.task}\0{key.instance}\0{key.occurrence}".encode()


def key_of(partition: Partition, item: Item) -> Key:
    task, instance, occurrence = item[SORT_KEY]["B"].decode().split("\0")
    return Key(partition, task, instance, occurrence)


def partition_of(realm: str, item: Item) -> Partition:
    sk: bytes = item[SORT_KEY]["B"]
    return Partition(realm, sk[:-5].decode(), int.from_bytes(sk[-4:], "big"))


def item_of(place: Place, record: Record) -> Item:
    """Return the item of a record that is created."""
    item = {
        **place.key,
        **numbers_of(record),
        SPEC: {"S": encode_spec(record.spec)},
        STATE: {"S": encode_state(record.state)},
        **lease_of(record.lease),
    }
    until = record.lease.expires_at if record.lease else NO_LEASE
    at = next_of(record.claimable_at, until)
    return item if at is None else {**item, NEXT: number(at)}


def numbers_of(record: Record) -> Item:
    """Return the numbers of *record* that are there, those of its lease aside."""
    all_ = {
        VERSION: record.version,
        FENCE: record.fence,
        DUE: record.due_at,
        SINCE: record.schedule_since,
        CLAIMABLE: record.claimable_at,
        LENGTH: record.lease_length,
        ATTEMPT: record.attempt,
        BEGAN: record.began_at,
    }
    return {name: number(value) for name, value in all_.items() if value is not None}


def lease_of(lease: Lease | None) -> Item:
    if lease is None:
        return {UNTIL: number(NO_LEASE)}
    return {LEASE: {"S": lease.id}, HOLDER: {"S": lease.holder}, UNTIL: number(lease.expires_at)}


def next_of(claimable_at: Instant | None, until: Instant) -> Instant | None:
    """Return when a record is next to be looked at, if its lease ends at *until*."""
    return None if claimable_at is None else max(claimable_at, until)


def row_of(place: Place, row: HistoryRow) -> Item:
    return {**place.key, RUN: {"S": encode_run(row.run)}}


def number(value: int) -> Value:
    return {"N": str(value)}


def integer(item: Item, name: str) -> int | None:
    value = item.get(name)
    return None if value is None else int(value["N"])


def sure_integer(item: Item, name: str) -> int:
    return int(item[name]["N"])


def text(item: Item, name: str) -> Any:
    """Return a text, or None where there is none: whoever reads it says that it cannot be read."""
    value = item.get(name)
    return None if value is None else value.get("S")


def record_of(key: Key, item: Item) -> Record | None:
    """Return the record in *item*; None, and a line in the log, if it cannot be read."""
    try:
        return _record(key, item)
    except PoisonedRecordError as error:
        log_poisoned(error)
        return None


def _record(key: Key, item: Item) -> Record:
    try:
        lease = (
            Lease(item[LEASE]["S"], item[HOLDER]["S"], sure_integer(item, UNTIL)) if LEASE in item else None
        )
        columns = (
            sure_integer(item, VERSION),
            sure_integer(item, FENCE),
            integer(item, DUE),
            sure_integer(item, SINCE),
            integer(item, CLAIMABLE),
            sure_integer(item, LENGTH),
            sure_integer(item, ATTEMPT),
            integer(item, BEGAN),
        )
    except (KeyError, ValueError) as error:
        raise PoisonedRecordError(key, f"{error} is missing, or no number") from None
    return decode_record(key, text(item, SPEC), text(item, STATE), *columns, lease)


def _partition(partition: Partition) -> bytes:
    return partition.realm.encode() + b"\0" + _handler(partition)


def _handler(partition: Partition) -> bytes:
    return partition.handler.encode() + b"\0" + partition.number.to_bytes(4, "big")
