"""Tracks requested runs until their outcome is in the status, and reads their tasks more often than the regular scan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.fair_queue import FairQueue
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.pools import Pools
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.errors import StoreError
from pyncette.mirror.conversion import instant_or_none
from pyncette.resources.task_status import TaskStatus

FOLLOW_SECONDS: Final = 0.5
"""Time between two reads of a task with a requested run, so that its end shows while a person still waits for it."""

READS_MAX: Final = 32
"""Maximum number of tasks that are read in that time. Namespaces take turns, so one with many requested runs waits longer."""

FOLLOWED_SECONDS_MAX: Final = 600.0
"""How long a task is read this often. The regular scan finds the end of a longer run, or of one that no worker claims."""


class RequestedRuns:
    """
    The requested runs of all tasks until the status reports their outcome.

    *again* is called with each task whose turn has come. Its next pass reads it, by `refresh`.
    """

    def __init__(self, pools: Pools, mirrored: Mirrored, again: Callable[[ObjectName], None]) -> None:
        self._pools = pools
        self._mirrored = mirrored
        self._again = again
        self._running: dict[ObjectName, _Running] = {}
        self._turns: FairQueue[ObjectName] = FairQueue()
        """Tasks that wait for their turn to be read."""
        self._due: set[ObjectName] = set()
        """Tasks that their next pass reads."""
        self._is_followed = asyncio.Event()
        """Set while a task waits for its turn."""
        self._ended: dict[ObjectName, Instant] = {}
        """When the last requested run of a task ended, until the status reports it."""

    async def follow(self) -> None:
        """Have tasks with requested runs read, namespaces in turn, until cancelled."""
        while True:
            await self._is_followed.wait()
            await asyncio.sleep(FOLLOW_SECONDS)
            for _ in range(READS_MAX):
                task = self._turns.take()
                if task is None:
                    self._is_followed.clear()
                    break
                self._due.add(task)
                self._again(task)

    async def refresh(
        self,
        task: ObjectName,
        records: Sequence[ObservedRecord],
        is_trusted: Callable[[ObjectName, ObservedRecord], bool],
    ) -> Sequence[ObservedRecord]:
        """Return the *records* of *task*. If its turn has come, read those again for which *is_trusted* is true."""
        if task not in self._due:
            return records
        self._due.discard(task)
        fresh = []
        for known in records:
            observed: ObservedRecord | None = known
            ledger = self._pools.ledger(known.backend)
            if ledger is not None and is_trusted(task, known):
                with contextlib.suppress(StoreError):
                    observed = await self._mirrored.refresh(task, known, ledger)
            if observed is not None:
                fresh.append(observed)
        self.note(task, fresh)
        return fresh

    def note(self, task: ObjectName, records: Sequence[ObservedRecord], at_least: int = 0) -> None:
        """Record the number of requested runs without an outcome in *records*; *at_least* so many were just requested."""
        before = self._running.get(task)
        count = max(at_least, sum(observed.requested for observed in records))
        if before is not None and count < before.runs:
            ended = [
                at for observed in records if (at := observed.record.state.summary.last_ended_at) is not None
            ]
            if ended:
                self._ended[task] = max(ended)
        if not count:
            self._stop_following(task)
            return
        now = asyncio.get_running_loop().time()
        since = now if before is None else before.since
        self._running[task] = _Running(count, since)
        if at_least:
            self._due.add(task)  # the read that finds the new run does not wait for a turn
        elif now - since < FOLLOWED_SECONDS_MAX and task not in self._due:
            self._turns.add(task, task.namespace)
            self._is_followed.set()

    def is_awaited(self, task: ObjectName, status: TaskStatus) -> bool:
        """Return whether a requested run has ended, and the stored *status* does not report that yet."""
        ended_at = self._ended.get(task)
        if ended_at is None:
            return False
        reported_at = None if status.last_run is None else instant_or_none(status.last_run.completion_time)
        if reported_at is not None and reported_at >= ended_at:
            del self._ended[task]
            return False
        return True

    def forget(self, task: ObjectName) -> None:
        """Drop all that is known of a *task* that was deleted."""
        self._stop_following(task)
        self._ended.pop(task, None)

    def _stop_following(self, task: ObjectName) -> None:
        self._running.pop(task, None)
        self._turns.discard(task)
        self._due.discard(task)


class _Running(NamedTuple):
    """Requested runs of a task that have no outcome yet."""

    runs: int
    since: float
    """By the loop's clock."""
