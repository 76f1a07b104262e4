"""Makes the record of a task equal to its resource."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.controller.cluster.api import TASKS, Api, ConflictError, Manifest, ObjectName, Reference
from pyncette.controller.cluster.objects import Objects
from pyncette.controller.reconcile.locations import ClassifiedRecords, Locations
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.pools import PoolLocation, Pools
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.controller.reconcile.requested_runs import RequestedRuns
from pyncette.controller.reconcile.unlisted import UnlistedRecords
from pyncette.controller.status.differences import read_status
from pyncette.controller.status.observed import Access, ObservedPool
from pyncette.controller.status.task_context import StoredTask
from pyncette.controller.status.task_status import is_over, was_mirrored
from pyncette.controller.status.writer import as_json, status_manifest
from pyncette.core.record import Key, Owner, Record, Requests, replace
from pyncette.core.schedule import Once
from pyncette.core.times import instant_of
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.carried import Bounds
from pyncette.mirror.conversion import DesiredRecord, desired_record_of, instant_or_none
from pyncette.mirror.records import MisplacedRecord, mirror_one
from pyncette.mirror.requests import ask
from pyncette.mirror.rules import (
    MirrorResult,
    Step,
    is_ahead,
    is_suspended_otherwise,
    suspended_as,
    suspension,
)
from pyncette.resources.reading import Refusal
from pyncette.resources.task import PARTITIONS_MAX, PyncetteTask
from pyncette.resources.task_status import TaskStatus

logger = logging.getLogger(__name__)

POSSIBLE_PARTITIONS: Final = range(1, PARTITIONS_MAX + 1)
"""Valid values of spec.partitions."""


class BackendUnavailableError(StoreUnavailableError):
    """A pass over a task failed because *backend* is unavailable."""

    def __init__(self, backend: str, error: StoreUnavailableError) -> None:
        super().__init__(str(error))
        self.backend = backend


class Mirroring(NamedTuple):
    """The records of a task after they were made equal to its resource, as far as that was possible."""

    records: tuple[ObservedRecord, ...]
    """The current one first. There is more than one only during a move."""
    moving: bool = False
    """The record moves to another pool or handler once its run has ended."""
    taken_by: str | None = None
    """Another task that owns the key of the record: in a pool, a handler has one dynamic task."""
    failed: BackendUnavailableError | None = None
    """Set if a backend is unavailable, so that some changes are not written yet."""
    stored: Manifest | None = None
    """The resource after its status was written; None: it was not."""

    @property
    def current(self) -> ObservedRecord | None:
        """The record that the status reports; None: there is none."""
        return self.records[0] if self.records else None


class TaskRecords:
    """The writer of the records of PyncetteTasks."""

    def __init__(
        self,
        api: Api,
        objects: Objects,
        pools: Pools,
        mirrored: Mirrored,
        requested: RequestedRuns,
        locations: Locations,
        unlisted: UnlistedRecords,
    ) -> None:
        self._api = api
        self._objects = objects
        self._pools = pools
        self._mirrored = mirrored
        self._requested = requested
        self._locations = locations
        self._unlisted = unlisted
        self._reserved: dict[tuple[str, Key], ObjectName] = {}
        """The task that is about to write at a backend and key: a handler goes to the first task that names it."""

    async def mirror_task(
        self,
        name: ObjectName,
        task: PyncetteTask | Refusal,
        location: PoolLocation,
        stored: Manifest,
        records: ClassifiedRecords,
    ) -> Mirroring:
        """
        Make the trusted *records* of the task *name* equal to it, stop the unlisted ones, and return the result.

        If the backend cannot be used, or the spec is invalid, write only the suspension. Raises StoreError and ApiError. An
        unavailable backend does not raise, and is part of the result.
        """
        ledger = None if location.backend is None else location.backend.ledger
        is_open = location.pool.access is Access.OPEN and self._mirrored.has_seen(location.store_name)
        if isinstance(task, Refusal) or ledger is None or not is_open:
            return await self._suspend_only(name, stored, records.trusted)
        desired = _as_registered(desired_record_of(task, location.realm), location.pool)
        where = (location.store_name, desired.key)
        other = self._owner_at(name, where)
        if other is not None:
            return (await self._suspend_only(name, stored, records.trusted))._replace(taken_by=other)
        self._reserved[where] = name
        try:
            mirroring = await self._mirror(name, desired, location, ledger, stored, records)
        finally:
            del self._reserved[where]
        if mirroring.failed is None:
            await self._unlisted.stop(name, records.unlisted)
        return mirroring

    async def _suspend_only(
        self, name: ObjectName, stored: Manifest, records: Sequence[ObservedRecord]
    ) -> Mirroring:
        """
        Suspend or resume the stored generation of a task as its spec says, while nothing else of the spec can be written.

        A suspension is urgent, so it takes effect even if the rest of the spec is invalid.
        """
        meta = stored["metadata"]
        seen = StoredTask.of(stored, TaskStatus())
        created = _instant_in(meta.get("creationTimestamp"))
        latest = Owner(seen.uid, seen.generation, "", created_at=created)
        after = list(records)
        for number, observed in enumerate(records):
            if suspension(observed.record, seen.suspend, latest) is None:
                continue
            ledger = self._pools.ledger(observed.backend)
            if ledger is None:
                return _unavailable(after, observed.backend)
            key = observed.record.key
            try:
                result = (await ledger.apply({key: suspended_as(seen.suspend, latest)}))[key]
            except StoreUnavailableError as error:
                return Mirroring(tuple(after), failed=BackendUnavailableError(observed.backend, error))
            if result is not None:
                after[number] = self._note(name, observed.backend, result) or observed
        return Mirroring(tuple(after))

    def _owner_at(self, name: ObjectName, where: tuple[str, Key]) -> str | None:
        """Return the other task that owns the backend and key of *where*, if it still exists."""
        other = self._reserved.get(where) or self._mirrored.owner_at(*where)
        if other is None or other == name or self._objects.uid(TASKS, other) is None:
            return None
        return other.name

    async def _mirror(
        self,
        name: ObjectName,
        desired: DesiredRecord,
        location: PoolLocation,
        ledger: Ledger,
        stored: Manifest,
        classified: ClassifiedRecords,
    ) -> Mirroring:
        """Write the differences from *desired*, unless a backend that must be read first is unavailable."""
        status = read_status(stored.get("status", {}), TaskStatus) or TaskStatus()
        records = classified.trusted
        unavailable = self._unavailable_backend(name, records, status)
        if unavailable is not None:
            return _unavailable(records, unavailable)
        desired = await self._checked_against_newer(name, desired, records)
        here, misplaced = _split(records, location.store_name, desired.key)
        elsewhere = bool(misplaced or classified.unlisted)
        desired = desired._replace(is_over=_is_over(desired, status, stored, ledger, elsewhere=elsewhere))
        announced = None
        try:
            if any(observed.backend != location.store_name for observed in misplaced):
                announced = await self._announce(name, status, location, stored, records)
            bounds = Bounds(instant_or_none(status.next_schedule_time))
            mirroring = await self._write(name, desired, here, misplaced, bounds, location, ledger)
        except ConflictError:  # the status has changed, and may list another place now
            mirroring = Mirroring(_current_first(here, misplaced), moving=True)
        except StoreUnavailableError as error:
            failed = BackendUnavailableError(location.store_name, error)
            mirroring = Mirroring(_current_first(here, misplaced), failed=failed)
        return mirroring._replace(stored=announced)

    async def _announce(
        self,
        name: ObjectName,
        status: TaskStatus,
        location: PoolLocation,
        stored: Manifest,
        records: Sequence[ObservedRecord],
    ) -> Manifest | None:
        """
        Write both databases to the status before a record moves between them. Return the resource; None if it was complete.

        After a crash during the move, the record is thus known wherever it is, even if another move follows. Raises ApiError.
        """
        locations = self._locations.reported(status, location, records, moving=True)
        if {*locations} <= {*status.locations}:
            return None
        reference, version = Reference(TASKS, *name), stored["metadata"]["resourceVersion"]
        after = status.model_copy(update={"locations": locations})
        written = await self._api.apply_status(status_manifest(reference, version, as_json(after)))
        self._objects.learn(TASKS, written)
        return written

    def _unavailable_backend(
        self, name: ObjectName, records: Sequence[ObservedRecord], status: TaskStatus
    ) -> str | None:
        """
        Return an unavailable backend that must be read before anything is written; None if there is none.

        The task may move from that backend. Or its record may be there, and the backend was not read since this process
        began. To create another record would run the task twice.
        """
        for observed in records:
            if self._pools.ledger(observed.backend) is None:
                return observed.backend
        if records or not was_mirrored(status):
            return None
        unseen = (
            backend.name
            for backend in self._pools.unseen()
            if self._locations.may_hold(name, status, backend.store_name)
        )
        return next(unseen, None)

    async def _checked_against_newer(
        self, name: ObjectName, desired: DesiredRecord, records: Sequence[ObservedRecord]
    ) -> DesiredRecord:
        """
        Return *desired*; if the resource is current, although a record has a newer generation, it outlives that record's owner.

        Usually the watch is late, and soon delivers the newer generation, or a newer resource of that name. But after a
        restore of etcd, generations continue from an older one. No edit would have an effect until they have caught up. A
        read by name after the read of the record decides, since etcd reads are linearizable.
        """
        newer = [
            observed.record
            for observed in records
            if is_ahead(observed.record, desired) or is_suspended_otherwise(observed.record, desired)
        ]
        if not newer:
            return desired
        found = await self._api.get(TASKS, name)
        meta = found["metadata"]
        if (meta["uid"], meta.get("generation")) != (desired.owner.uid, desired.owner.generation):
            self._objects.found(TASKS, found)
            return desired
        return desired._replace(outlives=newer[0].state.owner)

    async def _write(
        self,
        name: ObjectName,
        desired: DesiredRecord,
        here: ObservedRecord | None,
        misplaced: Sequence[ObservedRecord],
        bounds: Bounds,
        location: PoolLocation,
        ledger: Ledger,
    ) -> Mirroring:
        """Write the differences from *desired*, then handle the requests of the task. Raises StoreError."""
        if here is None or misplaced or not _is_mirrored(here.record, desired):
            await self._mirrored.realms.register(location.store_name, ledger, location.realm)
            sources = self._with_ledgers(misplaced, location, bounds)
            result = await mirror_one(ledger, desired, sources)
            noted = self._note(name, location.store_name, result)
            if noted is not None and self._mirrored.name_of(noted.backend, noted.record) == name:
                here = noted  # otherwise the record at the key belongs to another task
            if result.step in {Step.WAITING, Step.OUTDATED}:  # the watch will deliver a newer generation
                return Mirroring(_current_first(here, misplaced), moving=result.step is Step.WAITING)
            self._unlisted.note_removed(name, misplaced, result)
        if here is not None and here.record.state.handled != desired.requests:
            here = await self._handle_requests(name, here, desired.requests, ledger)
        return Mirroring(_current_first(here))

    def _with_ledgers(
        self, misplaced: Sequence[ObservedRecord], location: PoolLocation, bounds: Bounds
    ) -> list[MisplacedRecord]:
        """
        Return *misplaced* records with the ledgers of their backends, and those of another database with *bounds*.

        Raises StoreUnavailableError.
        """
        found = [
            MisplacedRecord(
                source, observed.record, None if observed.backend == location.store_name else bounds
            )
            for observed in misplaced
            if (source := self._pools.ledger(observed.backend)) is not None
        ]
        if len(found) < len(misplaced):
            raise StoreUnavailableError("a backend that the task moves from became unavailable")
        return found

    async def _handle_requests(
        self, name: ObjectName, here: ObservedRecord, requests: Requests, ledger: Ledger
    ) -> ObservedRecord | None:
        """Handle each of *requests* once, and return the updated record; None if it was removed meanwhile."""
        done = await ask(ledger, here.record, requests)
        if done.record is None:
            return here
        here = self._mirrored.note(here.backend, done.record)
        logger.info(
            "handled the requests of a task",
            extra={
                "task": str(name),
                "run": bool(done.run),
                "resumed": done.resumed,
                "redriven": done.redriven,
            },
        )
        if done.run is None:
            return here
        self._requested.note(name, [here], at_least=1)
        return next(iter(await self._requested.refresh(name, [here], lambda *_: True)), None)

    def _note(self, name: ObjectName, backend: str, result: MirrorResult) -> ObservedRecord | None:
        """Note the record in *result* at once, so that no other task takes its key, and return it."""
        if result.record is None:
            return None
        if result.is_written:
            logger.info("a task was %s", result.step.value, extra={"task": str(name), "backend": backend})
        return self._mirrored.note(backend, result.record)


def _unavailable(records: Sequence[ObservedRecord], backend: str) -> Mirroring:
    error = StoreUnavailableError(f"{backend} does not answer")
    return Mirroring(tuple(records), failed=BackendUnavailableError(backend, error))


def _current_first(
    here: ObservedRecord | None, misplaced: Sequence[ObservedRecord] = ()
) -> tuple[ObservedRecord, ...]:
    return (*misplaced,) if here is None else (here, *misplaced)


def _split(
    records: Sequence[ObservedRecord], backend: str, key: Key
) -> tuple[ObservedRecord | None, list[ObservedRecord]]:
    """Return the one of *records* that is at *backend* and *key*, and the others."""
    here, misplaced = None, []
    for observed in records:
        if observed.backend == backend and observed.record.key == key:
            here = observed
        else:
            misplaced.append(observed)
    return here, misplaced


def _as_registered(desired: DesiredRecord, pool: ObservedPool) -> DesiredRecord:
    """
    Return *desired* with the partition count that all workers of its *pool* have registered for its handler.

    The status reports it if the resource has another count. Workers would refuse the handler if that were stored.
    """
    counts = {member.count_of(desired.key.partition.handler) for member in pool.members or ()} - {None}
    count = counts.pop() if len(counts) == 1 else None
    if desired.spec.partitions is None or count not in POSSIBLE_PARTITIONS:  # a row may hold any number
        return desired
    return desired._replace(spec=replace(desired.spec, partitions=count))


def _is_mirrored(record: Record, desired: DesiredRecord) -> bool:
    """Return whether *record* is already as *desired*, or as a newer generation desired it."""
    if record.state.withdrawn_at is not None:
        return False
    owner = record.state.owner
    return (owner == desired.owner and owner != desired.outlives) or is_ahead(record, desired)


def _is_over(
    desired: DesiredRecord, status: TaskStatus, stored: Manifest, ledger: Ledger, *, elsewhere: bool
) -> bool:
    """
    Return whether a one-off must not be due if its record is created anew.

    This is the case if its status reports that it is over. If a record *elsewhere* is not carried over, or only in part, it is enough that the time
    has passed and that the status reports no next one.
    """
    if is_over(status, stored["metadata"].get("generation", 0)):
        return True
    schedule = desired.spec.schedule
    has_passed = isinstance(schedule, Once) and schedule.at <= ledger.clock.now()
    return elsewhere and has_passed and was_mirrored(status) and status.next_schedule_time is None


def _instant_in(text: object) -> Instant | None:
    """Parse a time as the API server writes it."""
    return instant_of(datetime.fromisoformat(text)) if isinstance(text, str) else None
