"""Finds the stored tasks of a worker's handlers, so that metrics include them before their first run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Partition
from pyncette.errors import StoreError
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances

logger = naming_logger(__name__)

PAUSE_SECONDS: Final = 30.0
"""Minimum time between two searches: about as long as between two scrapes."""

PAUSE_SHARE: Final = 100
"""A long search is repeated after this many times its duration, so searches take at most a hundredth of the time."""


async def follow_tasks(
    store: Store,
    partitions: Sequence[Partition],
    found: Callable[[str, str], object],
    lost: Callable[[str, str], object] = lambda *_: None,
) -> None:
    """
    Call *found* with the realm and the name of each task in *partitions*, repeatedly until cancelled.

    Call *lost* for a task that two searches in a row do not find: a single one may miss a task that moves.
    """
    known = dict[tuple[str, str], int]()
    while True:
        began = time.monotonic()
        try:
            seen = dict[tuple[str, str], int]()
            for partition in partitions:
                async for task in tasks_in(store, partition):
                    found(partition.realm, task)
                    seen[partition.realm, task] = 0
            for one, missed in known.items():
                if one not in seen and missed:
                    lost(*one)
                elif one not in seen:
                    seen[one] = missed + 1
            known = seen
        except StoreError as error:
            logger.debug("could not read the names of tasks", extra={"error": str(error)})
        await asyncio.sleep(max(PAUSE_SECONDS, PAUSE_SHARE * (time.monotonic() - began)))


async def tasks_in(store: Store, partition: Partition) -> AsyncIterator[str]:
    """Yield the names of tasks with a record in *partition*, past their instances however many there are. Raises StoreError."""
    async for record in without_instances(store, partition):
        if not record.key.occurrence and record.state.withdrawn_at is None:
            yield record.key.task
