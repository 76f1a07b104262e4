"""Loads and swaps in batches of the size that a store takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from pyncette.core.record import Change, Key, Record
from pyncette.store.base import Store


class Batches:
    """The requests to one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return the record of each of *keys*. Raises StoreError."""
        size = self.store.capabilities.swap_batch_max
        if len(keys) <= size:
            return await self.store.load(keys)
        return [
            record
            for at in range(0, len(keys), size)
            for record in await self.store.load(keys[at : at + size])
        ]

    async def swap(self, changes: Sequence[Change], made: list[bool] | None = None) -> list[bool]:
        """Make *changes*, and add the results of each swap to *made*, which keeps them if a later one fails."""
        size = self.store.capabilities.swap_batch_max
        made = [] if made is None else made
        for at in range(0, len(changes), size):
            made += await self.store.swap(changes[at : at + size] if len(changes) > size else changes)
        return made

    async def swap_groups(self, groups: Sequence[Sequence[Change]], made: list[bool]) -> None:
        """Make each of *groups* whole or not at all, as many in one swap as fit, and add a result for each to *made*."""
        size = self.store.capabilities.swap_batch_max
        batch: list[Change] = []
        lengths: list[int] = []
        for changes in groups:
            if batch and len(batch) + len(changes) > size:
                made += _of_groups(lengths, await self.store.swap(batch))
                batch, lengths = [], []
            lengths.append(len(changes))
            group = len(lengths) if len(changes) > 1 else 0
            batch += [change._replace(group=group) for change in changes]
        if batch:
            made += _of_groups(lengths, await self.store.swap(batch))


def _of_groups(lengths: Sequence[int], made: Sequence[bool]) -> list[bool]:
    """Return one result for each group of a batch: all changes of a group have the same."""
    begins = accumulate(lengths, initial=0)
    return [made[begin] for begin, _ in zip(begins, lengths, strict=False)]


def is_written(record: Record | None, change: Change | None) -> bool:
    """Say whether *record* is stored as *change* leaves it: a swap whose reply was lost may have been made."""
    after = None if change is None else change.after
    return (
        record is not None
        and after is not None
        and (record.version, record.fence, record.state) == (after.version, after.fence, after.state)
    )
