"""Tracks the realms of the cluster's pools on each backend, and ignores realms that may not use it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

from pyncette.clock import SECOND, Duration
from pyncette.controller.cluster.api import ObjectName
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, inert_record
from pyncette.core.spec import Spec
from pyncette.ledger.ledger import Ledger
from pyncette.resources.modelling import LABEL, SUBDOMAIN
from pyncette.store.base import Store

logger = logging.getLogger(__name__)

RETIREMENT: Final[Duration] = 3600 * SECOND
"""How long an empty realm is still scanned. A pool that is replaced returns much sooner."""

FOREIGN_MAX: Final = 100
"""Maximum number of foreign realms that are read and counted for a backend. Any writer there can create any number."""

SHOWN_MAX: Final = 10
"""Maximum number of foreign realms in a log message."""

SHOWN_CHARACTERS_MAX: Final = 200
"""Maximum length of a realm in the log."""

_NAMESPACE: Final = re.compile(LABEL)
_NAME: Final = re.compile(SUBDOMAIN)


class Realms:
    """
    The realms of the cluster *cluster_id*.

    A database is untrusted: any writer there can name any realm. So a realm counts only if *is_open* returns that the
    backend is open to its namespace. All other realms are foreign: they are ignored, counted and reported.
    """

    def __init__(self, cluster_id: str, is_open: Callable[[str, str], bool]) -> None:
        self._cluster_id = cluster_id
        self._is_open = is_open
        self._registered: dict[str, set[str]] = {}
        """By backend: the registered realms of this cluster."""
        self._empty_since: dict[tuple[str, str], Duration] = {}
        """By backend and realm: since when scans have found it empty and without a pool, by the monotonic clock."""
        self._registrations: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By backend: the lock for changes of its register of realms."""
        self._foreign: dict[str, frozenset[str]] = {}
        """By backend: the foreign realms that the last scan found."""

    def pool_of(self, backend: str, realm: str) -> ObjectName | None:
        """Return the pool that owns *realm* on *backend*; None if no pool of this cluster can."""
        cluster, _, rest = realm.partition("/")
        namespace, _, name = rest.partition("/")
        pool = ObjectName(namespace, name)
        is_own = cluster == self._cluster_id and _is_possible(pool)
        return pool if is_own and self._is_open(backend, namespace) else None

    def task_of(self, backend: str, record: Record) -> ObjectName | None:
        """Return the task that owns *record* on *backend*; None if no resource of this cluster can."""
        owner = record.state.owner
        pool = self.pool_of(backend, record.key.partition.realm)
        if owner is None or pool is None:
            return None
        task = ObjectName(pool.namespace, owner.name or record.key.task)
        return task if _is_possible(task) else None

    def foreign(self, backend: str) -> int:
        """Return how many foreign realms the last scan of *backend* has found, up to `FOREIGN_MAX`."""
        return len(self._foreign.get(backend, ()))

    async def register(self, backend: str, ledger: Ledger, realm: str) -> None:
        """
        Register *realm* before the first record is written there, so that later scans find it.

        A store cannot list realms, so each realm has a record in a reserved realm of the cluster.
        """
        self._empty_since.pop((backend, realm), None)
        if realm in self._registered.setdefault(backend, set()):
            return
        async with self._registrations[backend]:
            await ledger.store.swap(
                [Change(None, inert_record(self._registration(realm), Spec(), await ledger.now()))]
            )
            self._registered[backend].add(realm)

    async def read_registered(self, backend: str, store: Store) -> frozenset[str]:
        """
        Read the registered realms of this cluster on *backend*, and report foreign ones. Raises StoreError.

        A store may also name realms that are no longer registered. These are left out.
        """
        named = sorted({partition.handler for partition in await store.partitions(self._registry)})
        foreign = [realm for realm in named if self.pool_of(backend, realm) is None][:FOREIGN_MAX]
        own = [realm for realm in named if self.pool_of(backend, realm) is not None]
        read = [*own, *foreign]
        records = await store.load([self._registration(realm) for realm in read])
        registered = {realm for realm, record in zip(read, records, strict=True) if record is not None}
        self._report(backend, registered.intersection(foreign))
        result = self._registered[backend] = registered.intersection(own)
        return frozenset(result)

    def _report(self, backend: str, foreign: Collection[str]) -> None:
        """Log the *foreign* realms that the last scan did not find."""
        before, self._foreign[backend] = self._foreign.get(backend, frozenset()), frozenset(foreign)
        new = sorted(self._foreign[backend] - before)
        if new:
            logger.warning(
                "ignored the records of realms whose namespaces may not use the backend; add these namespaces to "
                "it in the settings, or delete the records",
                extra={
                    "backend": backend,
                    "count": len(new),
                    "realms": [realm[:SHOWN_CHARACTERS_MAX] for realm in new[:SHOWN_MAX]],
                },
            )

    def keep(self, backend: str, realm: str) -> None:
        """Record that *realm* is not empty, or has a pool."""
        self._empty_since.pop((backend, realm), None)

    async def retire(self, backend: str, ledger: Ledger, realm: str) -> None:
        """
        Remove *realm* from the register once it has been empty and without a pool for `RETIREMENT`. Raises StoreError.

        Otherwise every namespace that ever existed would be scanned forever. A later write registers the realm again. If
        another operator writes there at this moment, its next scan registers the realm, since it has the pool.
        """
        now = ledger.clock.monotonic()
        if now - self._empty_since.setdefault((backend, realm), now) < RETIREMENT:
            return
        async with self._registrations[backend]:
            if self._empty_since.pop((backend, realm), None) is None:  # a write has registered it meanwhile
                return
            self._registered[backend].discard(realm)
            (record,) = await ledger.store.load([self._registration(realm)])
            if record is not None:
                await ledger.store.swap([Change(record, None)])

    def forget(self, backend: str) -> None:
        """Drop all that is known of *backend*."""
        self._registered.pop(backend, None)
        self._foreign.pop(backend, None)
        self.forget_others(backend, (), None)

    def forget_others(self, backend: str, scanned: Collection[str], namespace: str | None) -> None:
        """Forget the empty realms of *backend* that were not *scanned*; with *namespace*, only realms of that namespace."""
        for backend_name, realm in list(self._empty_since):
            pool = self.pool_of(backend_name, realm)
            is_read = namespace is None or pool is None or pool.namespace == namespace
            if backend_name == backend and is_read and realm not in scanned:
                del self._empty_since[backend_name, realm]

    def _registration(self, realm: str) -> Key:
        return Key(Partition(self._registry, realm), "pool")

    @property
    def _registry(self) -> str:
        return f"{RESERVED_REALMS}pools/{self._cluster_id}"


def _is_possible(name: ObjectName) -> bool:
    """Return whether an object can have this *name*. To a request for an impossible name, the API server responds as for an unknown kind."""
    return bool(_NAMESPACE.fullmatch(name.namespace) and _NAME.fullmatch(name.name))
