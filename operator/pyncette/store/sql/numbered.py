"""What the stores have in common that call partitions and records by numbers: they are asked for once, and remembered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence

from pyncette.core.record import Change, Key, Partition
from pyncette.store.base import check_partition
from pyncette.store.schema import ID_BLOCK
from pyncette.store.sql.changes import created_key


class NumberedStore(ABC):
    """Knows the ids of partitions, which never change, and gives ids to records, which are never used again."""

    def __init__(self) -> None:
        self._partition_ids: dict[Partition, int] = {}
        self._ids = range(0)

    # --- What the server is asked for ---

    @abstractmethod
    async def _find_partitions(self, partitions: Sequence[Partition]) -> Iterable[Sequence[int]]:
        """Return the id of each of *partitions* that is there, and its place among them, counted from 1."""

    @abstractmethod
    async def _add_partitions(self, partitions: Sequence[Partition]) -> None:
        """Give an id to each of *partitions* that has none."""

    @abstractmethod
    async def _find_records(
        self, keys: Sequence[Key], ids: Mapping[Partition, int]
    ) -> Iterable[Sequence[int]]:
        """Return the id of each record that is there, and the place of its key, counted from 1."""

    @abstractmethod
    async def _take_ids(self) -> int:
        """Take `ID_BLOCK` ids that were never taken before, and return the first."""

    # --- What is known of it ---

    async def _ids_of(self, partitions: Collection[Partition], *, add: bool) -> Mapping[Partition, int]:
        """Return the id of each partition: with *add* of all of them, else of those that have one."""
        # A copy: a connection that breaks while we wait makes us forget what is known.
        ids = {partition: id_ for partition in partitions if (id_ := self._partition_ids.get(partition))}
        missing = [partition for partition in partitions if partition not in ids]
        for partition in missing:
            check_partition(partition)
        if missing:
            ids.update(await self._known_ids(missing))
            missing = sorted(partition for partition in missing if partition not in ids)
        if missing and add:
            # Asked for first: what is refused as a duplicate may use up an id all the same.
            await self._add_partitions(missing)
            ids.update(await self._known_ids(missing))
        return ids

    async def _known_ids(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        found = {partitions[place - 1]: id_ for id_, place in await self._find_partitions(partitions)}
        self._partition_ids.update(found)
        return found

    async def _new_ids(self, count: int) -> range:
        """Return ids that were never given before, the smallest first."""
        assert count <= ID_BLOCK
        if count > len(self._ids):
            first = await self._take_ids()
            self._ids = range(first, first + ID_BLOCK)
        taken, self._ids = self._ids[:count], self._ids[count:]
        return taken

    async def _locate(self, changes: Sequence[Change]) -> list[int | None]:
        """
        Return the id of each record, a new one for what is to be created, and None for what cannot be changed: it is not
        there, or another one of its group is not.
        """
        located: list[int | None] = [
            None if change.before is None else change.before.locator for change in changes
        ]
        if None in located:
            unknown = [place for place, id_ in enumerate(located) if id_ is None]
            new = [(key, place) for place in unknown if (key := created_key(changes[place])) is not None]
            for (_, place), id_ in zip(sorted(new), await self._new_ids(len(new)), strict=True):
                located[place] = id_
            old = [(record.key, place) for place in unknown if (record := changes[place].before) is not None]
            found = await self._find([key for key, _ in old])
            for (_, place), found_id in zip(old, found, strict=True):
                located[place] = found_id
        gone = {change.group for id_, change in zip(located, changes, strict=True) if id_ is None} - {0}
        if not gone:
            return located
        return [None if change.group in gone else id_ for id_, change in zip(located, changes, strict=True)]

    async def _find(self, keys: Sequence[Key]) -> list[int | None]:
        found: list[int | None] = [None] * len(keys)
        ids = await self._ids_of({key.partition for key in keys}, add=False)
        asked = [place for place, key in enumerate(keys) if key.partition in ids]
        if asked:
            for id_, place in await self._find_records([keys[place] for place in asked], ids):
                found[asked[place - 1]] = id_
        return found

    def _forget(self) -> None:
        """A server that is back after a break may be another one, restored from a backup, or migrated meanwhile."""
        self._partition_ids.clear()
        self._ids = range(0)
