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
from pyncette.store.cancellation import leaks_as_errors

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 2.0
"""Time limit for the databases of all unlisted records, which may belong to another team."""

RETRY_SECONDS: Final = 60.0
"""Minimum time after such a database has failed or timed out before passes of a namespace wait for it again."""


class UnlistedRecords:
    """
    The records of tasks on databases that their statuses do not list.

    Such a record is stopped like that of a deleted task, and removed after the same *grace*. If a status was lost, it may
    be the task's own. *report* is called with the content of an Event about a task. An error of a database with unlisted
    records never fails the pass over their task.
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
        self._retry_at: dict[tuple[str, str], float] = {}
        """By backend and namespace: the loop time at which unlisted records there are tried again, after a failure."""

    async def stop(self, task: ObjectName, unlisted: Sequence[ObservedRecord]) -> None:
        """Stop the active *unlisted* records of *task*, and remove those that were stopped longer ago than the grace."""
        loop_time = asyncio.get_running_loop().time
        deadline = loop_time() + STOP_SECONDS
        for observed in unlisted:
            ledger, source = self._pools.ledger(observed.backend), (observed.backend, task.namespace)
            if ledger is None or loop_time() < self._retry_at.get(source, 0.0):
                continue
            self._retry_at.pop(source, None)
            try:
                with leaks_as_errors():
                    async with asyncio.timeout_at(deadline):
                        await self._stop(task, observed, ledger)
            except Exception as error:  # noqa: BLE001 - no fault of that database may stop the pass
                self._retry_at[source] = loop_time() + RETRY_SECONDS
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
        # As for deleted tasks, a template stays while it has instances. Its removal would not remove them.
        elif stopped_at <= ledger.clock.now() - self._grace and record.spec.partitions is None:
            result = await remove_stopped(ledger, record, self._grace)
            if result is not None and result.step is Step.REMOVED:
                self._mirrored.forget(observed.backend, record.key, task)

    def note_removed(
        self, task: ObjectName, misplaced: Sequence[ObservedRecord], result: MirrorResult
    ) -> None:
        """Forget the *misplaced* records of *task*. Log those that could not be removed, and report those that were refused."""
        errors = {id(each.record): each.error for each in result.unremoved}
        for observed in misplaced:
            error = errors.get(id(observed.record))
            if error is None:
                self._mirrored.forget(observed.backend, observed.record.key, task)
            else:
                self._log("could not remove the old record of a task that moved", observed, error)
        if result.refused and misplaced:
            self._warn(task, misplaced[0].backend, "; ".join(result.refused))

    def _warn(self, task: ObjectName, backend: str, reason: str) -> None:
        logger.warning(
            "did not carry over a record from another database",
            extra={"task": str(task), "backend": backend, "reason": reason},
        )
        message = f'A record of the task on the backend "{backend}" was not carried over: {reason}.'
        self._report(task, EventContent(Reason.NOT_CARRIED_OVER, "Warning", message, backend))

    def _log(self, message: str, observed: ObservedRecord, error: Exception) -> None:
        backend = self._pools.backend(observed.backend)
        if backend is not None:
            log_failure(message, backend, error)
