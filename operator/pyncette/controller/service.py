"""The operator: watches the cluster, keeps the backends equal to it, and tells in the cluster how that goes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Final

from pyncette.clock import SystemClock
from pyncette.controller.api import (
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
from pyncette.controller.backends import Backends, OpenBackend
from pyncette.controller.events import Events
from pyncette.controller.liveness import Liveness
from pyncette.controller.mirrored import Mirrored
from pyncette.controller.objects import Objects
from pyncette.controller.pools import POOL_LABEL, OURS, Pools
from pyncette.controller.queue import Queue, Urgency
from pyncette.controller.settings import OperatorSettings
from pyncette.controller.statuses import Statuses
from pyncette.controller.sweep import Sweep, Told
from pyncette.controller.tasks import Tasks
from pyncette.errors import PyncetteException, StoreError, StoreUnavailableError

logger = logging.getLogger(__name__)

PASSES: Final = 16
"""Objects looked at at a time: most of a pass is waiting for the API server and the backend."""

LOOK_SECONDS: Final = 2.0
"""How soon it is noticed what workers have written."""

LOOK_SHARE: Final = 20
"""At most one part in so many of the time is spent on that, however many tasks there are."""

RIGHTS_SECONDS: Final = 30.0
"""How often rights are asked for again while there are none at all."""


class OperatorError(PyncetteException):
    """The operator cannot go on in this process, and is to be started again."""


class Operator:
    """One operator, which lives as long as its process."""

    def __init__(
        self,
        settings: OperatorSettings,
        cluster_id: str,
        api: Api,
        namespaces: Collection[str | None],
        liveness: Liveness,
    ) -> None:
        self._settings = settings
        self._api = api
        self._namespaces = namespaces
        self._liveness = liveness
        self._objects = Objects()
        self._mirrored = Mirrored(cluster_id)
        self._events = Events(api)
        self._backends = Backends(settings)
        self._queue: Queue[Reference] = Queue(away=_place_that_is_away)
        self._statuses = Statuses(api, settings.status_writes_per_second, self._written, self._again)
        self._sweep = Sweep(settings, cluster_id, self._mirrored, Told(self._tell_stopped, self._tell_held))
        self._pools = Pools(
            cluster_id, api, self._objects, self._backends, self._mirrored, self._statuses, self._pool_changed
        )
        self._tasks = Tasks(
            api, self._objects, self._pools, self._mirrored, self._statuses, self._sweep, self._is_watched
        )
        self._missing: Counter[ObjectName] = Counter()
        """In how many lists on end a task that has a record was not."""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ready(self) -> bool:
        """Whether all is known, and all backends answer."""
        return self._liveness.is_ready() and self._backends.ready

    def seen(self, kind: Kind, change: str | None, manifest: Manifest) -> None:
        """Take note of what the watch tells."""
        self._liveness.delivered(kind, manifest)
        if self._objects.observe(kind, change, manifest):
            self._look_at(kind, manifest, Urgency.NEW)

    async def run(self) -> None:
        """
        Work until this is cancelled.

        Raises OperatorError, NoSuchKindError and whatever else makes it impossible to go on knowing all that there is.
        """
        async with asyncio.TaskGroup() as working:
            working.create_task(self._end())
            working.create_task(self._backends.keep(self._backend_changed))
            await self._resync()
            for backend in self._backends:
                working.create_task(self._look_again_and_again(backend))
            working.create_task(self._queue.run(self._reconcile, PASSES))
            working.create_task(self._statuses.run())
            working.create_task(self._events.run())
            working.create_task(self._sweep.run(list(self._backends)))
            working.create_task(self._resync_again_and_again())

    async def _end(self) -> None:
        await self._ended

    def _end_by(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    # --- Reconciling -------------------------------------------------------------------------------------------------

    async def _reconcile(self, reference: Reference) -> float | None:
        try:
            if reference.kind is TASKS:
                return await self._tasks.reconcile(reference.object_name)
            return await self._pools.reconcile(
                reference.object_name, self._tasks.of_pool(reference.object_name)
            )
        except NoSuchKindError as error:
            self._end_by(error)
            raise

    def _look_at(self, kind: Kind, manifest: Manifest, urgency: Urgency) -> None:
        """Have looked at what depends on an object."""
        meta = manifest["metadata"]
        if kind is DEPLOYMENTS:
            pool = meta.get("labels", {}).get(POOL_LABEL)
            if pool:
                self._queue.add(Reference(POOLS, meta["namespace"], pool), urgency)
        else:
            self._queue.add(Reference(kind, meta["namespace"], meta["name"]), urgency)

    def _pool_changed(self, pool: ObjectName) -> None:
        """Have the tasks of *pool* looked at: what they need to know of it is not as it was."""
        for task in self._tasks.of_pool(pool):
            self._queue.add(Reference(TASKS, *task), Urgency.ROUTINE)

    def _again(self, reference: Reference) -> None:
        self._queue.add(reference, Urgency.ROUTINE)

    def _written(self, reference: Reference, manifest: Manifest) -> None:
        """Take note of a status that was written."""
        before = self._objects.get(reference.kind, reference.object_name)
        self._objects.observe(reference.kind, None, manifest)
        reconciler = self._tasks if reference.kind is TASKS else self._pools
        for event in reconciler.events(before, manifest, self._settings.pod_name):
            self._events.tell(event)

    # --- Backends ----------------------------------------------------------------------------------------------------

    def _backend_changed(self, backend: OpenBackend) -> None:
        """Have all looked at that is on *backend*, which came or went."""
        self._queue.back(BACKEND)
        for pool in self._pools.on(backend.name):
            self._queue.add(Reference(POOLS, *pool), Urgency.ROUTINE)
            self._pool_changed(pool)

    async def _look_again_and_again(self, backend: OpenBackend) -> None:
        while True:
            pause = LOOK_SECONDS
            ledger = backend.ledger
            if ledger is not None and backend.ready:
                first = not self._mirrored.has_seen(backend.name)
                try:
                    look = await self._mirrored.look(backend, ledger, self._pools.on(backend.name))
                except StoreError as error:
                    logger.debug(
                        "a look at a backend failed", extra={"backend": backend.name, "error": str(error)}
                    )
                else:
                    pause = max(LOOK_SECONDS, LOOK_SHARE * look.seconds)
                    for task in look.changed:
                        if self._objects.get(TASKS, task) is not None:
                            self._queue.add(Reference(TASKS, *task), Urgency.ROUTINE)
                    for pool in look.pools:
                        self._queue.add(Reference(POOLS, *pool), Urgency.ROUTINE)
                    if first:
                        self._backend_changed(backend)
            await asyncio.sleep(pause)

    # --- Resync ------------------------------------------------------------------------------------------------------

    async def _resync_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            try:
                await self._resync()
            except ApiUnavailableError as error:
                logger.warning("the resources were not listed", extra={"error": str(error)})

    async def _resync(self) -> None:
        """List all that there is, look at it, and notice what went without being seen to go."""
        for kind, labels in ((POOLS, ""), (DEPLOYMENTS, OURS), (TASKS, "")):
            objects = [
                item for namespace in self._namespaces async for item in self._listed(kind, namespace, labels)
            ]
            self._liveness.listed(kind, objects)
            self._objects.absorb(kind, objects)
        for kind in (POOLS, TASKS):
            for name in self._objects.names(kind):
                self._queue.add(Reference(kind, *name), Urgency.ROUTINE)
        self._notice_missing()
        await self._remove_stopped()
        self._liveness.resynced()

    async def _listed(self, kind: Kind, namespace: str | None, labels: str) -> AsyncIterator[Manifest]:
        async for page in self._api.list(kind, namespace, labels):
            for item in page.items:
                yield item

    def _notice_missing(self) -> None:
        missing = {
            name
            for name in self._mirrored.names()
            if self._is_watched(name.namespace) and self._objects.get(TASKS, name) is None
        }
        self._missing = Counter({name: self._missing[name] + 1 for name in missing})
        for name, times in self._missing.items():
            if times >= 2:
                self._queue.add(Reference(TASKS, *name), Urgency.ROUTINE)

    async def _remove_stopped(self) -> None:
        for backend in self._backends:
            ledger = backend.ledger
            if ledger is not None and backend.ready:
                try:
                    await self._sweep.remove(backend, ledger, self._is_gone)
                except StoreError as error:
                    logger.warning("removals wait", extra={"backend": backend.name, "error": str(error)})

    def _is_gone(self, name: ObjectName) -> bool:
        return self._objects.get(TASKS, name) is None

    def _is_watched(self, namespace: str) -> bool:
        return None in self._namespaces or namespace in self._namespaces
