"""Names the keys that records are kept under on Redis; those of one partition are in one slot of a cluster."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.core.record import Key, Partition
from pyncette.store.base import check_partition

SPACE: Final = "pyncette-operator:"
"""Stands between the namespace and everything else, so that a namespace may be empty and others use the database, too."""

SEPARATOR: Final = "\0"
"""Stands between the names of a key: it can be part of none, and comes before all that can, which keeps them in order."""

_ESCAPED: Final = str.maketrans({character: f"%{ord(character):02X}" for character in "%/{}"})
"""What would end a name, or the part of a key that tells its slot."""


class PartitionKeys(NamedTuple):
    """The keys of one partition, in the order in which scripts take them."""

    records: str
    due: str
    leased: str
    names: str


class Keyspace:
    """All keys under *namespace*; none is written that does not begin with it."""

    def __init__(self, namespace: str) -> None:
        self.meta: Final = f"{namespace}{SPACE}meta"
        self.channel: Final = f"{namespace}{SPACE}due"
        self._prefix = f"{namespace}{SPACE}"
        self._keys: dict[Partition, PartitionKeys] = {}

    def of(self, partition: Partition) -> PartitionKeys:
        """Return the keys of *partition*. Raises ValueError unless every store can hold it."""
        keys = self._keys.get(partition)
        if keys is None:
            check_partition(partition)
            place = self._place(partition)
            keys = self._keys[partition] = PartitionKeys(*(place + name for name in PartitionKeys._fields))
        return keys

    def history(self, key: Key) -> bytes:
        """Return the key under which the history of *key* is kept: a hash of rows by their slots."""
        return f"{self._place(key.partition)}history:".encode() + name_of(key)

    def partitions(self, realm: str) -> str:
        """Return the key of the set that names the partitions of *realm*."""
        return f"{self._prefix}partitions:{realm}"

    def _place(self, partition: Partition) -> str:
        realm, handler = partition.realm.translate(_ESCAPED), partition.handler.translate(_ESCAPED)
        return f"{self._prefix}{{{realm}/{handler}/{partition.number}}}:"


def name_of(key: Key) -> bytes:
    """Return what names *key* within its partition."""
    return SEPARATOR.join(key[1:]).encode()


def key_named(partition: Partition, name: bytes) -> Key:
    """Return the key that is named *name*; whatever else somebody put there becomes a key that says so."""
    parts = name.decode("utf-8", "backslashreplace").split(SEPARATOR)
    return Key(partition, *parts) if len(parts) == 3 else Key(partition, SEPARATOR.join(parts))


def member_of(partition: Partition) -> str:
    """Return what names *partition* in the set of its realm."""
    return f"{partition.number}/{partition.handler}"


def partition_named(realm: str, member: bytes) -> Partition | None:
    """Return the partition that is named *member*, or None if that is no name of one."""
    number, slash, handler = member.decode("utf-8", "replace").partition("/")
    return Partition(realm, handler, int(number)) if slash and number.isdecimal() else None
