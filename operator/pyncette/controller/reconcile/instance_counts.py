"""Counts the instances of templates for their status, now and then."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.pools import Pools
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.errors import StoreUnavailableError
from pyncette.mirror.counting import instances_of
from pyncette.resources.task_status import Instances

COUNT_SECONDS: Final = 60.0
"""Between two counts of the instances of a template that are due or leased."""

TOTAL_SECONDS: Final = 600.0
"""Between two counts of all instances of a template, which cost more."""


class InstanceCounts:
    """The last count of the instances of each template."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._counts: dict[ObjectName, _Count] = {}

    def __contains__(self, task: ObjectName) -> bool:
        return task in self._counts

    async def of(self, task: ObjectName, observed: ObservedRecord | None) -> Instances | None:
        """Return how many instances the template *task* has, counted at most `COUNT_SECONDS` ago; None if it is none."""
        if observed is None or observed.record.spec.partitions is None:
            self.forget(task)
            return None
        now = asyncio.get_running_loop().time()
        before = self._counts.get(task)
        if before is not None and now - before.at < COUNT_SECONDS:
            return before.instances
        ledger = self._pools.ledger(observed.backend)
        if ledger is None:
            return None if before is None else before.instances
        try:
            counted = await instances_of(ledger.store, observed.record, ledger.clock.now())
        except StoreUnavailableError:
            return None if before is None else before.instances
        total_at = now
        if before is not None and now - before.total_at < TOTAL_SECONDS:
            counted, total_at = counted.model_copy(update={"total": before.instances.total}), before.total_at
        self._counts[task] = _Count(counted, now, total_at)
        return counted

    def forget(self, task: ObjectName) -> None:
        """Drop the count of a *task* that was deleted, or is no template any more."""
        self._counts.pop(task, None)


class _Count(NamedTuple):
    """Instances of a template, and when they were counted, by the loop's clock."""

    instances: Instances
    at: float
    total_at: float
