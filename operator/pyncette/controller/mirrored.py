"""Knows which records the backends hold of the cluster's tasks, and notices when one of them changes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Instant
from pyncette.controller.api import ObjectName
from pyncette.controller.backends import OpenBackend
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record
from pyncette.core.spec import Spec
from pyncette.ledger import Ledger
from pyncette.members import Member, members
from pyncette.resources.conversion import realm_of
from pyncette.resources.mirror import BEYOND
from pyncette.store.base import Store

PAGE: Final = 200
"""Records of one look at what is there."""


class Home(NamedTuple):
    """The record of a task, and where it is."""

    backend: str
    record: Record
    running: int = 0
    """Runs under way beside the schedule."""
    late_since: Instant | None = None
    """Since when its next occurrence waits for a worker; None if it does not."""


class PoolView(NamedTuple):
    """What a backend knows of a pool."""

    members: tuple[Member, ...] = ()
    due: int = 0
    """Occurrences of its tasks that wait for a worker."""


class Look(NamedTuple):
    """What a look at a backend found out."""

    changed: Sequence[ObjectName]
    """Tasks whose record, or what runs beside it, is not as it was."""
    pools: Sequence[ObjectName]
    """Pools whose workers, or whose backlog, are not as they were."""
    due: int
    """Occurrences that wait for a worker."""
    late_seconds: float
    """How long the one that waits longest has been waiting."""
    seconds: float
    """How long the look took."""


class Mirrored:
    """
    The records of all tasks of the cluster *cluster_id*, as they were seen last.

    What is written by this process is noted at once; a look finds what workers have written, and may be behind of it:
    of two views of one record, that of the higher version counts.
    """

    def __init__(self, cluster_id: str) -> None:
        self._cluster_id = cluster_id
        self._homes: dict[ObjectName, dict[tuple[str, Key], Home]] = {}
        self._names: dict[tuple[str, Key], ObjectName] = {}
        """Whose record is where."""
        self._pools: dict[tuple[str, ObjectName], PoolView] = {}
        self._realms: dict[str, set[str]] = {}
        """By backend: those that hold tasks of this cluster, or did."""
        self._looked: set[str] = set()

    def has_seen(self, backend: str) -> bool:
        """Say whether *backend* was looked at since the start: before that nobody knows what it holds."""
        return backend in self._looked

    def homes(self, task: ObjectName) -> Sequence[Home]:
        """Return the records of *task*: one, unless it moves."""
        return list(self._homes.get(task, {}).values())

    def names(self) -> Iterator[ObjectName]:
        """Yield the tasks that have a record."""
        return iter(list(self._homes))

    def pool(self, backend: str, pool: ObjectName) -> PoolView | None:
        """Return what *backend* knows of *pool*; None if it was not asked yet."""
        if backend not in self._looked:
            return None
        return self._pools.get((backend, pool), PoolView())

    def owner_at(self, backend: str, key: Key) -> ObjectName | None:
        """Return whose record is at *key*; None if no task's is."""
        return self._names.get((backend, key))

    def count(self, backend: str) -> int:
        """Return how many tasks have a record on *backend* that is not stopped."""
        return sum(
            home.backend == backend and home.record.state.withdrawn_at is None
            for homes in self._homes.values()
            for home in homes.values()
        )

    def note(self, backend: str, record: Record) -> None:
        """Take note of what was just written."""
        name = self.name_of(record)
        if name is not None:
            self._put(name, Home(backend, record))

    def forget(self, backend: str, key: Key, task: ObjectName) -> None:
        """Take note of a record that was just removed."""
        homes = self._homes.get(task, {})
        homes.pop((backend, key), None)
        if self._names.get((backend, key)) == task:
            del self._names[backend, key]
        if not homes:
            self._homes.pop(task, None)

    def name_of(self, record: Record) -> ObjectName | None:
        """Return whose record this is; None if it is no resource's of this cluster."""
        owner = record.state.owner
        pool = self.pool_of(record.key.partition.realm)
        if owner is None or pool is None:
            return None
        return ObjectName(pool.namespace, owner.name or record.key.task)

    def pool_of(self, realm: str) -> ObjectName | None:
        """Return whose realm this is; None if it is no pool's of this cluster."""
        cluster, _, rest = realm.partition("/")
        namespace, separator, pool = rest.partition("/")
        return ObjectName(namespace, pool) if separator and cluster == self._cluster_id else None

    # --- Realms ------------------------------------------------------------------------------------------------------

    async def open_realm(self, backend: OpenBackend, ledger: Ledger, realm: str) -> None:
        """
        Have *realm* found again by whoever looks later, before the first record is written there.

        A store finds records of a realm, and not which realms there are; so each has a record in a realm of this cluster's.
        """
        known = self._realms.setdefault(backend.name, set())
        if realm in known:
            return
        now = ledger.clock.now()
        key = Key(Partition(self._registry, realm), "pool")
        record = Record(
            key=key,
            spec=Spec(),
            version=now,
            fence=now,
            due_at=None,
            schedule_since=now,
            claimable_at=None,
            lease_length=0,
        )
        await ledger.store.swap([Change(None, record)])
        known.add(realm)

    @property
    def _registry(self) -> str:
        return f"{RESERVED_REALMS}pools/{self._cluster_id}"

    # --- Looking -----------------------------------------------------------------------------------------------------

    async def look(self, backend: OpenBackend, ledger: Ledger, pools: Sequence[ObjectName] = ()) -> Look:
        """Look at all that *backend* holds of this cluster, and of *pools* even if it holds nothing. Raises StoreError."""
        began_at = time.monotonic()
        store = ledger.store
        realms = {partition.handler for partition in await store.partitions(self._registry)}
        self._realms[backend.name] = realms
        realms |= {realm_of(self._cluster_id, *pool) for pool in pools}
        found: dict[ObjectName, dict[tuple[str, Key], Home]] = {}
        changed_pools: list[ObjectName] = []
        seen_at = ledger.clock.now()
        for realm in sorted(realms):
            pool = self.pool_of(realm)
            if pool is None:  # a row that nobody of ours wrote
                continue
            due = 0
            async for home in _homes(store, realm, backend.name, ledger.clock.now()):
                name = self.name_of(home.record)
                if name is not None:
                    found.setdefault(name, {})[backend.name, home.record.key] = home
                    due += home.late_since is not None
            view = PoolView(tuple(await members(store, realm, ledger.clock.now())), due)
            if self._pools.get((backend.name, pool), PoolView()) != view:
                changed_pools.append(pool)
            self._pools[backend.name, pool] = view
        waiting = [
            home.late_since
            for homes in found.values()
            for home in homes.values()
            if home.late_since is not None
        ]
        changed = self._take(backend.name, found, seen_at)
        self._looked.add(backend.name)
        return Look(
            changed,
            changed_pools,
            due=len(waiting),
            late_seconds=(seen_at - min(waiting)) / SECOND if waiting else 0.0,
            seconds=time.monotonic() - began_at,
        )

    def _take(
        self, backend: str, found: Mapping[ObjectName, Mapping[tuple[str, Key], Home]], seen_at: Instant
    ) -> list[ObjectName]:
        changed = [
            name for name, homes in found.items() if sum(self._put(name, home) for home in homes.values())
        ]
        for name, homes in list(self._homes.items()):
            for place, home in list(homes.items()):
                # What was created since the look began is not in it, and versions start at the time.
                if (
                    place[0] == backend
                    and place not in found.get(name, {})
                    and home.record.state.born < seen_at
                ):
                    self.forget(backend, place[1], name)
                    changed.append(name)
        return changed

    def _put(self, name: ObjectName, home: Home) -> bool:
        """Keep *home*, unless a newer view of the record is there; say whether that changed anything."""
        homes = self._homes.setdefault(name, {})
        place = (home.backend, home.record.key)
        before = homes.get(place)
        if before is not None and before.record.version > home.record.version:
            return False
        homes[place] = home
        self._names[place] = name
        return (
            before is None or before.record.version != home.record.version or before.running != home.running
        )


async def _homes(store: Store, realm: str, backend: str, now: Instant) -> AsyncIterator[Home]:
    """Yield the records of tasks in *realm*, with what runs beside them; instances are passed over, however many there are."""
    for partition in await store.partitions(realm):
        after: Key | None = None
        home: Home | None = None
        while page := await store.scan(partition, None, after, PAGE):
            for record in page:
                key = record.key
                if key.instance:
                    continue
                if not key.occurrence:
                    if home is not None:
                        yield home
                    home = Home(backend, record, late_since=_late_since(record, now))
                elif (
                    home is not None and home.record.key == key._replace(occurrence="") and _runs(record, now)
                ):
                    home = home._replace(running=home.running + 1)
            last = page[-1].key
            after = last._replace(instance=BEYOND, occurrence="") if last.instance else last
        if home is not None:
            yield home


def _runs(record: Record, now: Instant) -> bool:
    return record.lease is not None and record.lease.expires_at > now


def _late_since(record: Record, now: Instant) -> Instant | None:
    at = record.claimable_at
    return at if at is not None and at <= now and not _runs(record, now) else None
