"""Caches the ids of partitions, and hands out ids for new records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence

from pyncette.core.record import Change, Key, Partition
from pyncette.store.base import check_partition
from pyncette.store.schema import ID_BLOCK
from pyncette.store.sql.changes import created_key


class Ids(ABC):
    """
    The ids of partitions, which never change, and those of records, which are never used again.

    They are cached until the connection to the server is lost.
    """

    def __init__(self) -> None:
        self._partition_ids: dict[Partition, int] = {}
        self._new_ids = range(0)

    # --- Queries ---

    @abstractmethod
    async def _find_partitions(self, partitions: Sequence[Partition]) -> Iterable[Sequence[int]]:
        """Return the id of each of *partitions* that exists, with its position among them, counted from 1."""

    @abstractmethod
    async def _add_partitions(self, partitions: Sequence[Partition]) -> None:
        """Give an id to each of *partitions* that has none."""

    @abstractmethod
    async def _find_records(
        self, keys: Sequence[Key], ids: Mapping[Partition, int]
    ) -> Iterable[Sequence[int]]:
        """Return the id of each record that exists, with the position of its key, counted from 1."""

    @abstractmethod
    async def _reserve_ids(self) -> int:
        """Reserve `ID_BLOCK` ids that were never used, and return the first."""

    # --- The cache ---

    async def _ids_of(self, partitions: Collection[Partition], *, add: bool) -> Mapping[Partition, int]:
        """Return the id of each partition that has one; with *add*, give one to those that have none."""
        # A copy: a connection that breaks while we wait clears the cache.
        ids = {partition: id_ for partition in partitions if (id_ := self._partition_ids.get(partition))}
        missing = [partition for partition in partitions if partition not in ids]
        for partition in missing:
            check_partition(partition)
        if missing:
            ids.update(await self._fetch_ids(missing))
            missing = sorted(partition for partition in missing if partition not in ids)
        if missing and add:
            # Only after a read: an insert that is refused as a duplicate may use up an id all the same.
            await self._add_partitions(missing)
            ids.update(await self._fetch_ids(missing))
        return ids

    async def _fetch_ids(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        ids = {partitions[position - 1]: id_ for id_, position in await self._find_partitions(partitions)}
        self._partition_ids.update(ids)
        return ids

    async def _take_ids(self, count: int) -> range:
        """Return *count* ids that were never used, in ascending order."""
        assert count <= ID_BLOCK
        if count > len(self._new_ids):
            first = await self._reserve_ids()
            self._new_ids = range(first, first + ID_BLOCK)
        taken, self._new_ids = self._new_ids[:count], self._new_ids[count:]
        return taken

    async def _locate(self, changes: Sequence[Change]) -> list[int | None]:
        """
        Return the id of the record that each change is about, a new one for a record that it creates.

        None stands for a change that cannot be made: its record, or another one of its group, does not exist.
        """
        located: list[int | None] = [
            None if change.before is None else change.before.locator for change in changes
        ]
        if None in located:
            unknown = [place for place, id_ in enumerate(located) if id_ is None]
            new = [(key, place) for place in unknown if (key := created_key(changes[place])) is not None]
            for (_, place), id_ in zip(sorted(new), await self._take_ids(len(new)), strict=True):
                located[place] = id_
            old = [(record.key, place) for place in unknown if (record := changes[place].before) is not None]
            found = await self._find([key for key, _ in old])
            for (_, place), found_id in zip(old, found, strict=True):
                located[place] = found_id
        broken = {change.group for id_, change in zip(located, changes, strict=True) if id_ is None} - {0}
        if not broken:
            return located
        return [None if change.group in broken else id_ for id_, change in zip(located, changes, strict=True)]

    async def _find(self, keys: Sequence[Key]) -> list[int | None]:
        found: list[int | None] = [None] * len(keys)
        ids = await self._ids_of({key.partition for key in keys}, add=False)
        places = [place for place, key in enumerate(keys) if key.partition in ids]
        if places:
            for id_, position in await self._find_records([keys[place] for place in places], ids):
                found[places[position - 1]] = id_
        return found

    def _forget(self) -> None:
        """Clear the cache: after a lost connection, the server may be another one, restored or migrated."""
        self._partition_ids.clear()
        self._new_ids = range(0)
