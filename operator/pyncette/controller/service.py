"""The operator: watches the cluster, makes the backends equal to it, and reports in the cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from functools import partial
from typing import Final

from pyncette.clock import SECOND
from pyncette.controller.cluster.api import (
    DEPLOYMENTS,
    POOLS,
    TASKS,
    Api,
    ApiError,
    ApiUnavailableError,
    Kind,
    Manifest,
    NoSuchKindError,
    ObjectName,
    Reference,
)
from pyncette.controller.cluster.liveness import Liveness, WatchStaleness
from pyncette.controller.cluster.objects import Change, News, Objects
from pyncette.controller.cluster.watch import MANAGED
from pyncette.controller.intervals import DEFAULT, Intervals
from pyncette.controller.metrics import FOREIGN, HELD_BACK, OVERFULL, UNWATCHED, Metrics
from pyncette.controller.reconcile.backends import REAL, Backends, OpenBackend, Reach
from pyncette.controller.reconcile.dependencies import dependency_of, dependency_on
from pyncette.controller.reconcile.locations import Locations
from pyncette.controller.reconcile.memory_budget import MEBIBYTE, MemoryLimits
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.namespace_scans import NamespaceScans
from pyncette.controller.reconcile.open_namespaces import Changes
from pyncette.controller.reconcile.pools import Pools
from pyncette.controller.reconcile.queue import SLOW_PASSES, Queue, Urgency
from pyncette.controller.reconcile.removal_events import RemovalEvents
from pyncette.controller.reconcile.sweep import Sweep, SweepListener
from pyncette.controller.reconcile.tasks import Tasks
from pyncette.controller.reconcile.unlisted import UnlistedRecords
from pyncette.controller.settings import OperatorSettings
from pyncette.controller.status.condition_counts import ConditionCounts
from pyncette.controller.status.conditions import STALLED
from pyncette.controller.status.event_queue import EventQueue
from pyncette.controller.status.events import EventContent, Regarding, event
from pyncette.controller.status.writer import Statuses
from pyncette.controller.workloads.pod_template import POOL_LABEL
from pyncette.controller.workloads.release_namespace import ReleaseNamespace
from pyncette.errors import PyncetteException

logger = logging.getLogger(__name__)

PASSES: Final = 32
"""Maximum concurrent passes, which mostly wait for the API server and the backend. The settings limit those of a namespace."""

MISSED_LISTS: Final = 2
"""A task with a record counts as missing after this many lists in a row without it; then it is read by name."""

IN_A_ROW: Final = 100
"""Tasks that are read without anything else having its turn: some milliseconds."""

FIRST_LIST_SECONDS: Final = 2.0
"""Between tries to list all that there is, at the start."""


class OperatorError(PyncetteException):
    """The operator cannot go on in this process, and is to be started again."""


class Operator:
    """One operator of the cluster *cluster_id*, in *namespaces* or in all of it, which lives as long as its process."""

    def __init__(
        self,
        settings: OperatorSettings,
        cluster_id: str,
        api: Api,
        namespaces: Collection[str] = (),
        *,
        intervals: Intervals = DEFAULT,
        reach: Reach = REAL,
    ) -> None:
        self._settings = settings
        self._intervals = intervals
        self._api = api
        self._namespaces: Collection[str | None] = namespaces or (None,)
        self.metrics = Metrics()
        self._backends = Backends(settings, self.metrics, intervals, reach)
        sight = WatchStaleness()
        self.liveness = Liveness(sight, settings.resync_seconds, lambda: self._backends.ready)
        self._conditions = ConditionCounts(self.metrics.count_condition)
        self._objects = Objects(sight, self._noted)
        limits = MemoryLimits(
            settings.record_mebibytes_per_namespace * MEBIBYTE,
            settings.record_mebibytes_per_backend * MEBIBYTE,
            settings.record_mebibytes * MEBIBYTE,
        )
        self._mirrored = Mirrored(
            cluster_id, self._can_run, self._backends.is_open, self._backends.names_of, limits
        )
        self._events = EventQueue(api)
        self._queue: Queue[Reference] = Queue(
            _namespace_of, dependency_of, intervals.quiet, self._backends.message_of
        )
        self._statuses = Statuses(
            api, settings.status_writes_per_second, self._seen, self._written, self._again, self.metrics
        )
        held_back = RemovalEvents(settings, self._mirrored, self._events, self._backends.clock)
        self._sweep = Sweep(
            settings,
            cluster_id,
            self._mirrored,
            self._is_gone,
            self._is_ending,
            SweepListener(self._count_stopped, held_back.report),
            intervals,
        )
        self._pools = Pools(
            cluster_id,
            api,
            self._objects,
            self._backends,
            self._mirrored,
            self._statuses,
            ReleaseNamespace.of(settings),
            settings.workers,
            self._pool_changed,
        )
        self._tasks = Tasks(
            api,
            self._objects,
            self._pools,
            self._mirrored,
            self._statuses,
            self._sweep,
            self._is_watched,
            self._pool_counted,
            self._task_again,
            Locations(self._backends),
            UnlistedRecords(
                self._pools,
                self._mirrored,
                settings.withdrawal_grace_seconds * SECOND,
                self._report_task,
            ),
            intervals,
        )
        self._scans = {
            backend.name: NamespaceScans(
                backend, partial(self._scan, backend), partial(self._namespaces_on, backend), intervals
            )
            for backend in self._backends
        }
        self._has_listed = False
        self._missing: Counter[ObjectName] = Counter()
        """In how many lists in a row a task that has a record was not."""
        self._surveys = 0
        """How often all was listed while it was known what all backends hold."""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._have_measured(sight)

    def _have_measured(self, sight: WatchStaleness) -> None:
        """Register the gauges that are read at each scrape."""
        metrics = self.metrics
        metrics.report_queue(
            lambda: len(self._queue), lambda: self._queue.in_progress, lambda: self._queue.deferred
        )
        metrics.report_queue_by_namespace("reconcile", self._queue.waiting)
        metrics.report_queue_by_namespace("status", self._statuses.waiting)
        metrics.report_queue_by_namespace("event", self._events.waiting)
        metrics.report_last_delivery(lambda: sight.last_delivery_at)
        for kind in (TASKS, POOLS, DEPLOYMENTS):
            metrics.report_objects(kind.name, partial(self._objects.count, kind))
        metrics.gauge(HELD_BACK).set_function(lambda: float(sum(self.held_back.values())))

    @property
    def is_settled(self) -> bool:
        """True if everything was listed, all backends were scanned, and nothing is queued."""
        busy = len(self._queue) or self._queue.in_progress or len(self._statuses)
        return self._has_seen_all and self.liveness.is_ready() and not busy

    @property
    def _has_seen_all(self) -> bool:
        return all(self._mirrored.has_seen(backend.store_name) for backend in self._backends)

    @property
    def held_back(self) -> Mapping[str, int]:
        """How many tasks on each backend are gone and held back."""
        return self._sweep.held

    def seen(self, kind: Kind, change: Change, manifest: Manifest) -> None:
        """Record a watch event."""
        news = self._objects.observe(kind, change, manifest)
        if change == "DELETED" and self._objects.uid(kind, _name_of(manifest)) is None:
            news = News.GONE  # a list may have shown that already, which alone proves nothing
        self._take_note(kind, manifest, news)

    async def run(self) -> None:
        """
        Work until this is cancelled.

        Raises OperatorError, NoSuchKindError and any other error that makes the operator miss changes.
        """
        async with asyncio.TaskGroup() as working:
            working.create_task(self._end())
            working.create_task(self._backends.keep(self._backend_changed))
            await self._first_resync()
            for scans in self._scans.values():
                working.create_task(scans.run())
            working.create_task(
                self._queue.run(
                    self._reconcile,
                    PASSES,
                    self._passed,
                    passes_per_namespace=self._settings.per_namespace.passes,
                    slow_passes=SLOW_PASSES,
                )
            )
            working.create_task(self._tasks.follow_requested_runs())
            working.create_task(self._statuses.run())
            working.create_task(self._events.run())
            working.create_task(self._sweep.run(list(self._backends)))
            working.create_task(self._resync_loop())
            following = self._backends.open_namespaces.follow(self._api, self._opened_or_closed)
            working.create_task(following)

    async def _end(self) -> None:
        await self._ended

    def _end_by(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    # --- Reconciling -------------------------------------------------------------------------------------------------

    async def _reconcile(self, reference: Reference) -> float | None:
        self._opened_or_closed(await self._backends.open_namespaces.read_for(self._api, reference.namespace))
        try:
            if reference.kind is TASKS:
                return await self._tasks.reconcile(reference.object_name)
            pool = reference.object_name
            return await self._pools.reconcile(pool, len(self._tasks.of_pool(pool)))
        except NoSuchKindError as error:
            self._end_by(error)
            raise

    def _passed(self, reference: Reference, seconds: float, error: Exception | None) -> None:
        self.metrics.passed(reference.kind.name, seconds, error)

    def _take_note(self, kind: Kind, manifest: Manifest, news: News) -> None:
        """Queue what depends on an object, if it has changed."""
        if news is News.NOTHING or (news is News.STATUS and kind is not DEPLOYMENTS):
            return
        # At the start everything is new; an edit meanwhile comes first.
        urgency = Urgency.NEW if self._has_listed else Urgency.ROUTINE
        name = _name_of(manifest)
        if kind is not DEPLOYMENTS:
            self._queue.add(Reference(kind, *name), urgency)
            return
        pool = manifest["metadata"].get("labels", {}).get(POOL_LABEL)
        if pool:
            self._queue.add(Reference(POOLS, name.namespace, pool), urgency)

    def _pool_changed(self, pool: ObjectName) -> None:
        """Queue the tasks of *pool*, which has changed for them."""
        for task in self._tasks.of_pool(pool):
            self._queue.add(Reference(TASKS, *task), Urgency.ROUTINE)

    def _pool_counted(self, pool: ObjectName) -> None:
        if self._objects.uid(POOLS, pool) is not None:
            self._queue.add(Reference(POOLS, *pool), Urgency.ROUTINE)

    def _task_again(self, task: ObjectName) -> None:
        self._queue.add(Reference(TASKS, *task), Urgency.ROUTINE)

    def _again(self, reference: Reference) -> None:
        """Queue an object whose status was worked out from an outdated version."""
        self._queue.add_after(reference, self._intervals.outdated)

    def _seen(self, reference: Reference) -> Manifest | None:
        return self._objects.get(reference.kind, reference.object_name)

    def _written(self, reference: Reference, before: Manifest | None, manifest: Manifest) -> None:
        """Record a status that was written, where it was *before*."""
        self._objects.learn(reference.kind, manifest)
        if reference.kind is POOLS:
            self._pools.notify_tasks(reference.object_name)
        reconciler = self._tasks if reference.kind is TASKS else self._pools
        for report in reconciler.events(before, manifest, self._settings.pod_name):
            self._events.add(report)

    # --- Backends ----------------------------------------------------------------------------------------------------

    def _backend_changed(self, backend: OpenBackend) -> None:
        """Queue the pools and tasks on *backend*, whose availability, store name or identity changed."""
        self._forget_former()
        if backend.is_alias:
            self.metrics.set_backlogs(backend.name, {})
            for gauge in (FOREIGN, OVERFULL):
                self.metrics.gauge(gauge, backend.name).set(0)
        if backend.ready:
            self._queue.recovered(dependency_on(backend.store_name))
        if backend.ready or backend.is_alias:  # another name may open the database to more namespaces
            self._scans[backend.store_name].restart()
        self._queue_pools_on(backend)

    def _queue_pools_on(self, backend: OpenBackend) -> None:
        for pool in self._pools.on(backend.store_name):
            self._queue.add(Reference(POOLS, *pool), Urgency.ROUTINE)
            self._pool_changed(pool)

    def _opened_or_closed(self, changes: Changes) -> None:
        """Queue the pools and tasks in the namespaces of the *changes*, and restart the scans of the backends."""
        for name, namespaces in changes.items():
            store_name = self._backends.store_name(name)
            self._scans[store_name].restart()
            for pool in self._pools.on(store_name):
                if pool.namespace in namespaces:
                    self._queue.add(Reference(POOLS, *pool), Urgency.ROUTINE)
                    self._pool_changed(pool)

    def _forget_former(self) -> None:
        """Forget the records by store names that no backend has any longer, including those that a pass has noted meanwhile."""
        self._mirrored.keep_only({backend.store_name for backend in self._backends})

    async def _scan(self, backend: OpenBackend, namespace: str | None) -> float:
        """Scan *backend* once, queue the changed tasks and pools, and return the duration in seconds. Raises StoreError."""
        ledger = backend.ledger
        if ledger is None:
            return 0.0
        first = not self._mirrored.has_seen(backend.store_name)
        with self.metrics.measured(backend.name, "look"):
            await backend.check_database(ledger.store)
            pools = self._pools.on(backend.store_name)
            scan = await self._mirrored.scan(backend, ledger, pools, namespace)
        self._forget_former()
        self.metrics.set_backlogs(backend.name, scan.backlogs, namespace)
        self.metrics.gauge(FOREIGN, backend.name).set(self._mirrored.realms.foreign(backend.name))
        self.metrics.gauge(OVERFULL, backend.name).set(self._mirrored.overfull(backend.name))
        for task in scan.changed:
            if self._objects.uid(TASKS, task) is not None:
                self._queue.add(Reference(TASKS, *task), Urgency.ROUTINE)
        for pool in scan.pools:
            self._queue.add(Reference(POOLS, *pool), Urgency.ROUTINE)
        if first:
            self._queue_pools_on(backend)
            self._reconcile_unrecorded(backend)
        return scan.seconds

    def _namespaces_on(self, backend: OpenBackend) -> Collection[str]:
        pools = {pool.namespace for pool in self._pools.on(backend.store_name)}
        return pools.union(self._mirrored.namespaces(backend.store_name))

    def _reconcile_unrecorded(self, backend: OpenBackend) -> None:
        """Queue the tasks without a record. They have waited for the first scan of *backend*, which might have found one."""
        for name in self._objects.names(TASKS):
            if self._backends.is_open(backend.store_name, name.namespace) and not self._mirrored.records(
                name
            ):
                self._queue.add(Reference(TASKS, *name), Urgency.ROUTINE)

    # --- Resync ------------------------------------------------------------------------------------------------------

    async def _resync_loop(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self.resync()
            except ApiUnavailableError as error:
                self.liveness.unreachable()
                logger.warning("could not list the resources", extra={"error": str(error)})

    async def _first_resync(self) -> None:
        """List everything, however long the API server takes to answer: nothing can be decided before."""
        while True:
            try:
                await self._backends.open_namespaces.read(self._api)
                return await self.resync()
            except ApiUnavailableError as error:
                logger.warning("could not list the resources; retrying", extra={"error": str(error)})
                await asyncio.sleep(FIRST_LIST_SECONDS)

    async def resync(self) -> None:
        """List everything, queue it, and detect deletions that the watch missed."""
        began_at = time.monotonic()
        for kind, labels in ((POOLS, ""), (DEPLOYMENTS, MANAGED), (TASKS, "")):
            for namespace in self._namespaces:
                pages = self._api.list(kind, namespace, labels)
                listed = await self._objects.absorb(kind, namespace, pages, partial(self._listed, kind))
                if not listed.fresh:
                    self.liveness.listed_older()
                    return
                self._let_go(kind, listed.absent)
        self._pools.verify_again()
        async for stored in self._all_tasks():
            self._tasks.note(stored)
        for kind in (POOLS, TASKS):
            for name in self._objects.names(kind):
                self._queue.add(Reference(kind, *name), Urgency.ROUTINE)
        self._notice_missing()
        self._has_listed = True
        self.liveness.resynced()
        self.metrics.resynced(time.monotonic() - began_at)
        self._count()
        self._sweep.resynced(is_complete=self._surveys >= MISSED_LISTS)

    async def _all_tasks(self) -> AsyncIterator[Manifest]:
        """Yield each task, and let other coroutines run in between: ten thousand take half a second."""
        for number, stored in enumerate(self._objects.each(TASKS)):
            if number % IN_A_ROW == 0:
                await asyncio.sleep(0)
            yield stored

    def _listed(self, kind: Kind, name: ObjectName, news: News) -> None:
        manifest = self._objects.get(kind, name)
        if manifest is not None:
            self._take_note(kind, manifest, news)

    def _let_go(self, kind: Kind, absent: Collection[ObjectName]) -> None:
        """Drop all that is known of objects that a list no longer shows, except for the records of tasks."""
        for name in absent:
            if kind is TASKS:
                self._tasks.forget(name)
            elif kind is POOLS:
                self._queue.add(Reference(POOLS, *name), Urgency.ROUTINE)

    def _count(self) -> None:
        """Count records of namespaces that are not watched."""
        unwatched = sum(not self._is_watched(name.namespace) for name in self._mirrored.names())
        self.metrics.gauge(UNWATCHED).set(unwatched)

    def _notice_missing(self) -> None:
        missing = {
            name for name in self._mirrored.names() if self._is_gone(name) and self._mirrored.is_running(name)
        }
        self._missing = Counter({name: self._missing[name] + 1 for name in missing})
        for name, times in self._missing.items():
            if times >= MISSED_LISTS:
                self._queue.add(Reference(TASKS, *name), Urgency.ROUTINE)
        if self._has_seen_all:
            self._surveys += 1

    def _noted(self, kind: Kind, name: ObjectName, status: bytes | None) -> None:
        if kind is TASKS:
            self._conditions.note(name, status)

    def _can_run(self, name: ObjectName) -> bool:
        """Return whether the task *name* exists and is not Stalled."""
        return self._objects.uid(TASKS, name) is not None and not self._conditions.is_true(name, STALLED)

    def _is_gone(self, name: ObjectName) -> bool:
        """Return whether the task *name* does not exist in a namespace that this operator watches."""
        return self._is_watched(name.namespace) and self._objects.uid(TASKS, name) is None

    async def _is_ending(self, namespace: str) -> bool:
        """Return whether *namespace* is known to be terminating or gone; False in namespaced mode, which has no right to read it."""
        if None not in self._namespaces:
            return False
        try:
            return await self._api.is_namespace_ending(namespace)
        except ApiError as error:
            logger.warning(
                "could not read a namespace whose deleted tasks are held back",
                extra={"tasks_namespace": namespace, "error": str(error)},
            )
            return False

    def _is_watched(self, namespace: str) -> bool:
        return None in self._namespaces or namespace in self._namespaces

    # --- Reporting ---------------------------------------------------------------------------------------------------

    def _count_stopped(self, names: Collection[ObjectName]) -> None:
        """Count tasks that were stopped since they are gone."""
        missed = sum(self._missing[name] >= MISSED_LISTS for name in names)
        self.metrics.withdrew("sweep", missed)
        self.metrics.withdrew("event", len(names) - missed)

    def _report_task(self, name: ObjectName, content: EventContent) -> None:
        """Queue an Event about a task, if the task exists."""
        stored = self._seen(Reference(TASKS, *name))
        if stored is not None:
            meta = stored["metadata"]
            regarding = Regarding(name.namespace, name.name, meta["uid"])
            generation, now = meta.get("generation", 0), self._pools.now()
            self._events.add(event(regarding, content, generation, now, self._settings.pod_name))


def _name_of(manifest: Manifest) -> ObjectName:
    metadata = manifest["metadata"]
    return ObjectName(metadata.get("namespace", ""), metadata["name"])


def _namespace_of(reference: Reference) -> str:
    return reference.namespace
