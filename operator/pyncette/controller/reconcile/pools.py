"""Reconciles the Deployment, ServiceAccount and PodDisruptionBudget of each pool, and its status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Instant
from pyncette.controller.cluster.api import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    POOLS,
    SERVICE_ACCOUNTS,
    Api,
    ForbiddenError,
    Kind,
    Manifest,
    NoSuchObjectError,
    ObjectName,
    Reference,
    RefusedError,
)
from pyncette.controller.cluster.objects import Objects, read_whole
from pyncette.controller.cluster.reduction import read_reduced
from pyncette.controller.reconcile.backends import Backends, OpenBackend
from pyncette.controller.reconcile.mirrored import Mirrored, PoolView
from pyncette.controller.settings import BackendSettings, WorkerSettings
from pyncette.controller.status.conditions import STALLED, condition_of
from pyncette.controller.status.differences import Difference, differs, read_status
from pyncette.controller.status.events import Regarding
from pyncette.controller.status.observed import Access, ObservedPool
from pyncette.controller.status.pool_context import PoolEnvironment, StoredPool
from pyncette.controller.status.pool_events import events_of_pool
from pyncette.controller.status.pool_status import points_to_pods, status_of_pool
from pyncette.controller.status.rollout import rolling_out
from pyncette.controller.status.writer import Statuses, as_json, status_manifest
from pyncette.controller.workloads.drift import covers
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.release_namespace import ReleaseNamespace
from pyncette.controller.workloads.workloads import (
    Workloads,
    claimed_elsewhere,
    deployment_name,
    workloads_of,
)
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import realm_of
from pyncette.resources.pool import PoolStatus, PyncetteWorkerPool
from pyncette.resources.reading import Refusal

logger = logging.getLogger(__name__)

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (DEPLOYMENTS, DISRUPTION_BUDGETS, SERVICE_ACCOUNTS)
}
"""The kinds of a pool's objects."""


DUE_MAX: Final = 10_000
"""The highest reported number of waiting occurrences."""


class PoolLocation(NamedTuple):
    """Where the records of a pool's tasks are stored."""

    realm: str
    pool: ObservedPool
    backend: OpenBackend | None
    """None: there is no such pool, or the settings have no such backend."""

    @property
    def store_name(self) -> str:
        """The name by which the records of its backend are known."""
        return self.pool.backend if self.backend is None else self.backend.store_name


class Pools:
    """The reconciler of PyncetteWorkerPools. *changed* is called with each pool that has changed for its tasks."""

    def __init__(
        self,
        cluster_id: str,
        api: Api,
        objects: Objects,
        backends: Backends,
        mirrored: Mirrored,
        statuses: Statuses,
        release_namespace: ReleaseNamespace,
        workers: WorkerSettings,
        changed: Callable[[ObjectName], None],
    ) -> None:
        self._cluster_id = cluster_id
        self._api = api
        self._objects = objects
        self._backends = backends
        self._mirrored = mirrored
        self._statuses = statuses
        self._release_namespace = release_namespace
        self._workers = workers
        self._changed = changed
        self._observed: dict[ObjectName, ObservedPool] = {}
        """The last state of each pool that its tasks were reconciled with."""
        self._known: dict[ObjectName, tuple[str | None, PyncetteWorkerPool | Refusal]] = {}
        """The last parsed version of each pool."""
        self._verified: dict[ObjectName, tuple[object, ...]] = {}
        """The state of each pool when all its objects were last verified."""

    # --- For tasks ---------------------------------------------------------------------------------------------------

    def locate(self, name: ObjectName) -> PoolLocation:
        """Return where the tasks of the pool *name* are kept."""
        realm = realm_of(self._cluster_id, *name)
        pool = self._read(name)
        if pool is None:
            return PoolLocation(realm, ObservedPool(name.name, exists=False, access=Access.UNKNOWN), None)
        if isinstance(pool, Refusal):
            problem = f"has an invalid spec. See {_describe_command(name)}"
            return PoolLocation(
                realm, ObservedPool(name.name, invalid=True, access=Access.UNKNOWN, problem=problem), None
            )
        backend = pool.spec.backend_ref.name
        access = self._access(backend, name.namespace)
        found = self._backends.get(backend)
        view = self._view(backend, name) if access is Access.OPEN else None
        observed = ObservedPool(
            name.name,
            backend=backend,
            access=access,
            fault=found.fault if found is not None and access is Access.DOWN else "",
            rolling_out=not pool.spec.external and rolling_out(self._deployment(pool)),
            wanted=None if pool.spec.external else pool.spec.replicas,
            members=None if view is None else view.members,
            schemas={} if view is None else view.schemas,
            problem=_problem(name, pool.status),
        )
        return PoolLocation(realm, observed, found)

    def _access(self, backend: str, namespace: str) -> Access:
        """Return the access of pools in *namespace* to *backend*."""
        access = self._backends.access(backend, namespace)
        if access is Access.OPEN and self._mirrored.is_overfull(
            self._backends.store_name(backend), namespace
        ):
            return Access.OVERFULL
        return access

    def ledger(self, backend: str) -> Ledger | None:
        """Return the ledger of the records by the name *backend*, if it answers."""
        found = self._backends.get(backend)
        # A backend that was found to share another one's database has records by that name alone.
        return None if found is None or found.is_alias else found.ledger

    def backend(self, name: str) -> OpenBackend | None:
        """Return the backend of this name, if the settings have one."""
        return self._backends.get(name)

    def unseen(self) -> list[OpenBackend]:
        """Return the backends that were not scanned since this process began."""
        return [backend for backend in self._backends if not self._mirrored.has_seen(backend.store_name)]

    def on(self, place: str) -> list[ObjectName]:
        """Return the pools that name the backend with the records of *place*, by whatever name."""
        names = {backend.name for backend in self._backends if backend.store_name == place}
        return [
            name
            for name in self._objects.names(POOLS)
            if isinstance(pool := self._read(name), PyncetteWorkerPool)
            and pool.spec.backend_ref.name in names
        ]

    def now(self) -> Instant:
        """Return the time for pools without a backend."""
        return self._backends.clock.now()

    def _read(self, name: ObjectName) -> PyncetteWorkerPool | Refusal | None:
        """Return a pool, read once for all its tasks, as long as it stays as it is."""
        version = self._objects.version(POOLS, name)
        known = self._known.get(name)
        if known is not None and known[0] == version:
            return known[1]
        stored = self._objects.get(POOLS, name)
        if stored is None:
            self._known.pop(name, None)
            return None
        pool = read_reduced(POOLS, PyncetteWorkerPool, stored)
        self._known[name] = version, pool
        return pool

    def _deployment(self, pool: PyncetteWorkerPool) -> Manifest | None:
        return self._objects.get(DEPLOYMENTS, deployment_name(pool))

    def _view(self, backend: str, name: ObjectName) -> PoolView | None:
        return self._mirrored.pool(self._backends.store_name(backend), name)

    # --- For itself --------------------------------------------------------------------------------------------------

    async def reconcile(self, name: ObjectName, tasks: int) -> float | None:
        """
        Make the objects of the pool *name* equal to its spec, and report its status; *tasks* refer to it.

        The garbage collector removes its objects with it, since it owns them. Returns and raises like `Tasks.reconcile`.
        """
        self.notify_tasks(name)
        held = self._objects.get(POOLS, name)
        if held is None:
            self._observed.pop(name, None)
            self._verified.pop(name, None)
            self._statuses.forget(Reference(POOLS, *name))
            return None
        stored = await read_whole(self._api, self._objects, POOLS, name, held)
        if stored is None:
            return None
        pool = read_reduced(POOLS, PyncetteWorkerPool, stored)
        refused: str | None = None
        if isinstance(pool, PyncetteWorkerPool) and "deletionTimestamp" not in stored["metadata"]:
            made = self._workloads(name, pool)
            if isinstance(made, Workloads):
                applied = await self._apply(name, pool, stored, made)
                if isinstance(applied, Refusal):
                    pool = applied
                else:
                    refused = applied
            elif made is not None:
                pool = made
        return self._report(name, stored, pool, tasks, refused)

    def verify_again(self) -> None:
        """Verify all objects of pools again, whatever the watch has delivered."""
        self._verified.clear()

    def _workloads(self, name: ObjectName, pool: PyncetteWorkerPool) -> Workloads | Refusal | None:
        """Return the objects of *pool*; None while it may not use its backend, and then existing objects stay."""
        settings = self._backends.settings(pool.spec.backend_ref.name, name.namespace)
        if settings is None:
            return None
        refused = self._release_namespace.refusal(pool)
        if refused is not None:
            return refused
        realm = realm_of(self._cluster_id, *name)
        made = workloads_of(pool, pool_backend(settings), realm, self._workers)
        if isinstance(made, Refusal) or made.deployment is None:
            return made
        return self._release_namespace.refusal_of(made.deployment) or made

    async def _apply(
        self, name: ObjectName, pool: PyncetteWorkerPool, stored: Manifest, made: Workloads
    ) -> Refusal | str | None:
        """Apply the objects that differ, and return why one was refused or is in the way; None: nothing was."""
        mark = self._mark(name, stored, made)
        if self._verified.get(name) == mark:
            return None
        for manifest in made.manifests():
            kind = KINDS[manifest["kind"]]
            try:
                there = await self._api.get(kind, ObjectName(name.namespace, manifest["metadata"]["name"]))
            except NoSuchObjectError:
                there = None
            taken = None if there is None else claimed_elsewhere(there, pool)
            if taken is not None:
                return taken
            if there is None or not covers(there, manifest):
                try:
                    applied = await self._api.apply(manifest)
                except (RefusedError, ForbiddenError) as error:
                    logger.warning(
                        "what a pool consists of was refused", extra={"pool": str(name), "error": str(error)}
                    )
                    return str(error)
                if kind is DEPLOYMENTS:
                    self._objects.learn(DEPLOYMENTS, applied)
                logger.info("%s was applied", kind.name, extra={"pool": str(name)})
        self._verified[name] = self._mark(name, stored, made)
        return None

    def _mark(self, name: ObjectName, stored: Manifest, made: Workloads) -> tuple[object, ...]:
        """Return a value that changes with the pool, and with the spec of its Deployment."""
        deployment = None
        if made.deployment is not None:
            deployment = self._objects.get(
                DEPLOYMENTS, ObjectName(name.namespace, made.deployment["metadata"]["name"])
            )
        meta = {} if deployment is None else deployment["metadata"]
        return (
            stored["metadata"]["uid"],
            stored["metadata"].get("generation"),
            meta.get("uid"),
            meta.get("generation"),
        )

    def notify_tasks(self, name: ObjectName) -> None:
        """Queue the tasks of the pool *name*, if what they report of it has changed."""
        observed = self.locate(name).pool
        if self._observed.get(name) != observed:
            self._observed[name] = observed
            self._changed(name)

    def _report(
        self,
        name: ObjectName,
        stored: Manifest,
        pool: PyncetteWorkerPool | Refusal,
        tasks: int,
        refused: str | None,
    ) -> float | None:
        """Queue the status if it has changed; return after how many seconds to work it out again."""
        meta = stored["metadata"]
        seen = StoredPool(
            name,
            meta.get("generation", 0),
            _status_of(stored),
            deleting="deletionTimestamp" in meta,
        )
        around = self._surroundings(name, pool, tasks, refused)
        if around.access is not Access.REFUSED and self._is_about_to_be_known(pool):
            return None
        report = status_of_pool(pool, seen, around)
        difference = differs(stored.get("status", {}), report.status)
        if points_to_pods(report.status) and not points_to_pods(seen.status):
            # People who wait for the pool need to know what to check.
            difference = max(difference, Difference.CONDITIONS)
        reference = Reference(POOLS, *name)
        if difference is Difference.NONE:
            self._statuses.drop(reference)
        else:
            manifest = status_manifest(reference, meta["resourceVersion"], as_json(report.status))
            self._statuses.want(reference, manifest, difference)
        return None if report.again_at is None else max(0.0, (report.again_at - around.now) / SECOND)

    def _surroundings(
        self, name: ObjectName, pool: PyncetteWorkerPool | Refusal, tasks: int, refused: str | None
    ) -> PoolEnvironment:
        realm = realm_of(self._cluster_id, *name)
        if isinstance(pool, Refusal):
            return PoolEnvironment(self.now(), realm=realm, tasks=tasks, refused=refused)
        backend = pool.spec.backend_ref.name
        view = self._view(backend, name)
        access = self._access(backend, name.namespace)
        found = self._backends.get(backend)
        return PoolEnvironment(
            now=self.now() if found is None else found.clock.now(),
            access=access,
            fault=found.fault if found is not None and access is Access.DOWN else "",
            backend=None if found is None else pool_backend(found.settings),
            is_copy=found is not None and access is Access.OPEN and found.is_copy,
            realm=realm,
            deployment=self._deployment(pool),
            refused=refused,
            members=None if view is None or access is not Access.OPEN else view.members,
            tasks=tasks,
            due=None if view is None else min(view.due, DUE_MAX),
        )

    def _is_about_to_be_known(self, pool: PyncetteWorkerPool | Refusal) -> bool:
        """Return whether the first scan of the backend of *pool* is still to come."""
        found = None if isinstance(pool, Refusal) else self._backends.get(pool.spec.backend_ref.name)
        return found is not None and found.is_expected and not self._mirrored.has_seen(found.store_name)

    def events(self, before: Manifest | None, after: Manifest, instance: str) -> list[Manifest]:
        """Return the Events of a status that was written, where it was *before*; *instance* is the operator's pod."""
        meta = after["metadata"]
        regarding = Regarding(meta["namespace"], meta["name"], meta["uid"])
        return events_of_pool(regarding, _status_of(before), _status_of(after), self.now(), instance)


def _describe_command(name: ObjectName) -> str:
    return f"kubectl describe pyncetteworkerpool {name.name} -n {name.namespace}"


def _problem(name: ObjectName, status: PoolStatus) -> str:
    """
    Return the problem of a pool, as its tasks without a worker report it; empty if none is known.

    It has the reason and not the message, which may change every second: all tasks of the pool repeat it.
    """
    stalled = condition_of(status, STALLED)
    if stalled is not None:
        return f"is stalled ({stalled.reason}). See {_describe_command(name)}"
    return f"has pods that are not ready. See {_describe_command(name)}" if points_to_pods(status) else ""


def pool_backend(settings: BackendSettings) -> PoolBackend:
    """Return how the pods of a pool get a backend."""
    return PoolBackend(settings.name, settings.secret_of_workers, settings.secret_key, settings.tls)


def _status_of(stored: Manifest | None) -> PoolStatus:
    """Return the status in *stored*; the initial one if it has none that can be read."""
    return read_status((stored or {}).get("status", {}), PoolStatus) or PoolStatus()
