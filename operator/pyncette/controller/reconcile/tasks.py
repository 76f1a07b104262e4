"""Makes the record of a task equal to its resource, and the status of the resource equal to its record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Instant
from pyncette.controller.cluster.api import TASKS, Api, Manifest, NoSuchObjectError, ObjectName, Reference
from pyncette.controller.cluster.objects import Objects, read_whole
from pyncette.controller.cluster.reduction import read_reduced
from pyncette.controller.intervals import DEFAULT, Intervals
from pyncette.controller.reasons import Reason
from pyncette.controller.reconcile.instance_counts import COUNT_SECONDS, InstanceCounts
from pyncette.controller.reconcile.locations import ClassifiedRecords, Locations
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.pools import PoolLocation, Pools
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.controller.reconcile.requested_runs import RequestedRuns
from pyncette.controller.reconcile.sweep import Sweep
from pyncette.controller.reconcile.task_records import Mirroring, TaskRecords
from pyncette.controller.reconcile.unlisted import UnlistedRecords
from pyncette.controller.status.conditions import READY, STALLED, condition_of
from pyncette.controller.status.differences import Difference, differs, read_status
from pyncette.controller.status.events import Regarding
from pyncette.controller.status.observed import Access, ObservedPool, ObservedTask
from pyncette.controller.status.task_context import StoredTask
from pyncette.controller.status.task_events import events_of
from pyncette.controller.status.task_status import status_of_task, was_mirrored
from pyncette.controller.status.writer import Statuses, as_json, status_manifest
from pyncette.core.accounting import keeps_history
from pyncette.core.spec import Policies
from pyncette.core.times import instant_of
from pyncette.errors import StoreUnavailableError
from pyncette.resources.reading import Refusal
from pyncette.resources.task import PyncetteTask, WorkerPoolRef
from pyncette.resources.task_status import TaskStatus

DEFAULT_POOL: Final = WorkerPoolRef().name


class Tasks:
    """
    The reconciler of PyncetteTasks.

    *is_watched* returns whether the operator watches a namespace. *counted* is called with each pool whose number of tasks
    has changed. *again* is called with each task that is to be reconciled although nothing has changed.
    """

    def __init__(
        self,
        api: Api,
        objects: Objects,
        pools: Pools,
        mirrored: Mirrored,
        statuses: Statuses,
        sweep: Sweep,
        is_watched: Callable[[str], bool],
        counted: Callable[[ObjectName], None],
        again: Callable[[ObjectName], None],
        locations: Locations,
        unlisted: UnlistedRecords,
        intervals: Intervals = DEFAULT,
    ) -> None:
        self._api = api
        self._objects = objects
        self._pools = pools
        self._mirrored = mirrored
        self._statuses = statuses
        self._sweep = sweep
        self._is_watched = is_watched
        self._counted = counted
        self._intervals = intervals
        self._counts = InstanceCounts(pools)
        self._requested = RequestedRuns(pools, mirrored, again)
        self._locations = locations
        self._records = TaskRecords(api, objects, pools, mirrored, self._requested, locations, unlisted)
        self._settled: dict[ObjectName, _Settled] = {}
        self._pool_of: dict[ObjectName, ObjectName] = {}
        self._of_pool: defaultdict[ObjectName, set[ObjectName]] = defaultdict(set)

    def of_pool(self, pool: ObjectName) -> frozenset[ObjectName]:
        """Return the tasks that refer to *pool*."""
        return frozenset(self._of_pool.get(pool, ()))

    def note(self, stored: Manifest) -> None:
        """Record which pool a task refers to, so that all pools know their tasks before the first task is reconciled."""
        name = ObjectName(stored["metadata"]["namespace"], stored["metadata"]["name"])
        self._set_pool(name, ObjectName(name.namespace, _pool_named_in(stored)))

    async def follow_requested_runs(self) -> None:
        """Have tasks with requested runs reconciled more often, until cancelled."""
        await self._requested.follow()

    async def reconcile(self, name: ObjectName) -> float | None:
        """
        Make the record of the task *name* equal to its resource, and its status equal to its record.

        Return the seconds after which the next call is due even if nothing happens; None: never. Raises ApiError and
        StoreError; the caller then retries.
        """
        stored = self._objects.get(TASKS, name) or await self._confirmed(name)
        if stored is None:
            return None
        self._sweep.back(name)
        records = await self._requested.refresh(name, self._mirrored.records(name), self._locations.is_in_use)
        settled = self._settled.get(name)
        if settled is not None and self._holds(name, settled, records):
            return self._again_in(name, settled.again_at, self._now(self._pools.locate(self._pool_of[name])))
        stored = await read_whole(self._api, self._objects, TASKS, name, stored)
        if stored is None:
            return None
        task = read_reduced(TASKS, PyncetteTask, stored)
        location = self._locate(name, task, stored, records)
        classified = self._locations.classify(name, _status_of(stored), location, records)
        if self._is_too_early(name, location, stored, classified.trusted):
            return None
        if _needs_current_status(classified) and not await self._is_current(name, stored):
            return self._intervals.outdated
        mirroring = await self._records.mirror_task(name, task, location, stored, classified)
        stored = mirroring.stored or stored
        self._locations.note_used(name, mirroring.records)
        self._requested.note(name, mirroring.records)
        again_at, is_reported = await self._report(name, stored, task, location, mirroring)
        if mirroring.failed is not None:
            raise mirroring.failed
        if mirroring.moving:
            return self._intervals.move
        if mirroring.taken_by is not None:
            return self._intervals.taken_key
        if name not in self._counts:
            version = stored["metadata"]["resourceVersion"]
            self._settled[name] = _Settled(
                version, location.pool, location.store_name, mirroring.records, again_at, is_reported
            )
        return self._again_in(name, again_at, self._now(location))

    def _holds(self, name: ObjectName, settled: _Settled, records: Sequence[ObservedRecord]) -> bool:
        """
        Return whether another pass would have the same result as the last one, since its input is the same.

        A status that the last pass queued must still be queued. If the API server refused it, another pass is needed.
        """
        if not settled.is_reported and not self._statuses.waits(Reference(TASKS, *name)):
            return False
        pool = self._pool_of.get(name)
        if pool is None or self._objects.version(TASKS, name) != settled.version:
            return False
        location = self._pools.locate(pool)
        if settled.again_at is not None and settled.again_at <= self._now(location):
            return False
        return (location.pool, location.store_name, tuple(records)) == (
            settled.pool,
            settled.store_name,
            settled.records,
        )

    def _again_in(self, name: ObjectName, again_at: Instant | None, now: Instant) -> float | None:
        times = [] if again_at is None else [max(0.0, (again_at - now) / SECOND)]
        if name in self._counts:
            times.append(COUNT_SECONDS)
        return min(times, default=None)

    async def _confirmed(self, name: ObjectName) -> Manifest | None:
        """
        Return the task *name* if the API server has it after all. If not, have its record stopped. Raises ApiError.

        The watch and the lists do not have it. Both can be outdated, and neither distinguishes a deleted object from a
        deleted kind. In a namespace that is not watched nothing is known, so the stored record stays active.
        """
        if not self._is_watched(name.namespace):
            return None
        try:
            found = await self._api.get(TASKS, name)
        except NoSuchObjectError:
            self.forget(name)
            if self._mirrored.is_running(name):
                self._sweep.gone(name)
            return None
        self._objects.found(TASKS, found)
        return self._objects.get(TASKS, name)

    async def _is_current(self, name: ObjectName, stored: Manifest) -> bool:
        """
        Return whether *stored* is the current version of a task. If not, cache the current one, which queues the task.

        An outdated status may not list the database to which the record has moved since.
        """
        try:
            found = await self._api.get(TASKS, name)
        except NoSuchObjectError:  # the watch or a list will show that
            return False
        self._objects.found(TASKS, found)
        return bool(found["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"])

    def forget(self, name: ObjectName) -> None:
        """Drop all that is known of a task that was deleted, except for its record."""
        self._statuses.forget(Reference(TASKS, *name))
        self._set_pool(name, None)
        self._counts.forget(name)
        self._requested.forget(name)
        self._locations.forget(name)
        self._settled.pop(name, None)

    # --- Its pool ----------------------------------------------------------------------------------------------------

    def _locate(
        self,
        name: ObjectName,
        task: PyncetteTask | Refusal,
        stored: Manifest,
        records: Sequence[ObservedRecord],
    ) -> PoolLocation:
        """Return where the record of the task belongs; that of an invalid task stays where it is."""
        named = ObjectName(name.namespace, _pool_named_in(stored))
        self._set_pool(name, named)
        if not isinstance(task, Refusal):
            return self._pools.locate(named)
        trusted = self._locations.classify(name, _status_of(stored), None, records).trusted
        return self._pools.locate((self._mirrored.pool_of(trusted[0]) if trusted else None) or named)

    def _set_pool(self, name: ObjectName, pool: ObjectName | None) -> None:
        before = self._pool_of.get(name)
        if before == pool:
            return
        if before is not None:
            del self._pool_of[name]
            self._of_pool[before].discard(name)
            if not self._of_pool[before]:
                del self._of_pool[before]
            self._counted(before)
        if pool is not None:
            self._pool_of[name] = pool
            self._of_pool[pool].add(name)
            self._counted(pool)

    def _is_too_early(
        self,
        name: ObjectName,
        location: PoolLocation,
        stored: Manifest,
        records: Sequence[ObservedRecord],
    ) -> bool:
        """
        Return whether a backend that may hold the record has not been read since this process began.

        The first scan of a backend queues all tasks that it may concern. So does the first scan that reads all records of a
        namespace that had too many. If the backend does not respond, a status of this generation is better than a new one.
        """
        status = _status_of(stored)
        own = None if location.pool.access is Access.REFUSED else location.backend
        decides = not records and was_mirrored(status)
        if decides and any(
            store_name == location.store_name or self._locations.may_hold(name, status, store_name)
            for store_name in self._mirrored.overfull_for(name.namespace)
        ):
            return True
        unseen = [
            backend
            for backend in self._pools.unseen()
            if backend is own or (decides and self._locations.may_hold(name, status, backend.store_name))
        ]
        if any(backend.is_expected for backend in unseen):
            return True
        ready = condition_of(status, READY)
        if ready is not None and ready.reason == Reason.BACKEND_UNREACHABLE.value:
            return False  # the status is right, except perhaps for its message
        return bool(unseen) and status.observed_generation == stored["metadata"].get("generation")

    # --- Its status --------------------------------------------------------------------------------------------------

    async def _report(
        self,
        name: ObjectName,
        stored: Manifest,
        task: PyncetteTask | Refusal,
        location: PoolLocation,
        mirroring: Mirroring,
    ) -> tuple[Instant | None, bool]:
        """Queue the status if it has changed. Return when it changes by itself, and whether it is unchanged."""
        meta = stored["metadata"]
        seen = StoredTask.of(stored, task.status if isinstance(task, PyncetteTask) else _status_of(stored))
        current = mirroring.current
        observed = ObservedTask(
            record=None if current is None else current.record,
            locations=self._locations.reported(
                seen.status,
                location,
                mirroring.records,
                moving=mirroring.moving or mirroring.failed is not None,
            ),
            moving=mirroring.moving,
            side_runs=0 if current is None else current.running,
            strays=() if current is None else current.strays,
            last_run_id=await self._last_run_id(current, seen.status),
            instances=await self._counts.of(name, current),
            taken_by=mirroring.taken_by,
            write_interval=round(self._statuses.pause_seconds(name.namespace) * SECOND),
            now=self._now(location),
        )
        pool = location.pool
        if mirroring.failed is not None:
            pool = pool._replace(backend=mirroring.failed.backend, access=Access.DOWN)
        report = status_of_task(task, seen, pool, observed)
        difference = differs(stored.get("status", {}), report.status)
        if difference is not Difference.NONE and self._requested.is_awaited(name, seen.status):
            difference = max(difference, Difference.REQUESTS)
        if difference is Difference.CONDITIONS and _reports_missing_pool(seen.status, report.status):
            difference = Difference.POOL_GONE  # a person has deleted the pool, and waits for the effect
        reference = Reference(TASKS, *name)
        if difference is Difference.NONE:
            self._statuses.drop(reference)
        else:
            manifest = status_manifest(reference, meta["resourceVersion"], as_json(report.status))
            self._statuses.want(reference, manifest, difference)
        return report.again_at, difference is Difference.NONE

    async def _last_run_id(self, current: ObservedRecord | None, status: TaskStatus) -> str | None:
        """Return the id of the run that ended last; from the history, unless the status has it already."""
        ended_at = None if current is None else current.record.state.summary.last_ended_at
        if current is None or ended_at is None:
            return None
        last = status.last_run
        if (
            last is not None
            and last.id is not None
            and last.completion_time is not None
            and instant_of(last.completion_time) == ended_at
        ):
            return last.id
        ledger = self._pools.ledger(current.backend)
        if ledger is None or not keeps_history(current.record.spec.policies or Policies()):
            return None
        try:
            runs = await ledger.store.history(current.record.key)
        except StoreUnavailableError:  # the next pass reports it
            return None
        return next((run.id for run in runs if run.ended_at == ended_at), None)

    def events(self, before: Manifest | None, after: Manifest, instance: str) -> list[Manifest]:
        """Return the Events for the status in *after*, compared with *before*; *instance* is the operator's pod."""
        meta = after["metadata"]
        regarding = Regarding(meta["namespace"], meta["name"], meta["uid"])
        now = self._pools.now()
        return events_of(regarding, _status_of(before), _status_of(after), now, instance)

    def _now(self, location: PoolLocation) -> Instant:
        return self._pools.now() if location.backend is None else location.backend.clock.now()


class _Settled(NamedTuple):
    """The input of the last pass over a task, if that pass left nothing to do."""

    version: str
    """Of the resource."""
    pool: ObservedPool
    store_name: str
    records: tuple[ObservedRecord, ...]
    again_at: Instant | None
    """When the status changes by itself."""
    is_reported: bool
    """Whether the stored status was already right."""


def _needs_current_status(records: ClassifiedRecords) -> bool:
    """Return whether a pass would stop an unlisted record, or create a record although there is an unlisted one."""
    runs = any(observed.record.state.withdrawn_at is None for observed in records.unlisted)
    return runs or bool(records.unlisted and not records.trusted)


def _status_of(stored: Manifest | None) -> TaskStatus:
    """Return the status in *stored*; the initial one if it has none that can be read."""
    return read_status((stored or {}).get("status", {}), TaskStatus) or TaskStatus()


def _reports_missing_pool(before: TaskStatus, after: TaskStatus) -> bool:
    """Return whether *after* newly reports that the pool is missing, or that it has been missing for long."""
    ready, known = condition_of(after, READY), condition_of(before, READY)
    if ready is None or ready.reason != Reason.POOL_NOT_FOUND.value:
        return False
    stuck = condition_of(after, STALLED) is not None
    return known is None or known.reason != ready.reason or (condition_of(before, STALLED) is None) is stuck


def _pool_named_in(stored: Manifest) -> str:
    """Return the pool that a task names, even if its spec is invalid otherwise; the default pool if it names none."""
    spec = stored.get("spec")
    reference = spec.get("workerPoolRef") if isinstance(spec, dict) else None
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else DEFAULT_POOL
