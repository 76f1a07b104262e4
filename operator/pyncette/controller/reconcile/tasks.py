"""Makes the record of a task equal to its resource, and the status of the resource equal to its record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Instant
from pyncette.controller.cluster.api import TASKS, Api, Manifest, NoSuchObjectError, ObjectName, Reference
from pyncette.controller.cluster.objects import Objects
from pyncette.controller.intervals import USUAL, Pace
from pyncette.controller.reasons import Reason
from pyncette.controller.reconcile.mirrored import Home, Mirrored
from pyncette.controller.reconcile.pools import Place, Pools
from pyncette.controller.reconcile.sweep import Sweep
from pyncette.controller.status.conditions import READY, STALLED, condition_of
from pyncette.controller.status.differences import Difference, differs, read_status
from pyncette.controller.status.events import Regarding
from pyncette.controller.status.facts import Access, PoolFacts, TaskFacts
from pyncette.controller.status.task_events import events_of
from pyncette.controller.status.task_status import Stored, is_over, status_of_task, was_mirrored
from pyncette.controller.status.writer import Statuses, as_json, status_manifest
from pyncette.core.accounting import keeps_history
from pyncette.core.record import Key, Owner, Record, replace
from pyncette.core.spec import Policies
from pyncette.core.times import instant_of
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.counting import instances_of
from pyncette.mirror.records import (
    DesiredRecord,
    Elsewhere,
    Step,
    Taken,
    desired_record_of,
    is_ahead,
    is_suspended_otherwise,
    mirror_one,
    suspended_as,
    suspension,
)
from pyncette.mirror.requests import Done, ask
from pyncette.resources.reading import Refusal, read_stored
from pyncette.resources.task import Instances, PyncetteTask, TaskStatus, WorkerPoolRef

logger = logging.getLogger(__name__)

DEFAULT_POOL: Final = WorkerPoolRef().name

COUNT_SECONDS: Final = 60.0
"""How often the instances of a template that are due and leased are counted, for its status."""

TOTAL_SECONDS: Final = 600.0
"""And all of them, which costs more."""


FOLLOW_SECONDS: Final = 0.5
"""Between two reads of a task with a requested run, so that its end shows while people still watch."""

FOLLOWED_MAX: Final = 32
"""Tasks that are read this often; the runs of further tasks are noticed by the regular scan."""

FOLLOWED_SECONDS_MAX: Final = 600.0
"""How long a task is read this often. A run that takes longer, or that no worker claims, is noticed by the regular scan."""

POSSIBLE_PARTITIONS: Final = range(1, 1025)
"""Valid values of spec.partitions."""


class _Mirroring(NamedTuple):
    """What the backend holds of a task after it was made equal to its resource, as far as that could be done."""

    home: Home | None
    moving: bool = False
    taken_by: str | None = None
    """Another task that has its place: the name of a handler or a task is given once in a pool."""
    away: str | None = None
    """A backend that does not answer, so that something is not written yet."""
    failed: StoreUnavailableError | None = None


class Tasks:
    """
    The reconciler of PyncetteTasks.

    *is_watched* says of a namespace whether anything is known of it; *counted* is told of each pool to which more or fewer
    tasks refer than before.
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
        pace: Pace = USUAL,
    ) -> None:
        self._api = api
        self._objects = objects
        self._pools = pools
        self._mirrored = mirrored
        self._statuses = statuses
        self._sweep = sweep
        self._is_watched = is_watched
        self._counted = counted
        self._pace = pace
        self._counts: dict[ObjectName, _Count] = {}
        self._settled: dict[ObjectName, _Settled] = {}
        self._requested: dict[ObjectName, _RequestedRuns] = {}
        """Tasks with requested runs that have no outcome yet."""
        self._awaited: dict[ObjectName, Instant] = {}
        """Tasks whose requested run has ended, and when, until the status reports it."""
        self._taking: dict[tuple[str, Key], ObjectName] = {}
        """Who is about to have which place: the name of a handler is given once, to whoever comes first."""
        self._pool_of: dict[ObjectName, ObjectName] = {}
        self._of_pool: defaultdict[ObjectName, set[ObjectName]] = defaultdict(set)

    def of_pool(self, pool: ObjectName) -> frozenset[ObjectName]:
        """Return the tasks that refer to *pool*."""
        return frozenset(self._of_pool.get(pool, ()))

    async def reconcile(self, name: ObjectName) -> float | None:
        """
        Make what is stored of the task *name* equal to what is wished for, and its status to what is stored.

        Returns in how many seconds it is to be called again although nothing happens; None: not at all. Raises ApiError
        and StoreError, after which it is to be called again.
        """
        stored = self._objects.get(TASKS, name) or await self._found(name)
        if stored is None:
            return None
        self._sweep.back(name)
        await self._follow(name)
        settled = self._settled.get(name)
        if settled is not None and self._holds(name, settled):
            return self._again_in(name, settled.again_at, self._now(self._pools.place(self._pool_of[name])))
        task = read_stored(PyncetteTask, stored)
        place = self._place(name, task, stored)
        if self._is_too_early(name, place, stored):
            return None
        mirroring = await self._mirror(name, task, place, stored)
        self._note_requested(name)
        again_at, is_told = await self._tell(name, stored, task, place, mirroring)
        if mirroring.failed is not None:
            raise mirroring.failed
        if mirroring.moving:
            return self._pace.waiting
        if mirroring.taken_by is not None:
            return self._pace.taken
        if mirroring.away is None and name not in self._counts:
            version = stored["metadata"]["resourceVersion"]
            self._settled[name] = _Settled(version, place.facts, mirroring.home, again_at, is_told)
        return self._again_in(name, again_at, self._now(place))

    def _holds(self, name: ObjectName, settled: _Settled) -> bool:
        """
        Say whether another pass would find what the last one found, since all that it went by is the same.

        A status that it wanted to have written still waits for that; one that was refused is to be tried again.
        """
        if not settled.is_told and not self._statuses.waits(Reference(TASKS, *name)):
            return False
        pool = self._pool_of.get(name)
        if pool is None or self._objects.version(TASKS, name) != settled.version:
            return False
        place = self._pools.place(pool)
        if settled.again_at is not None and settled.again_at <= self._now(place):
            return False
        if place.facts != settled.facts:
            return False
        homes = self._mirrored.homes(name)
        return homes == ([] if settled.home is None else [settled.home])

    def _again_in(self, name: ObjectName, again_at: Instant | None, now: Instant) -> float | None:
        times = [] if again_at is None else [max(0.0, (again_at - now) / SECOND)]
        if name in self._counts:
            times.append(COUNT_SECONDS)
        asked = self._requested.get(name)
        if asked is not None and asked.is_followed:
            times.append(FOLLOW_SECONDS)
        return min(times, default=None)

    def note(self, stored: Manifest) -> None:
        """Take note of which pool a task refers to, so that all pools know how many do before any task is looked at."""
        name = ObjectName(stored["metadata"]["namespace"], stored["metadata"]["name"])
        self._set_pool(name, ObjectName(name.namespace, _pool_named_in(stored)))

    def _is_too_early(self, name: ObjectName, place: Place, stored: Manifest) -> bool:
        """
        Say whether a backend that may hold the task is yet to be looked at since this process began.

        Whoever looks has all of these tasks looked at again. If it does not answer, a status that is of this generation
        tells more than is known here.
        """
        status = _status_of(stored)
        unseen = self._pools.unseen()
        if self._mirrored.homes(name) or not was_mirrored(status):
            own = None if place.facts.access is Access.REFUSED else place.backend
            unseen = [backend for backend in unseen if backend is own]
        if any(backend.is_expected for backend in unseen):
            return True
        ready = condition_of(status, READY)
        if ready is not None and ready.reason == Reason.BACKEND_UNREACHABLE.value:
            return False  # the same is known here, perhaps with another message by now
        return bool(unseen) and status.observed_generation == stored["metadata"].get("generation")

    # --- Gone --------------------------------------------------------------------------------------------------------

    async def _found(self, name: ObjectName) -> Manifest | None:
        """
        Return the task *name* if it is there after all; else that is proved, and its record is to be stopped.

        The watch and the lists said so; but both can be old, and neither tells an object that is gone from a kind that is.
        Where this operator does not look, nothing is known: what is stored of it runs on.
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

    def forget(self, name: ObjectName) -> None:
        """Remember nothing of a task that is gone; its record is another matter."""
        self._statuses.forget(Reference(TASKS, *name))
        self._set_pool(name, None)
        self._counts.pop(name, None)
        self._settled.pop(name, None)
        self._requested.pop(name, None)
        self._awaited.pop(name, None)

    # --- Requested runs ----------------------------------------------------------------------------------------------

    async def _follow(self, name: ObjectName) -> None:
        """Read the records of a task with a requested run, whose end somebody waits for: the regular scan takes longer."""
        asked = self._requested.get(name)
        for home in self._mirrored.homes(name) if asked is not None and asked.is_followed else ():
            ledger = self._pools.ledger(home.backend)
            if ledger is not None:
                with contextlib.suppress(StoreUnavailableError):
                    await self._mirrored.refresh(name, home, ledger)
                    self._note_requested(name)

    def _note_requested(self, name: ObjectName, at_least: int = 0) -> None:
        """Record how many requested runs of a task have no outcome yet; *at_least* as many were requested just now."""
        before = self._requested.get(name)
        homes = self._mirrored.homes(name)
        count = max(at_least, sum(home.requested for home in homes))
        if before is not None and count < before.runs:
            ended = [at for home in homes if (at := home.record.state.summary.last_ended_at) is not None]
            if ended:
                self._awaited[name] = max(ended)
        if not count:
            self._requested.pop(name, None)
            return
        now = asyncio.get_running_loop().time()
        if before is None:
            slots = FOLLOWED_MAX - sum(asked.is_followed for asked in self._requested.values())
            self._requested[name] = _RequestedRuns(count, now, is_followed=slots > 0)
        else:
            is_followed = before.is_followed and now - before.since < FOLLOWED_SECONDS_MAX
            self._requested[name] = before._replace(runs=count, is_followed=is_followed)

    def _is_awaited(self, name: ObjectName, status: TaskStatus) -> bool:
        """Say whether a requested run has ended, and the stored *status* does not report that yet."""
        ended_at = self._awaited.get(name)
        if ended_at is None:
            return False
        reported_at = None if status.last_run is None else _instant(status.last_run.completion_time)
        if reported_at is not None and reported_at >= ended_at:
            del self._awaited[name]
            return False
        return True

    # --- Mirroring ---------------------------------------------------------------------------------------------------

    def _place(self, name: ObjectName, task: PyncetteTask | Refusal, stored: Manifest) -> Place:
        """Return where the task belongs; one that cannot be read stays where it is."""
        named = ObjectName(name.namespace, _pool_named_in(stored))
        self._set_pool(name, named)
        homes = self._mirrored.homes(name) if isinstance(task, Refusal) else ()
        known = self._mirrored.pool_of(homes[0].record.key.partition.realm) if homes else None
        return self._pools.place(known or named)

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

    async def _mirror(
        self, name: ObjectName, task: PyncetteTask | Refusal, place: Place, stored: Manifest
    ) -> _Mirroring:
        homes = self._mirrored.homes(name)
        known = homes[0] if homes else None
        backend = place.where
        ledger = None if place.backend is None else place.backend.ledger
        is_open = place.facts.access is Access.OPEN and self._mirrored.has_seen(backend)
        if isinstance(task, Refusal) or ledger is None or not is_open:
            return await self._suspend_only(name, stored, _Mirroring(known))
        desired = _as_registered(desired_record_of(task, place.realm), place.facts)
        taken_by = self._owner_of(name, place, desired)
        if taken_by is not None:
            return await self._suspend_only(name, stored, _Mirroring(known, taken_by=taken_by))
        where = (backend, desired.key)
        self._taking[where] = name
        try:
            return await self._move_in(name, desired, place, ledger, stored)
        finally:
            del self._taking[where]

    async def _suspend_only(self, name: ObjectName, stored: Manifest, mirroring: _Mirroring) -> _Mirroring:
        """
        Suspend or resume the stored generation of a task as its spec says, while nothing else of the spec can be written.

        A person who suspends a task is in a hurry, whatever else is wrong with the spec.
        """
        meta = stored["metadata"]
        seen = Stored.of(stored, TaskStatus())
        created = _instant_in(meta.get("creationTimestamp"))
        latest = Owner(seen.uid, seen.generation, "", created_at=created)
        for home in self._mirrored.homes(name):
            if suspension(home.record, seen.suspend, latest) is None:
                continue
            ledger = self._pools.ledger(home.backend)
            if ledger is None:
                error = StoreUnavailableError(f"{home.backend} does not answer")
                return mirroring._replace(away=home.backend, failed=error)
            rule = suspended_as(seen.suspend, latest)
            done = (await ledger.apply({home.record.key: rule}))[home.record.key]
            if done is not None:
                self._note(name, home.backend, [done])
        return mirroring._replace(home=next(iter(self._mirrored.homes(name)), None))

    async def _move_in(
        self, name: ObjectName, desired: DesiredRecord, place: Place, ledger: Ledger, stored: Manifest
    ) -> _Mirroring:
        """Have the record of the task where it belongs, and as it is wished for."""
        homes = self._mirrored.homes(name)
        known = homes[0] if homes else None
        backend = place.where
        status = _status_of(stored)
        away = self._away(homes, status)
        if away is not None:
            return _Mirroring(known, away=away, failed=StoreUnavailableError(f"{away} does not answer"))
        if not homes and is_over(status, stored["metadata"].get("generation", 0)):
            desired = desired._replace(is_over=True)
        here, elsewhere = _told_apart(homes, backend, desired)
        for home in homes:
            if is_ahead(home.record, desired) or is_suspended_otherwise(home.record, desired):
                desired = await self._compared(name, desired, home.record)
                break
        try:
            moving = await self._write(name, desired, here, elsewhere, place, ledger)
        except StoreUnavailableError as error:
            return _Mirroring(here or known, away=backend, failed=error)
        left = self._mirrored.homes(name)
        here, _ = _told_apart(left, backend, desired)
        return _Mirroring(here or next(iter(left), None), moving)

    async def _compared(self, name: ObjectName, desired: DesiredRecord, record: Record) -> DesiredRecord:
        """
        Return the *desired* of a resource whose *record* a newer generation has changed, and whether it is to be heard nonetheless.

        Usually the watch is late, and will soon deliver the newer generation, or a newer resource of that name. But a cluster whose etcd was restored counts
        on from an older one, and then no edit would have an effect until it has caught up. A read by name that follows
        the look at the record tells: it is never older than what was written before (etcd reads are linearizable).
        """
        found = await self._api.get(TASKS, name)
        meta = found["metadata"]
        if (meta["uid"], meta.get("generation")) != (desired.owner.uid, desired.owner.generation):
            self._objects.found(TASKS, found)
            return desired
        return desired._replace(outlives=record.state.owner)

    def _away(self, homes: Sequence[Home], status: TaskStatus) -> str | None:
        """
        Return a backend that does not answer, and has to before anything is written; None: there is none.

        It is one that the task moves from. A task that had a record, which nobody has found since this process began, may
        have it on any that was not looked at: to create another would be to run it twice.
        """
        for home in homes:
            if self._pools.ledger(home.backend) is None:
                return home.backend
        if homes or not was_mirrored(status):
            return None
        return next((backend.name for backend in self._pools.unseen()), None)

    def _owner_of(self, name: ObjectName, place: Place, desired: DesiredRecord) -> str | None:
        """Return the other task that has the record of this one already, if there is one and it is still there."""
        where = (place.where, desired.key)
        other = self._taking.get(where) or self._mirrored.owner_at(*where)
        if other is None or other == name or self._objects.uid(TASKS, other) is None:
            return None
        return other.name

    async def _write(
        self,
        name: ObjectName,
        desired: DesiredRecord,
        here: Home | None,
        elsewhere: Sequence[Home],
        place: Place,
        ledger: Ledger,
    ) -> bool:
        """Write what differs, and say whether the record has yet to move here. Raises StoreError."""
        backend = place.where
        if here is None or elsewhere or not _is_mirrored(here.record, desired):
            await self._mirrored.open_realm(backend, ledger, place.realm)
            strays = [
                Elsewhere(source, home.record)
                for home in elsewhere
                if (source := self._pools.ledger(home.backend)) is not None
            ]
            if len(strays) < len(elsewhere):
                raise StoreUnavailableError("a backend that the task moves from went away")
            taken = await mirror_one(ledger, desired, strays)
            if self._note(name, backend, taken):
                return True
            if any(item.step is Step.OUTDATED for item in taken):
                return False  # the watch will deliver the newer one
            for home in elsewhere:
                self._mirrored.forget(home.backend, home.record.key, name)
        record = self._record_at(name, backend, desired)
        if record is not None and record.state.handled != desired.requests:
            done = await ask(ledger, record, desired.requests)
            if done.record is not None:
                self._mirrored.note(backend, done.record)
                if done.run is not None:
                    self._note_requested(name, 1)
                    await self._follow(name)
                logger.info("what a task asked for was done", extra={"task": str(name), **_told(done)})
        return False

    def _note(self, name: ObjectName, backend: str, taken: Iterable[Taken]) -> bool:
        """Take note of what was written, and say whether the record waits for a run to end before it moves."""
        waiting = False
        for item in taken:
            waiting = waiting or item.step is Step.WAITING
            if item.record is not None:
                self._mirrored.note(backend, item.record)
                logger.info("a task was %s", item.step.value, extra={"task": str(name), "backend": backend})
        return waiting

    def _record_at(self, name: ObjectName, backend: str, desired: DesiredRecord) -> Record | None:
        for home in self._mirrored.homes(name):
            if home.backend == backend and home.record.key == desired.key:
                return home.record
        return None

    # --- The status --------------------------------------------------------------------------------------------------

    async def _tell(
        self,
        name: ObjectName,
        stored: Manifest,
        task: PyncetteTask | Refusal,
        place: Place,
        mirroring: _Mirroring,
    ) -> tuple[Instant | None, bool]:
        """Have the status written, if it is another; return when it is to be worked out again, and whether it is not another."""
        meta = stored["metadata"]
        seen = Stored.of(stored, task.status if isinstance(task, PyncetteTask) else _status_of(stored))
        home = mirroring.home
        facts = TaskFacts(
            record=None if home is None else home.record,
            moving=mirroring.moving,
            beside=0 if home is None else home.running,
            strays=() if home is None else home.strays,
            last_run_id=await self._last_run_id(home, seen.status),
            instances=await self._instances(name, home),
            taken_by=mirroring.taken_by,
            write_interval=round(self._statuses.pause_seconds * SECOND),
            now=self._now(place),
        )
        pool = place.facts
        if mirroring.away is not None:
            pool = pool._replace(backend=mirroring.away, access=Access.DOWN)
        told = status_of_task(task, seen, pool, facts)
        difference = differs(stored.get("status", {}), told.status)
        if difference is not Difference.NONE and self._is_awaited(name, seen.status):
            difference = max(difference, Difference.REQUESTS)
        if difference is Difference.CONDITIONS and _tells_of_its_pool(seen.status, told.status):
            difference = Difference.POOL_GONE  # somebody has deleted the pool, and waits for the effect
        reference = Reference(TASKS, *name)
        if difference is Difference.NONE:
            self._statuses.drop(reference)
        else:
            manifest = status_manifest(reference, meta["resourceVersion"], as_json(told.status))
            self._statuses.want(reference, manifest, difference)
        return told.again_at, difference is Difference.NONE

    async def _last_run_id(self, home: Home | None, status: TaskStatus) -> str | None:
        """Return the id of the run that ended last, from the history, where the status does not have it yet."""
        ended_at = None if home is None else home.record.state.summary.last_ended_at
        if home is None or ended_at is None:
            return None
        last = status.last_run
        if last is not None and last.id is not None and _instant(last.completion_time) == ended_at:
            return last.id
        ledger = self._pools.ledger(home.backend)
        if ledger is None or not keeps_history(home.record.spec.policies or Policies()):
            return None
        try:
            runs = await ledger.store.history(home.record.key)
        except StoreUnavailableError:  # the next pass tells it
            return None
        return next((run.id for run in runs if run.ended_at == ended_at), None)

    async def _instances(self, name: ObjectName, home: Home | None) -> Instances | None:
        """Return how many instances a template has, counted now and then; None for another task."""
        if home is None or home.record.spec.partitions is None:
            self._counts.pop(name, None)
            return None
        now = asyncio.get_running_loop().time()
        before = self._counts.get(name)
        if before is not None and now - before.at < COUNT_SECONDS:
            return before.instances
        ledger = self._pools.ledger(home.backend)
        if ledger is None:
            return None if before is None else before.instances
        try:
            counted = await instances_of(ledger.store, home.record, ledger.clock.now())
        except StoreUnavailableError:
            return None if before is None else before.instances
        total_at = now
        if before is not None and now - before.total_at < TOTAL_SECONDS:
            counted, total_at = counted.model_copy(update={"total": before.instances.total}), before.total_at
        self._counts[name] = _Count(counted, now, total_at)
        return counted

    def events(self, before: Manifest | None, after: Manifest, instance: str) -> list[Manifest]:
        """Return the Events of a status that was written, where it was *before*; *instance* is the operator's pod."""
        meta = after["metadata"]
        regarding = Regarding(meta["namespace"], meta["name"], meta["uid"])
        now = self._pools.now()
        return events_of(regarding, _status_of(before), _status_of(after), now, instance)

    def _now(self, place: Place) -> Instant:
        return self._pools.now() if place.backend is None else place.backend.clock.now()


class _RequestedRuns(NamedTuple):
    """Requested runs of a task that have no outcome yet."""

    runs: int
    since: float
    """By the loop's clock."""
    is_followed: bool
    """Whether they are read separately, every `FOLLOW_SECONDS`."""


class _Settled(NamedTuple):
    """What the last pass over a task went by, if it left nothing to do."""

    version: str
    """Of the resource."""
    facts: PoolFacts
    home: Home | None
    again_at: Instant | None
    """When the status is another though nothing happens."""
    is_told: bool
    """Whether the status was already what it is to be."""


class _Count(NamedTuple):
    """Instances of a template, and when they were counted, by the loop's clock."""

    instances: Instances
    at: float
    total_at: float


def _status_of(stored: Manifest | None) -> TaskStatus:
    """Return the status that *stored* has; that of a task which nobody has seen, if it has none that can be read."""
    return read_status((stored or {}).get("status", {}), TaskStatus) or TaskStatus()


def _told_apart(
    homes: Sequence[Home], backend: str, desired: DesiredRecord
) -> tuple[Home | None, list[Home]]:
    """Tell the record that is where it belongs from those that are not."""
    here, elsewhere = None, []
    for home in homes:
        if home.backend == backend and home.record.key == desired.key:
            here = home
        else:
            elsewhere.append(home)
    return here, elsewhere


def _as_registered(desired: DesiredRecord, pool: PoolFacts) -> DesiredRecord:
    """
    Return the *desired* of a dynamic task with the partition count that all workers of its *pool* have registered.

    The status reports it if the resource has another count. Workers would refuse the handler if that were stored.
    """
    counts = {member.count_of(desired.key.partition.handler) for member in pool.members or ()} - {None}
    count = counts.pop() if len(counts) == 1 else None
    if desired.spec.partitions is None or count not in POSSIBLE_PARTITIONS:  # a row may hold any number
        return desired
    return desired._replace(spec=replace(desired.spec, partitions=count))


def _tells_of_its_pool(before: TaskStatus, after: TaskStatus) -> bool:
    """Say whether *after* tells that the pool is gone, or that it has been so for long, and *before* does not."""
    ready, known = condition_of(after, READY), condition_of(before, READY)
    if ready is None or ready.reason != Reason.POOL_NOT_FOUND.value:
        return False
    stuck = condition_of(after, STALLED) is not None
    return known is None or known.reason != ready.reason or (condition_of(before, STALLED) is None) is stuck


def _is_mirrored(record: Record, desired: DesiredRecord) -> bool:
    """Say whether *record* is what is wished for already, or what a newer generation wished for."""
    if record.state.withdrawn_at is not None:
        return False
    owner = record.state.owner
    return (owner == desired.owner and owner != desired.outlives) or is_ahead(record, desired)


def _instant(at: datetime | None) -> Instant | None:
    return None if at is None else instant_of(at)


def _instant_in(text: object) -> Instant | None:
    """Parse a time as the API server writes it."""
    return instant_of(datetime.fromisoformat(text)) if isinstance(text, str) else None


def _pool_named_in(stored: Manifest) -> str:
    """Return the pool that a task names which cannot be read as a whole, or the default, if not even that can be."""
    spec = stored.get("spec")
    reference = spec.get("workerPoolRef") if isinstance(spec, dict) else None
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else DEFAULT_POOL


def _told(done: Done) -> dict[str, object]:
    return {"run": bool(done.run), "resumed": done.resumed, "redriven": done.redriven}
