"""Rebuilds the indexes of a partition after one of its keys was evicted, expired or deleted by another program."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Partition
from pyncette.store.redis.connection import Call, Connections
from pyncette.store.redis.keys import Keyspace
from pyncette.store.redis.scripts import REBUILD

logger = naming_logger(__name__)

PHASES: Final = ("records", "due", "leased", "names")
"""Phases of a rebuild. The first adds records to the indexes; the others remove entries without a record."""

PAUSE_SECONDS: Final = 10.0
"""Time between two rebuilds of a partition, so that repeated deletions of its keys do not stop all work."""

PAGES: Final = 8
"""Maximum number of pages that are rebuilt at once if nothing was claimed: so few hardly delay an idle worker."""


class _Progress(NamedTuple):
    phase: int
    cursor: bytes


class IndexRebuild:
    """
    The rebuild of the indexes of partitions, one page at a time. The script of a page takes some milliseconds.

    The indexes are complete if each record is in the index of names, and in the index of due times or that of leases.
    Claims compare the sizes of all three. A rebuild reads the records themselves.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace) -> None:
        self._connections = connections
        self._keyspace = keyspace
        self._progress: dict[Partition, _Progress] = {}
        self._finished_at: dict[Partition, float] = {}

    def finish(self, partition: Partition) -> None:
        """End the rebuild of *partition*, whose indexes are complete."""
        if self._progress.pop(partition, None) is not None:
            self._finished_at[partition] = time.monotonic()
            logger.info("partition index rebuilt", extra={"partition": partition})

    async def rebuild(self, partition: Partition, pages: int) -> bool:
        """Rebuild up to *pages* pages of *partition*, and return whether to continue at once. Raises StoreError."""
        for _ in range(pages):
            if not await self._rebuild_page(partition):
                return False
            if partition not in self._progress:
                break
        return True

    async def _rebuild_page(self, partition: Partition) -> bool:
        if time.monotonic() < self._finished_at.get(partition, -PAUSE_SECONDS) + PAUSE_SECONDS:
            return False
        progress = self._progress.get(partition)
        if progress is None:
            logger.warning(
                "the index of a partition does not match its records: was a key evicted or deleted? Rebuilding it",
                extra={"partition": partition},
            )
            progress = _Progress(0, b"0")
        call = Call(self._keyspace.of(partition), [PHASES[progress.phase], progress.cursor])
        (cursor,) = await self._connections.run(REBUILD, [call])
        progress = _Progress(progress.phase + (cursor == b"0"), cursor)
        self._progress[partition] = progress
        if progress.phase == len(PHASES):
            self.finish(partition)
        return True
