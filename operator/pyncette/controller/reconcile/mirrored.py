"""The cache of the records that the backends hold of the cluster's tasks; scans detect changes."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from pyncette.clock import SECOND
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import Backlog
from pyncette.controller.reconcile.backends import OpenBackend
from pyncette.controller.reconcile.backlog import Waiting, WaitingInstances, runs_instances
from pyncette.controller.reconcile.memory_budget import (
    DEFAULT_LIMITS,
    MemoryBudget,
    MemoryLimits,
    ScanBudget,
    TotalMemory,
    size_of,
    size_of_members,
    size_of_partitions,
    size_of_schemas,
)
from pyncette.controller.reconcile.realms import Realms
from pyncette.controller.reconcile.record_scan import (
    ObservedRecord,
    TooManyRowsError,
    holds_anything,
    scan_records,
)
from pyncette.coordination.argument_schemas import schemas_in_use
from pyncette.coordination.members import Member, members
from pyncette.core.record import Key, Partition, Record
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import realm_of
from pyncette.mirror.counting import COUNTED_MAX

logger = logging.getLogger(__name__)

REFRESHED_ROWS_MAX: Final = 10_000
"""Maximum number of rows in a read of one task. The regular scan reads a task that has more."""

_StoredKey: TypeAlias = tuple[str, Key]
"""A store name, and a key there."""


class PoolView(NamedTuple):
    """The workers and the backlog of a pool on a backend."""

    members: tuple[Member, ...] = ()
    due: int = 0
    """Occurrences of its tasks that wait for a worker."""
    schemas: Mapping[str, bytes] = MappingProxyType({})
    """The JSON schemas of the arguments of the handlers of its tasks."""


class Scan(NamedTuple):
    """The result of a scan of a backend."""

    changed: Sequence[ObjectName]
    """Tasks whose record or side runs have changed."""
    pools: Sequence[ObjectName]
    """Pools whose workers or backlog have changed."""
    backlogs: Mapping[ObjectName, Backlog]
    """The backlog of each existing pool, without tasks that cannot run."""
    seconds: float
    """How long the scan took."""


class Mirrored:
    """
    The cached records of all tasks of the cluster *cluster_id*.

    This process notes its own writes at once. A scan reads the writes of workers, and may miss a write that happens during
    the scan. So for a record that was written during a scan, the higher version wins. For all others the result of the scan
    wins, even if it is older: a backend that failed over, or was restored, may have lost writes.

    *can_run* returns whether a task counts as waiting for workers: a deleted or Stalled one does not. *is_open* returns
    whether a backend is open to a namespace: records of all other namespaces are ignored there. *names_of* returns all
    names of a backend. It is open to the namespaces of each of these, which are known only once each was opened.
    """

    def __init__(
        self,
        cluster_id: str,
        can_run: Callable[[ObjectName], bool] = lambda _: True,
        is_open: Callable[[str, str], bool] = lambda *_: True,
        names_of: Callable[[str], frozenset[str]] = lambda name: frozenset({name}),
        limits: MemoryLimits = DEFAULT_LIMITS,
    ) -> None:
        self._cluster_id = cluster_id
        self._can_run = can_run
        self._names_of = names_of
        self.realms = Realms(cluster_id, is_open)
        self._limits = limits
        self._memory = TotalMemory(limits.total, self._evict)
        self._budgets: dict[str, MemoryBudget] = {}
        """By backend: the memory budget of its records."""
        self._evicted: set[tuple[str, str]] = set()
        """Backends and namespaces that were evicted since the last scan ended."""
        self._overfull: dict[str, set[str]] = {}
        """By backend: the namespaces whose records do not fit into their memory."""
        self._records: dict[ObjectName, dict[_StoredKey, ObservedRecord]] = {}
        self._names: dict[_StoredKey, ObjectName] = {}
        """The task that owns each record."""
        self._pools: dict[tuple[str, ObjectName], PoolView] = {}
        self._instances = WaitingInstances()
        self._scanned: dict[str, frozenset[str]] = {}
        """By backend: its names at the last scan of everything on it."""
        self._namespaces: dict[str, set[str]] = {}
        """By backend: the namespaces that held tasks of this cluster, or had a pool, at the last scan."""
        self._touched: defaultdict[str, dict[Key, int]] = defaultdict(dict)
        """By backend: the records that this process wrote or removed since its last scan began, with the number of the write."""
        self._writes = 0

    def has_seen(self, backend: str) -> bool:
        """
        Return whether *backend* was scanned since the start, under all its names. Before that, its records are unknown.

        Another name may make it open to further namespaces.
        """
        scanned = self._scanned.get(backend)
        return scanned is not None and self._names_of(backend) <= scanned

    def namespaces(self, backend: str) -> Collection[str]:
        """Return the namespaces with records or pools on *backend*, which are scanned one by one."""
        known = {pool.namespace for store_name, pool in self._pools if store_name == backend}
        return known | self._namespaces.get(backend, set())

    def is_overfull(self, backend: str, namespace: str) -> bool:
        """Return whether the records of *namespace* on *backend* exceed their memory budget, so that some were not read."""
        return namespace in self._overfull.get(backend, ())

    def overfull_for(self, namespace: str) -> list[str]:
        """Return the backends on which *namespace* is overfull."""
        return [backend for backend, namespaces in self._overfull.items() if namespace in namespaces]

    def overfull(self, backend: str) -> int:
        """Return how many namespaces are overfull on *backend*."""
        return len(self._overfull.get(backend, ()))

    def records(self, task: ObjectName) -> Sequence[ObservedRecord]:
        """Return the records of *task*: one, unless it moves."""
        return list(self._records.get(task, {}).values())

    def is_running(self, task: ObjectName) -> bool:
        """Return whether *task* has a record that is not stopped."""
        return any(observed.record.state.withdrawn_at is None for observed in self.records(task))

    def names(self) -> Iterator[ObjectName]:
        """Yield the tasks that have a record."""
        return iter(list(self._records))

    def pool(self, backend: str, pool: ObjectName) -> PoolView | None:
        """Return the workers and the backlog of *pool* on *backend*; None before its first scan."""
        if not self.has_seen(backend):
            return None
        return self._pools.get((backend, pool), PoolView())

    def owner_at(self, backend: str, key: Key) -> ObjectName | None:
        """Return the task that owns the record at *key*; None if there is none."""
        return self._names.get((backend, key))

    def counts(self, backend: str) -> Mapping[str, int]:
        """Return how many tasks of each namespace have a record on *backend* that is not stopped."""
        return Counter(
            name.namespace
            for name, records in self._records.items()
            for observed in records.values()
            if observed.backend == backend and observed.record.state.withdrawn_at is None
        )

    def note(self, backend: str, record: Record) -> ObservedRecord:
        """Note a *record* that was just written or read, and return it with its side runs from the cache."""
        noted = ObservedRecord(backend, record)
        name = self.name_of(backend, record)
        if name is None:
            return noted
        self._touch(backend, record.key)
        before = self._at(name, (backend, record.key))
        if before is not None:
            noted = before._replace(record=record) if before.record.version <= record.version else before
        self._put(name, noted)
        return noted

    def forget(self, backend: str, key: Key, task: ObjectName) -> None:
        """Forget a record that was just removed."""
        self._touch(backend, key)
        self._drop((backend, key), task)

    def _touch(self, backend: str, key: Key) -> None:
        self._writes += 1
        self._touched[backend][key] = self._writes

    def keep_only(self, backends: Container[str]) -> None:
        """Forget everything about backends other than *backends*: they share a database with one of these, or lead elsewhere now."""
        for where, task in [(where, task) for where, task in self._names.items() if where[0] not in backends]:
            self._drop(where, task)
        for backend in [backend for backend in self._namespaces if backend not in backends]:
            self._scanned.pop(backend, None)
            del self._namespaces[backend]
            self._overfull.pop(backend, None)
            if backend in self._budgets:
                self._budgets.pop(backend).release()
            self._touched.pop(backend, None)
            self._forget_others(backend, (), None)
            self.realms.forget(backend)

    def name_of(self, backend: str, record: Record) -> ObjectName | None:
        """Return the task that owns *record* on *backend*; None if no resource of this cluster can."""
        return self.realms.task_of(backend, record)

    def pool_of(self, observed: ObservedRecord) -> ObjectName | None:
        """Return the pool that owns the realm of an *observed* record."""
        return self.realms.pool_of(observed.backend, observed.record.key.partition.realm)

    # --- Scanning ----------------------------------------------------------------------------------------------------

    async def scan(
        self,
        backend: OpenBackend,
        ledger: Ledger,
        pools: Sequence[ObjectName] = (),
        namespace: str | None = None,
    ) -> Scan:
        """
        Read all records of this cluster on *backend*, and the workers of *pools*. Raises StoreError.

        With *namespace*, read that namespace only. A pool without records is part of the result, too.
        """
        writes_before = self._writes
        began_at = time.monotonic()
        store_name = backend.store_name  # it may change meanwhile
        names = self._names_of(store_name)
        with_pool = {realm_of(self._cluster_id, *pool) for pool in pools}
        registered = await self.realms.read_registered(store_name, ledger.store)
        present = self._present(store_name, [*sorted(with_pool), *sorted(registered - with_pool)])
        if store_name not in self._budgets:
            self._budgets[store_name] = MemoryBudget(self._limits, store_name, self._memory)
        budget = self._budgets[store_name].scan(namespace, {pool.namespace for pool in pools})
        scanned: set[ObjectName] = set()
        changed_pools: list[ObjectName] = []
        backlogs: dict[ObjectName, Backlog] = {}
        for realm, pool in present.items():
            if namespace not in {None, pool.namespace}:
                continue
            scanned.add(pool)
            if pool.namespace in budget.overfull:
                continue
            has_pool = realm in with_pool
            read = await self._scan_realm(store_name, ledger, realm, pool, has_pool, budget)
            if read is None:
                continue
            workers, waiting, schemas = read
            if has_pool:
                late = 0 if waiting.since is None else ledger.clock.now() - waiting.since
                backlogs[pool] = Backlog(min(waiting.due, COUNTED_MAX), max(0, late) / SECOND)
            view = PoolView(workers, waiting.due if has_pool else 0, schemas)
            if self._pools.get((store_name, pool), PoolView()) != view:
                changed_pools.append(pool)
            self._pools[store_name, pool] = view
        self._forget_others(store_name, scanned, namespace)
        changed = self._take(store_name, budget.found, namespace, writes_before)
        budget.end()
        changed_pools += self._note_overfull(store_name, budget.overfull, pools, namespace)
        changed_pools += [pool for where, pool in self._pools if (where, pool.namespace) in self._evicted]
        self._evicted.clear()
        if namespace is None:
            self._scanned[store_name] = names
        return Scan(
            changed,
            changed_pools,
            backlogs,
            seconds=time.monotonic() - began_at,
        )

    def _present(self, backend: str, realms: Iterable[str]) -> Mapping[str, ObjectName]:
        """Return the pool of each of *realms* on *backend*. Leave out foreign realms."""
        present = {realm: pool for realm in realms if (pool := self.realms.pool_of(backend, realm))}
        self._namespaces[backend] = {pool.namespace for pool in present.values()}
        return present

    async def _scan_realm(
        self,
        backend: str,
        ledger: Ledger,
        realm: str,
        pool: ObjectName,
        has_pool: bool,
        budget: ScanBudget,
    ) -> tuple[tuple[Member, ...], Waiting, Mapping[str, bytes]] | None:
        """
        Read the records of tasks in *realm*, as far as they fit into *budget*. Raises StoreError.

        Return the workers of the *pool*, its backlog, and the schemas of its handlers; None if they, the partitions or the
        rows exceed *budget*.
        """
        workers = tuple(await members(ledger.store, realm, ledger.clock.now()))
        partitions = await ledger.store.partitions(realm)
        schemas = await schemas_in_use(ledger.store, realm, workers, partitions)
        size = size_of_members(workers) + size_of_partitions(partitions) + size_of_schemas(schemas)
        if not budget.admits(pool.namespace, size):
            return None
        try:
            waiting, templates, is_empty = await self._scan_tasks(
                backend, ledger, partitions, workers, budget, pool.namespace
            )
        except TooManyRowsError:
            return None
        if not is_empty:  # a backend that was wiped has records again, perhaps without the registration
            await self.realms.register(backend, ledger, realm)
        if has_pool:
            instances = await self._instances.of(backend, pool, ledger, partitions, templates)
            waiting = waiting.with_more(*instances)
        if has_pool or workers or await holds_anything(ledger.store, partitions):
            self.realms.keep(backend, realm)
        else:
            await self.realms.retire(backend, ledger, realm)
        return workers, waiting, schemas

    def _note_overfull(
        self, backend: str, overfull: set[str], pools: Sequence[ObjectName], namespace: str | None
    ) -> list[ObjectName]:
        """
        Note the *overfull* namespaces on *backend*, and return the *pools* for which this has changed.

        With *namespace*, only that one was scanned.
        """
        before = self._overfull.pop(backend, set())
        overfull = overfull | (set() if namespace is None else before - {namespace})
        if overfull:
            self._overfull[backend] = overfull
        for name in sorted(overfull - before):
            _log_overfull(backend, name)
        return [pool for pool in pools if pool.namespace in before ^ overfull]

    def _evict(self, backend: str, namespace: str) -> None:
        """Forget the records of *namespace* on *backend*, which take more memory than those that need room."""
        for name in [name for name in self._records if name.namespace == namespace]:
            for where in [where for where in self._records[name] if where[0] == backend]:
                self._drop(where, name)
        self._budgets[backend].evict(namespace)
        overfull = self._overfull.setdefault(backend, set())
        if namespace not in overfull:
            _log_overfull(backend, namespace)
        overfull.add(namespace)
        self._evicted.add((backend, namespace))

    async def refresh(
        self, task: ObjectName, observed: ObservedRecord, ledger: Ledger
    ) -> ObservedRecord | None:
        """
        Read the *observed* record of *task* and its side runs, without waiting for the next scan. Raises StoreError.

        Return the updated record; None if it was removed.
        """
        key = observed.record.key
        rows = 0

        def admits(more: int) -> bool:
            nonlocal rows
            rows += more
            return rows <= REFRESHED_ROWS_MAX

        now = ledger.clock.now()
        found = scan_records(ledger.store, [key.partition], observed.backend, now, admits, key.task)
        async for seen in found:
            known = self._at(task, (observed.backend, key))
            if seen.record.key == key and known is not None and known.record.version <= seen.record.version:
                self._touch(observed.backend, key)
                self._put(task, seen._replace(strays=known.strays))
        return self._at(task, (observed.backend, key))

    async def _scan_tasks(
        self,
        backend: str,
        ledger: Ledger,
        partitions: Sequence[Partition],
        workers: Sequence[Member],
        budget: ScanBudget,
        namespace: str,
    ) -> tuple[Waiting, set[str], bool]:
        """
        Read the records of tasks in *partitions*, until *budget* is exhausted.

        Raises StoreError, and TooManyRowsError if the rows of *namespace* exceed the limit of a scan.

        Return the backlog of the tasks that the *workers* could run, the handlers of their templates, and whether there was
        no record at all.
        """
        waiting, templates, is_empty = Waiting(), set[str](), True
        handlers = {handler for worker in workers for handler in worker.handlers}
        admits, now = partial(budget.admits_rows, namespace), ledger.clock.now()
        async for observed in scan_records(ledger.store, partitions, backend, now, admits):
            name = self.name_of(backend, observed.record)
            if name is None:
                continue
            is_empty = False
            if not budget.admits(name.namespace, size_of(observed.record)):
                break
            where = backend, observed.record.key
            known = self._at(name, where)
            # An equal record is kept once. Otherwise each scan would need the memory of all records again.
            budget.found.setdefault(name, {})[where] = known if known == observed and known else observed
            handler = observed.record.key.partition.handler
            # Without workers, the existing handlers are unknown, so all tasks count.
            if (workers and handler not in handlers) or not self._can_run(name):
                continue
            if observed.late_since is not None:
                waiting = waiting.with_more(1, observed.late_since)
            if runs_instances(observed.record):
                templates.add(handler)
        return waiting, templates, is_empty

    def _forget_others(self, backend: str, scanned: Collection[ObjectName], namespace: str | None) -> None:
        """
        Forget the pools of *backend* that were not *scanned*; with *namespace*, only pools of that namespace.

        These pools are gone, and their realms were retired or never registered.
        """
        for store_name, pool in list(self._pools):
            if store_name == backend and pool not in scanned and namespace in {None, pool.namespace}:
                del self._pools[store_name, pool]
                self._instances.forget(store_name, pool)
        self.realms.forget_others(backend, {realm_of(self._cluster_id, *pool) for pool in scanned}, namespace)

    def _take(
        self,
        backend: str,
        found: Mapping[ObjectName, Mapping[_StoredKey, ObservedRecord]],
        namespace: str | None,
        writes_before: int,
    ) -> list[ObjectName]:
        """
        Replace the cached records of *backend* by those that a scan has *found*; with *namespace*, only of that namespace.

        Keep records that were written after *writes_before*. Return the tasks whose records changed.
        """
        touched = self._touched[backend]
        for key, write in list(touched.items()):
            pool = self.realms.pool_of(backend, key.partition.realm)
            if write <= writes_before and (namespace is None or pool is None or pool.namespace == namespace):
                del touched[key]
        changed: dict[ObjectName, None] = {}
        for name, records in found.items():
            for where, observed in records.items():
                before = self._at(name, where)
                if where[1] in touched and (
                    before is None or before.record.version > observed.record.version
                ):
                    continue
                if before is None or _visible_state(before) != _visible_state(observed):
                    changed[name] = None
                self._put(name, observed)
        for name, known in list(self._records.items()):
            for where in list(known) if namespace in {None, name.namespace} else ():
                if where[0] == backend and where not in found.get(name, {}) and where[1] not in touched:
                    self._drop(where, name)
                    changed[name] = None
        return list(changed)

    def _at(self, name: ObjectName, where: _StoredKey) -> ObservedRecord | None:
        return self._records.get(name, {}).get(where)

    def _put(self, name: ObjectName, observed: ObservedRecord) -> None:
        where = (observed.backend, observed.record.key)
        before = self._names.get(where)
        if before is not None and before != name:  # the handler belongs to another task now
            self._drop(where, before)
        self._records.setdefault(name, {})[where] = observed
        self._names[where] = name

    def _drop(self, where: _StoredKey, name: ObjectName) -> None:
        records = self._records.get(name, {})
        records.pop(where, None)
        if not records:
            self._records.pop(name, None)
        if self._names.get(where) == name:
            del self._names[where]


def _log_overfull(backend: str, namespace: str) -> None:
    logger.warning(
        "the records of a namespace take too much memory; some are not read, and its tasks are not reconciled",
        extra={"backend": backend, "namespace": namespace},
    )


def _visible_state(observed: ObservedRecord) -> tuple[object, ...]:
    """Return the fields of a record that the status shows; a renewed lease does not change them."""
    record = observed.record
    return record.version, record.fence, record.state, observed.running, observed.requested, observed.strays
