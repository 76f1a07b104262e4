"""The cache of the records that the backends hold of the cluster's tasks; scans detect changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import Backlog
from pyncette.controller.reconcile.backends import OpenBackend
from pyncette.controller.reconcile.memory_budget import (
    DEFAULT_LIMITS,
    MemoryBudget,
    MemoryLimits,
    size_of,
    size_of_members,
    size_of_partitions,
)
from pyncette.controller.reconcile.record_scan import ObservedRecord, holds_anything, scan_records
from pyncette.coordination.members import Member, members
from pyncette.core.record import (
    RESERVED_REALMS,
    Change,
    Key,
    Partition,
    Record,
    inert_record,
)
from pyncette.core.spec import Spec
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import realm_of
from pyncette.mirror.counting import COUNTED_MAX, waiting_in
from pyncette.store.base import Store

logger = logging.getLogger(__name__)

INSTANCES_PAUSE: Final[Duration] = 10 * SECOND
"""Between two counts of waiting instances of dynamic tasks: a count takes a request or more for each partition."""

RETIREMENT: Final[Duration] = 3600 * SECOND
"""How long an empty realm is still scanned. A pool that is replaced returns much sooner."""


_Where: TypeAlias = tuple[str, Key]
"""The backend, and the key there."""


class PoolView(NamedTuple):
    """The workers and the backlog of a pool on a backend."""

    members: tuple[Member, ...] = ()
    due: int = 0
    """Occurrences of its tasks that wait for a worker."""


class _Waiting(NamedTuple):
    """The backlog of a pool."""

    due: int = 0
    since: Instant | None = None
    """When the oldest of them was due; None if nothing waits."""

    def with_more(self, due: int, since: Instant | None) -> _Waiting:
        """Return the sum of this and *due* more, the oldest of which was due at *since*."""
        instants = [at for at in (self.since, since) if at is not None]
        return _Waiting(self.due + due, min(instants, default=None))


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
    The records of all tasks of the cluster *cluster_id*, as they were seen last.

    What is written by this process is noted at once; a look finds what workers have written, and may be behind of it. So of
    what was written while a look was under way, the higher version counts; of all else what the look found, even if that is
    older: a backend that failed over, or was restored, may have lost what it had.

    *can_run* says whether a task counts as waiting for workers: one that is gone or Stalled does not.
    """

    def __init__(
        self,
        cluster_id: str,
        can_run: Callable[[ObjectName], bool] = lambda _: True,
        limits: MemoryLimits = DEFAULT_LIMITS,
    ) -> None:
        self._cluster_id = cluster_id
        self._can_run = can_run
        self._limits = limits
        self._overfull: dict[str, set[str]] = {}
        """By backend: the namespaces whose records do not fit into their memory."""
        self._records: dict[ObjectName, dict[_Where, ObservedRecord]] = {}
        self._names: dict[_Where, ObjectName] = {}
        """Whose record is where."""
        self._pools: dict[tuple[str, ObjectName], PoolView] = {}
        self._realms: dict[str, set[str]] = {}
        """By backend: those that hold tasks of this cluster, or did."""
        self._empty_since: dict[tuple[str, str], Duration] = {}
        """By backend and realm: since when scans have found it empty and without a pool, by the monotonic clock."""
        self._registering: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By backend: held by who adds to the register of realms there, or takes away from it."""
        self._instances: dict[tuple[str, ObjectName], tuple[Duration, _Waiting]] = {}
        """By backend and pool: when the waiting instances of dynamic tasks were counted, by the monotonic clock, and the result."""
        self._scanned: set[str] = set()
        self._touched: defaultdict[str, set[Key]] = defaultdict(set)
        """By backend: what this process wrote or removed since the look began that is under way, or the last one."""

    def has_seen(self, backend: str) -> bool:
        """Return whether *backend* was scanned since the start. Before that, its records are unknown."""
        return backend in self._scanned

    def is_overfull(self, backend: str, namespace: str) -> bool:
        """Return whether *namespace* has more records on *backend* than fit into memory, so that not all were read."""
        return namespace in self._overfull.get(backend, ())

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
        if backend not in self._scanned:
            return None
        return self._pools.get((backend, pool), PoolView())

    def owner_at(self, backend: str, key: Key) -> ObjectName | None:
        """Return the task that owns the record at *key*; None if there is none."""
        return self._names.get((backend, key))

    def count(self, backend: str) -> int:
        """Return how many tasks have a record on *backend* that is not stopped."""
        return sum(
            observed.backend == backend and observed.record.state.withdrawn_at is None
            for records in self._records.values()
            for observed in records.values()
        )

    def note(self, backend: str, record: Record) -> ObservedRecord:
        """Note a *record* that was just written or read, and return it with what else is known of it."""
        noted = ObservedRecord(backend, record)
        name = self.name_of(record)
        if name is None:
            return noted
        self._touched[backend].add(record.key)
        before = self._at(name, (backend, record.key))
        if before is not None:
            noted = before._replace(record=record) if before.record.version <= record.version else before
        self._put(name, noted)
        return noted

    def forget(self, backend: str, key: Key, task: ObjectName) -> None:
        """Drop a record that was just removed."""
        self._touched[backend].add(key)
        self._drop((backend, key), task)

    def keep_only(self, backends: Container[str]) -> None:
        """Forget all that is known of other *backends*: they share the database of one of these, or lead elsewhere now."""
        for where, task in [(where, task) for where, task in self._names.items() if where[0] not in backends]:
            self._drop(where, task)
        for backend in [backend for backend in self._scanned if backend not in backends]:
            self._scanned.discard(backend)
            self._realms.pop(backend, None)
            self._overfull.pop(backend, None)
            self._forget_others(backend, ())

    def name_of(self, record: Record) -> ObjectName | None:
        """Return the task that owns *record*; None if no resource of this cluster does."""
        owner = record.state.owner
        pool = self.pool_of(record.key.partition.realm)
        if owner is None or pool is None:
            return None
        return ObjectName(pool.namespace, owner.name or record.key.task)

    def pool_of(self, realm: str) -> ObjectName | None:
        """Return the pool that owns *realm*; None if no pool of this cluster does."""
        cluster, _, rest = realm.partition("/")
        namespace, separator, pool = rest.partition("/")
        return ObjectName(namespace, pool) if separator and cluster == self._cluster_id else None

    # --- Realms ------------------------------------------------------------------------------------------------------

    async def open_realm(self, backend: str, ledger: Ledger, realm: str) -> None:
        """
        Register *realm* before the first record is written there, so that later scans find it.

        A store cannot list realms, so each realm has a record in a reserved realm of the cluster.
        """
        self._empty_since.pop((backend, realm), None)
        if realm in self._realms.setdefault(backend, set()):
            return
        async with self._registering[backend]:
            await ledger.store.swap(
                [Change(None, inert_record(self._registration(realm), Spec(), await ledger.now()))]
            )
            self._realms[backend].add(realm)

    async def _retire(self, backend: str, ledger: Ledger, realm: str) -> None:
        """
        Stop scanning *realm* once it has been empty, and its pool gone, for long.

        Else every namespace that ever existed would be scanned forever. A later write opens it again. Another operator that
        writes there at this moment opens it at its next scan, since it has the pool.
        """
        now = ledger.clock.monotonic()
        if now - self._empty_since.setdefault((backend, realm), now) < RETIREMENT:
            return
        async with self._registering[backend]:
            if self._empty_since.pop((backend, realm), None) is None:  # a write has opened it meanwhile
                return
            self._realms[backend].discard(realm)
            (record,) = await ledger.store.load([self._registration(realm)])
            if record is not None:
                await ledger.store.swap([Change(record, None)])

    def _registration(self, realm: str) -> Key:
        return Key(Partition(self._registry, realm), "pool")

    @property
    def _registry(self) -> str:
        return f"{RESERVED_REALMS}pools/{self._cluster_id}"

    # --- Scanning ----------------------------------------------------------------------------------------------------

    async def scan(self, backend: OpenBackend, ledger: Ledger, pools: Sequence[ObjectName] = ()) -> Scan:
        """Read all that *backend* holds of this cluster, and of *pools* even if it holds nothing. Raises StoreError."""
        began_at = time.monotonic()
        store = ledger.store
        self._touched[backend.store_name] = set()
        with_pool = {realm_of(self._cluster_id, *pool) for pool in pools}
        opened = await self._opened(store)
        self._realms[backend.store_name] = opened
        found: dict[ObjectName, dict[_Where, ObservedRecord]] = {}
        scanned: set[ObjectName] = set()
        changed_pools: list[ObjectName] = []
        backlogs: dict[ObjectName, Backlog] = {}
        budget = MemoryBudget(self._limits)
        for realm in [*sorted(with_pool), *sorted(opened - with_pool)]:
            pool = self.pool_of(realm)
            if pool is None:  # a row that no operator wrote
                continue
            scanned.add(pool)
            if pool.namespace in budget.overfull:
                continue
            workers = tuple(await members(store, realm, ledger.clock.now()))
            partitions = await store.partitions(realm)
            if not budget.admits(pool.namespace, size_of_members(workers) + size_of_partitions(partitions)):
                continue
            waiting, templates, is_empty = await self._scan_tasks(
                backend.store_name, ledger, partitions, workers, found, budget
            )
            if not is_empty:  # a backend that was wiped may have got records again, and not yet this
                await self.open_realm(backend.store_name, ledger, realm)
            if realm in with_pool:
                instances = await self._instances_waiting(
                    backend.store_name, pool, ledger, partitions, templates
                )
                waiting = waiting.with_more(*instances)
                late = 0 if waiting.since is None else ledger.clock.now() - waiting.since
                backlogs[pool] = Backlog(min(waiting.due, COUNTED_MAX), max(0, late) / SECOND)
            view = PoolView(workers, waiting.due if realm in with_pool else 0)
            if self._pools.get((backend.store_name, pool), PoolView()) != view:
                changed_pools.append(pool)
            self._pools[backend.store_name, pool] = view
            if realm in with_pool or view.members or await holds_anything(store, partitions):
                self._empty_since.pop((backend.store_name, realm), None)
            else:
                await self._retire(backend.store_name, ledger, realm)
        self._forget_others(backend.store_name, scanned)
        changed = self._take(backend.store_name, found)
        changed_pools += self._note_overfull(backend.store_name, budget.overfull, pools)
        self._scanned.add(backend.store_name)
        return Scan(
            changed,
            changed_pools,
            backlogs,
            seconds=time.monotonic() - began_at,
        )

    def _note_overfull(
        self, backend: str, overfull: set[str], pools: Sequence[ObjectName]
    ) -> list[ObjectName]:
        """Note which namespaces are *overfull* on *backend*, and return the pools for which that is news."""
        before = self._overfull.pop(backend, set())
        if overfull:
            self._overfull[backend] = overfull
        for namespace in sorted(overfull - before):
            logger.warning(
                "the records of a namespace take too much memory: not all are read, and its tasks are not reconciled",
                extra={"backend": backend, "namespace": namespace},
            )
        return [pool for pool in pools if pool.namespace in before ^ overfull]

    async def refresh(
        self, task: ObjectName, observed: ObservedRecord, ledger: Ledger
    ) -> ObservedRecord | None:
        """
        Read one *observed* of *task*, and its side runs, without waiting for the next scan.

        Returns it as it is known then; None if it was removed. Raises StoreError.
        """
        key = observed.record.key
        found = scan_records(ledger.store, [key.partition], observed.backend, ledger.clock.now(), key.task)
        async for seen in found:
            known = self._at(task, (observed.backend, key))
            if seen.record.key == key and known is not None and known.record.version <= seen.record.version:
                self._touched[observed.backend].add(key)
                self._put(task, seen._replace(strays=known.strays))
        return self._at(task, (observed.backend, key))

    async def _scan_tasks(
        self,
        backend: str,
        ledger: Ledger,
        partitions: Sequence[Partition],
        workers: Sequence[Member],
        found: dict[ObjectName, dict[_Where, ObservedRecord]],
        budget: MemoryBudget,
    ) -> tuple[_Waiting, set[str], bool]:
        """
        Add the records of tasks in *partitions* to *found*, as far as they fit into *budget*. Raises StoreError.

        Return the backlog of the tasks that the *workers* could run, the handlers of the templates among these, and whether
        there was no record at all.
        """
        waiting, templates, is_empty = _Waiting(), set[str](), True
        handlers = {handler for worker in workers for handler in worker.handlers}
        async for observed in scan_records(ledger.store, partitions, backend, ledger.clock.now()):
            name = self.name_of(observed.record)
            if name is None:
                continue
            is_empty = False
            if not budget.admits(name.namespace, size_of(observed.record)):
                break
            where = backend, observed.record.key
            known = self._at(name, where)
            # What is the same is kept once: else each look would take the memory of all records again.
            found.setdefault(name, {})[where] = known if known == observed and known else observed
            handler = observed.record.key.partition.handler
            # Without a worker it is unknown which handlers exist, so all tasks count.
            if (workers and handler not in handlers) or not self._can_run(name):
                continue
            if observed.late_since is not None:
                waiting = waiting.with_more(1, observed.late_since)
            if _runs_instances(observed.record):
                templates.add(handler)
        return waiting, templates, is_empty

    async def _instances_waiting(
        self,
        backend: str,
        pool: ObjectName,
        ledger: Ledger,
        partitions: Sequence[Partition],
        templates: Collection[str],
    ) -> _Waiting:
        """Return the backlog of the instances of *templates*, counted at most `INSTANCES_PAUSE` ago. Raises StoreError."""
        if not templates:
            self._instances.pop((backend, pool), None)
            return _Waiting()
        now = ledger.clock.monotonic()
        counted = self._instances.get((backend, pool))
        if counted is None or now - counted[0] >= INSTANCES_PAUSE:
            waiting, latest = _Waiting(), 0
            for partition in partitions:
                if partition.handler in templates:
                    due, late = await waiting_in(
                        ledger.store, partition, partition.handler, ledger.clock.now(), latest
                    )
                    latest = max(latest, late or 0)
                    since = None if late is None else ledger.clock.now() - late
                    waiting = waiting.with_more(due, since)
            counted = self._instances[backend, pool] = (now, waiting)
        return counted[1]

    async def _opened(self, store: Store) -> set[str]:
        """Return the realms that are open: of those that the store names, which may hold nothing any more, those that are registered."""
        named = sorted({partition.handler for partition in await store.partitions(self._registry)})
        records = await store.load([self._registration(realm) for realm in named])
        return {realm for realm, record in zip(named, records, strict=True) if record is not None}

    def _forget_others(self, backend: str, scanned: Container[ObjectName]) -> None:
        """Forget pools of *backend* that were not *scanned*: they are gone, and their realms were retired, or never opened."""
        for place, pool in list(self._pools):
            if place == backend and pool not in scanned:
                del self._pools[place, pool]
                self._instances.pop((place, pool), None)
        for place, realm in list(self._empty_since):
            if place == backend and self.pool_of(realm) not in scanned:
                del self._empty_since[place, realm]

    def _take(
        self, backend: str, found: Mapping[ObjectName, Mapping[_Where, ObservedRecord]]
    ) -> list[ObjectName]:
        """Make all that is known of *backend* what a look has *found*, and return whose record is not as it was."""
        touched = self._touched[backend]
        changed: dict[ObjectName, None] = {}
        for name, records in found.items():
            for where, observed in records.items():
                before = self._at(name, where)
                if where[1] in touched and (
                    before is None or before.record.version > observed.record.version
                ):
                    continue
                if before is None or _face(before) != _face(observed):
                    changed[name] = None
                self._put(name, observed)
        for name, known in list(self._records.items()):
            for where in list(known):
                if where[0] == backend and where not in found.get(name, {}) and where[1] not in touched:
                    self._drop(where, name)
                    changed[name] = None
        return list(changed)

    def _at(self, name: ObjectName, where: _Where) -> ObservedRecord | None:
        return self._records.get(name, {}).get(where)

    def _put(self, name: ObjectName, observed: ObservedRecord) -> None:
        where = (observed.backend, observed.record.key)
        before = self._names.get(where)
        if before is not None and before != name:  # a handler that belongs to another task now
            self._drop(where, before)
        self._records.setdefault(name, {})[where] = observed
        self._names[where] = name

    def _drop(self, where: _Where, name: ObjectName) -> None:
        records = self._records.get(name, {})
        records.pop(where, None)
        if not records:
            self._records.pop(name, None)
        if self._names.get(where) == name:
            del self._names[where]


def _runs_instances(record: Record) -> bool:
    """Return whether *record* is a template whose instances may run."""
    policies = record.spec.policies
    return (
        record.spec.partitions is not None
        and record.state.withdrawn_at is None
        and not (policies is not None and policies.suspend)
    )


def _face(observed: ObservedRecord) -> tuple[object, ...]:
    """Return what a task's status shows of its record; a renewal of a lease is not among that."""
    record = observed.record
    return record.version, record.fence, record.state, observed.running, observed.requested, observed.strays
