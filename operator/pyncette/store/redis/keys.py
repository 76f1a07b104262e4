"""The keys of records on Redis. Those of one partition are in one slot of a cluster."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.core.record import Key, Partition
from pyncette.store.base import PARTITION_BYTES_MAX, check_partition

SPACE: Final = "pyncette-operator:"
"""Follows the namespace, so that a namespace may be empty while other programs use the database."""

SEPARATOR: Final = "\0"
"""Separates the names of a key. It is in no name, and sorts before all other characters, so keys sort by their names."""

_ESCAPED: Final = str.maketrans({character: f"%{ord(character):02X}" for character in "%/{}"})
"""Characters that would end a name, or the part of a key that determines its slot."""


NUMBER_DIGITS_MAX: Final = 10
"""Maximum number of digits in the number of a partition."""

MEMBER_BYTES_MAX: Final = PARTITION_BYTES_MAX + NUMBER_DIGITS_MAX + 1
"""Maximum length of a member of the set of a realm, which stands for a partition."""


class PartitionKeys(NamedTuple):
    """The keys of one partition, in the order in which scripts take them."""

    records: str
    due: str
    leased: str
    names: str


class Keyspace:
    """The keys of a store, all of which begin with *namespace*."""

    def __init__(self, namespace: str) -> None:
        self.meta: Final = f"{namespace}{SPACE}meta"
        self.channel: Final = f"{namespace}{SPACE}due"
        self._prefix = f"{namespace}{SPACE}"
        self._keys: dict[Partition, PartitionKeys] = {}

    def of(self, partition: Partition) -> PartitionKeys:
        """Return the keys of *partition*. Raises ValueError unless every store can keep it."""
        keys = self._keys.get(partition)
        if keys is None:
            check_partition(partition)
            place = self._place(partition)
            keys = self._keys[partition] = PartitionKeys(*(place + name for name in PartitionKeys._fields))
        return keys

    def history(self, key: Key) -> bytes:
        """Return the key of the history of *key*: a hash of rows by their slots."""
        return f"{self._place(key.partition)}history:".encode() + name_of(key)

    def partitions(self, realm: str) -> str:
        """Return the key of the set of partitions of *realm*."""
        return f"{self._prefix}partitions:{realm}"

    def _place(self, partition: Partition) -> str:
        realm, handler = partition.realm.translate(_ESCAPED), partition.handler.translate(_ESCAPED)
        return f"{self._prefix}{{{realm}/{handler}/{partition.number}}}:"


def name_of(key: Key) -> bytes:
    """Return the name of *key* within its partition."""
    return SEPARATOR.join(key[1:]).encode()


def key_named(partition: Partition, name: bytes) -> Key:
    """Return the key of the record *name*. A name that another program wrote becomes a key with that name."""
    parts = name.decode("utf-8", "backslashreplace").split(SEPARATOR)
    return Key(partition, *parts) if len(parts) == 3 else Key(partition, SEPARATOR.join(parts))


def member_of(partition: Partition) -> str:
    """Return the member that stands for *partition* in the set of its realm."""
    return f"{partition.number}/{partition.handler}"


def partition_named(realm: str, member: bytes) -> Partition | None:
    """Return the partition that *member* stands for, or None if it is invalid."""
    number, slash, handler = member.decode("utf-8", "replace").partition("/")
    if not slash or not number.isdecimal() or len(number) > NUMBER_DIGITS_MAX:
        return None
    partition = Partition(realm, handler, int(number))
    try:
        check_partition(partition)
    except ValueError:
        return None
    return partition
