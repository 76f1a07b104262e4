"""Reads parts of a partition: without the instances of its templates, of which there may be millions, or beside one schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from pyncette.core.record import BEYOND, Key, Partition, Record
from pyncette.store.base import Store

PAGE: Final = 200
"""The number of records of one page."""


async def without_instances(
    store: Store,
    partition: Partition,
    task: str | None = None,
    read: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Record]:
    """
    Yield the records of *partition*, or of one *task* there, that belong to no instance. Raises StoreError.

    It reads at most a page of the instances of each template. *read* is called with the length of each page, and may raise.
    """
    after: Key | None = None
    while page := await store.scan(partition, task, after, PAGE):
        read(len(page))
        for record in page:
            if not record.key.instance:
                yield record
        last = page[-1].key
        after = last._replace(instance=BEYOND, occurrence="") if last.instance else last


async def side_records(store: Store, home: Key) -> AsyncIterator[list[Record]]:
    """Yield the side runs and dead letters of a schedule, in pages. They precede the next instance of the same task."""
    after = home
    while page := await store.scan(home.partition, home.task, after, PAGE):
        found = [record for record in page if record.key.instance == home.instance]
        if found:
            yield found
        if len(found) < len(page):
            return
        after = page[-1].key
