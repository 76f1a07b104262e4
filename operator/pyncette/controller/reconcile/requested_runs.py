"""Tracks requested runs until their outcome is in the status, and reads their tasks more often than the regular scan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.pools import Pools
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.core.times import instant_of
from pyncette.errors import StoreUnavailableError
from pyncette.resources.task_status import TaskStatus

FOLLOW_SECONDS: Final = 0.5
"""Between two reads of a task with a requested run, so that its end shows while people still watch."""

FOLLOWED_MAX: Final = 32
"""Tasks that are read this often. The regular scan notices the runs of further tasks."""

FOLLOWED_SECONDS_MAX: Final = 600.0
"""How long a task is read this often. The regular scan notices a run that takes longer, or that no worker claims."""


class RequestedRuns:
    """The requested runs of all tasks that have no outcome yet, or one that the status does not report yet."""

    def __init__(self, pools: Pools, mirrored: Mirrored) -> None:
        self._pools = pools
        self._mirrored = mirrored
        self._running: dict[ObjectName, _Running] = {}
        self._ended: dict[ObjectName, Instant] = {}
        """When the last requested run of a task ended, until the status reports it."""

    def is_followed(self, task: ObjectName) -> bool:
        """Return whether *task* is read every `FOLLOW_SECONDS`."""
        running = self._running.get(task)
        return running is not None and running.is_followed

    async def refresh(self, task: ObjectName, records: Sequence[ObservedRecord]) -> Sequence[ObservedRecord]:
        """Return the *records* of *task*, read again if it is followed and their backends answer."""
        if not self.is_followed(task):
            return records
        fresh = []
        for known in records:
            observed: ObservedRecord | None = known
            ledger = self._pools.ledger(known.backend)
            if ledger is not None:
                with contextlib.suppress(StoreUnavailableError):
                    observed = await self._mirrored.refresh(task, known, ledger)
            if observed is not None:
                fresh.append(observed)
        self.note(task, fresh)
        return fresh

    def note(self, task: ObjectName, records: Sequence[ObservedRecord], at_least: int = 0) -> None:
        """Record how many requested runs have no outcome yet, by *records*; *at_least* that many were just requested."""
        before = self._running.get(task)
        count = max(at_least, sum(observed.requested for observed in records))
        if before is not None and count < before.runs:
            ended = [
                at for observed in records if (at := observed.record.state.summary.last_ended_at) is not None
            ]
            if ended:
                self._ended[task] = max(ended)
        if not count:
            self._running.pop(task, None)
            return
        now = asyncio.get_running_loop().time()
        if before is None:
            slots = FOLLOWED_MAX - sum(running.is_followed for running in self._running.values())
            self._running[task] = _Running(count, now, is_followed=slots > 0)
        else:
            is_followed = before.is_followed and now - before.since < FOLLOWED_SECONDS_MAX
            self._running[task] = before._replace(runs=count, is_followed=is_followed)

    def is_awaited(self, task: ObjectName, status: TaskStatus) -> bool:
        """Return whether a requested run has ended, and the stored *status* does not report that yet."""
        ended_at = self._ended.get(task)
        if ended_at is None:
            return False
        reported_at = None if status.last_run is None else _instant(status.last_run.completion_time)
        if reported_at is not None and reported_at >= ended_at:
            del self._ended[task]
            return False
        return True

    def forget(self, task: ObjectName) -> None:
        """Drop all that is known of a *task* that was deleted."""
        self._running.pop(task, None)
        self._ended.pop(task, None)


class _Running(NamedTuple):
    """Requested runs of a task that have no outcome yet."""

    runs: int
    since: float
    """By the loop's clock."""
    is_followed: bool
    """Whether they are read separately, every `FOLLOW_SECONDS`."""


def _instant(at: datetime | None) -> Instant | None:
    return None if at is None else instant_of(at)
