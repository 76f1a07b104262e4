"""Keeps the Deployment, the ServiceAccount and the PodDisruptionBudget of each pool as it wants them, and tells tasks how it stands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Instant, SystemClock
from pyncette.controller.api import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    POOLS,
    SERVICE_ACCOUNTS,
    Api,
    Kind,
    Manifest,
    NoSuchObjectError,
    ObjectName,
    Reference,
    RefusedError,
)
from pyncette.controller.backends import Backends, OpenBackend
from pyncette.controller.differs import covers
from pyncette.controller.differences import Difference
from pyncette.controller.facts import Access, PoolFacts
from pyncette.controller.mirrored import Mirrored
from pyncette.controller.objects import Objects
from pyncette.controller.pool_status import PoolFacts as _  # noqa
from pyncette.controller.statuses import Statuses, status_manifest
from pyncette.controller.workloads import PoolBackend, Workloads, deployment_name, workloads_of
from pyncette.ledger import Ledger
from pyncette.resources.conversion import realm_of
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal, read_stored

logger = logging.getLogger(__name__)

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (DEPLOYMENTS, DISRUPTION_BUDGETS, SERVICE_ACCOUNTS)
}
"""Those that a pool consists of."""


class Place(NamedTuple):
    """Where the tasks of a pool are kept, and how that stands."""

    realm: str
    facts: PoolFacts
    backend: OpenBackend | None
    """None: there is no such pool, or the settings have no such backend."""


class Pools:
    """The reconciler of PyncetteWorkerPools. *changed* is told of each pool that looks different to its tasks."""

    def __init__(
        self,
        cluster_id: str,
        api: Api,
        objects: Objects,
        backends: Backends,
        mirrored: Mirrored,
        statuses: Statuses,
        changed: Callable[[ObjectName], None],
    ) -> None:
        self._cluster_id = cluster_id
        self._api = api
        self._objects = objects
        self._backends = backends
        self._mirrored = mirrored
        self._statuses = statuses
        self._changed = changed
        self._clock = SystemClock()
        self._facts: dict[ObjectName, PoolFacts] = {}
        """What tasks were last told."""

    # --- For tasks ---------------------------------------------------------------------------------------------------

    def place(self, name: ObjectName) -> Place:
        """Return where the tasks of the pool *name* are kept."""
        realm = realm_of(self._cluster_id, *name)
        stored = self._objects.get(POOLS, name)
        pool = None if stored is None else read_stored(PyncetteWorkerPool, stored)
        if not isinstance(pool, PyncetteWorkerPool):
            return Place(realm, PoolFacts(name.name, exists=False, access=Access.UNKNOWN), None)
        backend = pool.spec.backend_ref.name
        view = self._mirrored.pool(backend, name)
        access = self._backends.access(backend, name.namespace)
        facts = PoolFacts(
            name.name,
            backend=backend,
            access=access,
            rolling_out=self._is_rolling_out(pool),
            members=None if view is None or access is not Access.OPEN else view.members,
        )
        return Place(realm, facts, self._backends.get(backend))

    def ledger(self, backend: str) -> Ledger | None:
        """Return what writes to *backend*, if it is open."""
        found = self._backends.get(backend)
        return None if found is None else found.ledger

    def on(self, backend: str) -> list[ObjectName]:
        """Return the pools that name *backend*."""
        return [name for name in self._objects.names(POOLS) if self.place(name).facts.backend == backend]

    def now(self) -> Instant:
        """Return the time where no backend tells it."""
        return self._clock.now()
