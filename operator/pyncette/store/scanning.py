"""Reads a partition without the instances of its templates, of which there may be millions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from pyncette.core.record import BEYOND, Key, Partition, Record
from pyncette.store.base import Store

PAGE: Final = 200
"""The number of records of one page."""


async def without_instances(
    store: Store, partition: Partition, task: str | None = None
) -> AsyncIterator[Record]:
    """
    Yield the records of *partition*, or of one *task* there, that belong to no instance. Raises StoreError.

    It reads at most a page of the instances of each template.
    """
    after: Key | None = None
    while page := await store.scan(partition, task, after, PAGE):
        for record in page:
            if not record.key.instance:
                yield record
        last = page[-1].key
        after = last._replace(instance=BEYOND, occurrence="") if last.instance else last
