"""Stops unlisted records, and reports records that a move did not carry over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from pyncette.clock import Duration
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reasons import Reason
from pyncette.controller.reconcile.backends import log_failure
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.pools import Pools
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.controller.status.events import EventContent
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.records import remove_stopped, stop
from pyncette.mirror.rules import MirrorResult, Step

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 10.0
"""How long a pass waits for the database of an unlisted record, which may belong to somebody else."""


class UnlistedRecords:
    """
    The records of tasks on databases that their statuses do not list.

    Such a record is stopped like that of a deleted task, and removed after the same *grace*: it may be the task's own, if
    a status was lost. *report* is called with the content of an Event about a task. No error of a database with unlisted
    records fails the pass over their task.
    """

    def __init__(
        self,
        pools: Pools,
        mirrored: Mirrored,
        grace: Duration,
        report: Callable[[ObjectName, EventContent], None],
    ) -> None:
        self._pools = pools
        self._mirrored = mirrored
        self._grace = grace
        self._report = report

    async def stop(self, task: ObjectName, unlisted: Sequence[ObservedRecord]) -> None:
        """Stop the *unlisted* records of *task* that run, and remove those that were stopped longer ago than the grace."""
        for observed in unlisted:
            ledger = self._pools.ledger(observed.backend)
            if ledger is None:
                continue
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._stop(task, observed, ledger)
            except Exception as error:  # noqa: BLE001 - whatever its database does, the task goes on elsewhere
                self._log(
                    "could not stop a record that the status of its task does not list", observed, error
                )

    async def _stop(self, task: ObjectName, observed: ObservedRecord, ledger: Ledger) -> None:
        record = observed.record
        stopped_at = record.state.withdrawn_at
        if stopped_at is None:
            result = await stop(ledger, record)
            if result is not None and result.record is not None:
                self._mirrored.note(observed.backend, result.record)
                self._warn(task, observed.backend, "the status of the task does not list that database")
        # As for deleted tasks: a template stays as long as it has instances, and they are not removed by that.
        elif stopped_at <= ledger.clock.now() - self._grace and record.spec.partitions is None:
            result = await remove_stopped(ledger, record, self._grace)
            if result is not None and result.step is Step.REMOVED:
                self._mirrored.forget(observed.backend, record.key, task)

    def left_behind(
        self, task: ObjectName, misplaced: Sequence[ObservedRecord], result: MirrorResult
    ) -> None:
        """Record that the *misplaced* records of *task* were removed, as far as *result* says so."""
        errors = {id(each.record): each.error for each in result.unremoved}
        for observed in misplaced:
            error = errors.get(id(observed.record))
            if error is None:
                self._mirrored.forget(observed.backend, observed.record.key, task)
            else:
                self._log("could not remove a record that its task has left behind", observed, error)
        if result.refused and misplaced:
            self._warn(task, misplaced[0].backend, "; ".join(result.refused))

    def _warn(self, task: ObjectName, backend: str, why: str) -> None:
        logger.warning(
            "did not carry over a record from another database",
            extra={"task": str(task), "backend": backend, "reason": why},
        )
        message = f'A record of the task on the backend "{backend}" was not carried over: {why}.'
        self._report(task, EventContent(Reason.NOT_CARRIED_OVER, "Warning", message, backend))

    def _log(self, what: str, observed: ObservedRecord, error: Exception) -> None:
        backend = self._pools.backend(observed.backend)
        if backend is not None:
            log_failure(what, backend, error)
