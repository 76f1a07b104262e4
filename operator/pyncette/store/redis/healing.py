"""Files anew what is kept in a partition, after a key of it was evicted, expired or deleted by somebody else."""

from __future__ import annotations

import logging
import time
from typing import Final, NamedTuple

from pyncette.core.record import Partition
from pyncette.store.redis.connection import Call, Connections
from pyncette.store.redis.keys import Keyspace
from pyncette.store.redis.scripts import HEAL

logger = logging.getLogger(__name__)

PHASES: Final = ("records", "due", "leased", "names")
"""What is there is filed anew; then what is filed, and is not there, is dropped."""

PAUSE_SECONDS: Final = 10.0
"""Between the end of one healing and the next: who breaks a partition again and again does not keep all from working."""


PAGES: Final = 8
"""Pages to heal at once if nothing was claimed, so that the pauses of an idle worker hardly slow the healing down."""


class _Progress(NamedTuple):
    phase: int
    cursor: bytes


class Healer:
    """
    Heals partitions one page at a time, each page a script that is done in some milliseconds.

    A partition is whole if each record is filed by its name, and either by when it is due or by when its lease ends;
    claims count all three. What is kept is the truth: from it all else can be told.
    """

    def __init__(self, connections: Connections, keyspace: Keyspace) -> None:
        self._connections = connections
        self._keyspace = keyspace
        self._progress: dict[Partition, _Progress] = {}
        self._healed_at: dict[Partition, float] = {}

    def leave(self, partition: Partition) -> None:
        """Take note that *partition* is whole, perhaps before all of it was gone through."""
        if self._progress.pop(partition, None) is not None:
            self._healed_at[partition] = time.monotonic()
            logger.info("it is put right", extra={"partition": partition})

    async def heal(self, partition: Partition, pages: int) -> bool:
        """Heal up to *pages* pages of *partition*, which is not whole; say whether to continue at once."""
        for _ in range(pages):
            if not await self._heal_page(partition):
                return False
            if partition not in self._progress:
                break
        return True

    async def _heal_page(self, partition: Partition) -> bool:
        if time.monotonic() < self._healed_at.get(partition, -PAUSE_SECONDS) + PAUSE_SECONDS:
            return False
        progress = self._progress.get(partition)
        if progress is None:
            logger.warning(
                "what is filed is not what is there: was a key evicted or deleted? It is put right",
                extra={"partition": partition},
            )
            progress = _Progress(0, b"0")
        call = Call(self._keyspace.of(partition), [PHASES[progress.phase], progress.cursor])
        (cursor,) = await self._connections.run(HEAL, [call])
        progress = _Progress(progress.phase + (cursor == b"0"), cursor)
        self._progress[partition] = progress
        if progress.phase == len(PHASES):
            self.leave(partition)
        return True
