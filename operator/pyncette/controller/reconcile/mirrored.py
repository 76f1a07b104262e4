"""The cache of the records that the backends hold of the cluster's tasks; scans detect changes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import Backlog
from pyncette.controller.reconcile.backends import OpenBackend
from pyncette.controller.reconcile.backlog import Waiting, late_since_of, runs_instances
from pyncette.controller.reconcile.realms import Realms
from pyncette.coordination.members import Member, members
from pyncette.coordination.partition_counts import stray_partitions
from pyncette.core.record import Key, Partition, Record, is_on_demand
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import realm_of
from pyncette.mirror.counting import COUNTED_MAX, waiting_in
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances

INSTANCES_PAUSE: Final[Duration] = 10 * SECOND
"""Between two counts of waiting instances of dynamic tasks: a count takes a request or more for each partition."""


_Where: TypeAlias = tuple[str, Key]
"""The backend, and the key there."""


class ObservedRecord(NamedTuple):
    """The record of a task, and where it is."""

    backend: str
    record: Record
    running: int = 0
    """Runs under way beside the schedule."""
    requested: int = 0
    """Requested runs that have no outcome yet, under way or not."""
    late_since: Instant | None = None
    """Since when its next occurrence waits for a worker; None if it does not."""
    strays: tuple[int, ...] = ()
    """Of a template: partitions beyond its count that hold instances. No worker polls them."""


class PoolView(NamedTuple):
    """The workers and the backlog of a pool on a backend."""

    members: tuple[Member, ...] = ()
    due: int = 0
    """Occurrences of its tasks that wait for a worker."""


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

    *can_run* says whether a task counts as waiting for workers: one that is gone or Stalled does not. *is_open* says whether
    a backend is open to a namespace: records of all other namespaces are ignored there. *names_of* returns all names of a
    backend, since it is open to what any of these is open to; they are known only once each was opened.
    """

    def __init__(
        self,
        cluster_id: str,
        can_run: Callable[[ObjectName], bool] = lambda _: True,
        is_open: Callable[[str, str], bool] = lambda *_: True,
        names_of: Callable[[str], frozenset[str]] = lambda name: frozenset({name}),
    ) -> None:
        self._cluster_id = cluster_id
        self._can_run = can_run
        self._names_of = names_of
        self.realms = Realms(cluster_id, is_open)
        self._records: dict[ObjectName, dict[_Where, ObservedRecord]] = {}
        self._names: dict[_Where, ObjectName] = {}
        """Whose record is where."""
        self._pools: dict[tuple[str, ObjectName], PoolView] = {}
        self._instances: dict[tuple[str, ObjectName], tuple[Duration, Waiting]] = {}
        """By backend and pool: when the waiting instances of dynamic tasks were counted, by the monotonic clock, and the result."""
        self._scanned: dict[str, frozenset[str]] = {}
        """The names that each backend had when everything on it was last scanned."""
        self._namespaces: dict[str, set[str]] = {}
        """By backend: the namespaces that held tasks of this cluster, or had a pool, at the last scan."""
        self._touched: defaultdict[str, dict[Key, int]] = defaultdict(dict)
        """By backend: what this process wrote or removed since the last scan of it began, and the number of that write."""
        self._writes = 0

    def has_seen(self, backend: str) -> bool:
        """
        Return whether *backend* was scanned since the start, under all its names. Before that, its records are unknown.

        Another name may make it open to further namespaces.
        """
        return self._scanned.get(backend) == self._names_of(backend)

    def namespaces(self, backend: str) -> Collection[str]:
        """Return the namespaces that have something on *backend*, to be scanned each by itself."""
        known = {pool.namespace for place, pool in self._pools if place == backend}
        return known | self._namespaces.get(backend, set())

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
        """Note a *record* that was just written or read, and return it with what else is known of it."""
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
        """Drop a record that was just removed."""
        self._touch(backend, key)
        self._drop((backend, key), task)

    def _touch(self, backend: str, key: Key) -> None:
        self._writes += 1
        self._touched[backend][key] = self._writes

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
        Read all that *backend* holds of this cluster, and of *pools* even if it holds nothing. Raises StoreError.

        With *namespace*, read the records of that namespace only.
        """
        writes_before = self._writes
        began_at = time.monotonic()
        store = ledger.store
        names = self._names_of(backend.store_name)
        with_pool = {realm_of(self._cluster_id, *pool) for pool in pools}
        opened = await self.realms.opened(backend.store_name, store)
        found: dict[ObjectName, dict[_Where, ObservedRecord]] = {}
        scanned: set[ObjectName] = set()
        changed_pools: list[ObjectName] = []
        backlogs: dict[ObjectName, Backlog] = {}
        present = {
            realm: self.realms.pool_of(backend.store_name, realm) for realm in sorted(opened | with_pool)
        }
        self._namespaces[backend.store_name] = {pool.namespace for pool in present.values() if pool}
        for realm, pool in present.items():
            if pool is None:  # the pool may not use the backend that it names
                continue
            if namespace not in {None, pool.namespace}:
                continue
            workers = tuple(await members(store, realm, ledger.clock.now()))
            partitions = await store.partitions(realm)
            waiting, templates, is_empty = await self._scan_tasks(
                backend.store_name, ledger, partitions, workers, found
            )
            if not is_empty:  # a backend that was wiped may have got records again, and not yet this
                await self.realms.open(backend.store_name, ledger, realm)
            scanned.add(pool)
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
            if realm in with_pool or view.members or await _holds_anything(store, partitions):
                self.realms.keep(backend.store_name, realm)
            else:
                await self.realms.retire(backend.store_name, ledger, realm)
        self._forget_others(backend.store_name, scanned, namespace)
        changed = self._take(backend.store_name, found, namespace, writes_before)
        if namespace is None:
            self._scanned[backend.store_name] = names
        return Scan(
            changed,
            changed_pools,
            backlogs,
            seconds=time.monotonic() - began_at,
        )

    async def refresh(
        self, task: ObjectName, observed: ObservedRecord, ledger: Ledger
    ) -> ObservedRecord | None:
        """
        Read one *observed* of *task*, and its side runs, without waiting for the next scan.

        Returns it as it is known then; None if it was removed. Raises StoreError.
        """
        key = observed.record.key
        found = _scan_records(ledger.store, [key.partition], observed.backend, ledger.clock.now(), key.task)
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
        found: dict[ObjectName, dict[_Where, ObservedRecord]],
    ) -> tuple[Waiting, set[str], bool]:
        """
        Add the records of tasks in *partitions* to *found*. Raises StoreError.

        Return the backlog of the tasks that the *workers* could run, the handlers of the templates among these, and whether
        there was no record at all.
        """
        waiting, templates, is_empty = Waiting(), set[str](), True
        handlers = {handler for worker in workers for handler in worker.handlers}
        async for observed in _scan_records(ledger.store, partitions, backend, ledger.clock.now()):
            name = self.name_of(backend, observed.record)
            if name is None:
                continue
            is_empty = False
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
            if runs_instances(observed.record):
                templates.add(handler)
        return waiting, templates, is_empty

    async def _instances_waiting(
        self,
        backend: str,
        pool: ObjectName,
        ledger: Ledger,
        partitions: Sequence[Partition],
        templates: Collection[str],
    ) -> Waiting:
        """Return the backlog of the instances of *templates*, counted at most `INSTANCES_PAUSE` ago. Raises StoreError."""
        if not templates:
            self._instances.pop((backend, pool), None)
            return Waiting()
        now = ledger.clock.monotonic()
        counted = self._instances.get((backend, pool))
        if counted is None or now - counted[0] >= INSTANCES_PAUSE:
            waiting, latest = Waiting(), 0
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

    def _forget_others(self, backend: str, scanned: Collection[ObjectName], namespace: str | None) -> None:
        """
        Forget pools of *backend*, in *namespace* if it is given, that were not *scanned*.

        They are gone, and their realms were retired, or never opened.
        """
        for place, pool in list(self._pools):
            if place == backend and pool not in scanned and namespace in {None, pool.namespace}:
                del self._pools[place, pool]
                self._instances.pop((place, pool), None)
        self.realms.forget_others(backend, {realm_of(self._cluster_id, *pool) for pool in scanned}, namespace)

    def _take(
        self,
        backend: str,
        found: Mapping[ObjectName, Mapping[_Where, ObservedRecord]],
        namespace: str | None,
        writes_before: int,
    ) -> list[ObjectName]:
        """
        Make all that is known of *backend*, in *namespace* if it is given, what a scan has *found*.

        What was written after *writes_before* stays. Return the tasks whose records are not as they were.
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
                if before is None or _face(before) != _face(observed):
                    changed[name] = None
                self._put(name, observed)
        for name, known in list(self._records.items()):
            for where in list(known) if namespace in {None, name.namespace} else ():
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


def _face(observed: ObservedRecord) -> tuple[object, ...]:
    """Return what a task's status shows of its record; a renewal of a lease is not among that."""
    record = observed.record
    return record.version, record.fence, record.state, observed.running, observed.requested, observed.strays


async def _holds_anything(store: Store, partitions: Sequence[Partition]) -> bool:
    for partition in partitions:
        if await store.scan(partition, None, None, 1):
            return True
    return False


async def _scan_records(
    store: Store, partitions: Sequence[Partition], backend: str, now: Instant, task: str | None = None
) -> AsyncIterator[ObservedRecord]:
    """
    Yield the records of tasks in *partitions*, or of one *task*, with what runs beside them.

    Instances are passed over, however many there are.
    """
    for partition in partitions:
        observed: ObservedRecord | None = None
        async for record in without_instances(store, partition, task):
            key = record.key
            if not key.occurrence:
                if observed is not None:
                    yield observed
                strays = await _strays(store, partitions, record)
                observed = ObservedRecord(
                    backend, record, late_since=late_since_of(record, now), strays=strays
                )
            elif observed is not None and observed.record.key == key._replace(occurrence=""):
                observed = observed._replace(
                    running=observed.running + record.is_leased(now),
                    requested=observed.requested + is_on_demand(key),
                )
        if observed is not None:
            yield observed


async def _strays(store: Store, partitions: Sequence[Partition], record: Record) -> tuple[int, ...]:
    count = record.spec.partitions
    if count is None or record.state.owner is None:
        return ()
    return tuple(await stray_partitions(store, partitions, record.key.partition.handler, count))
