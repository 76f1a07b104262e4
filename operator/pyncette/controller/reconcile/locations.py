"""Decides which records of a task are trusted: those on databases that the task is known to use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.backends import Backends
from pyncette.controller.reconcile.pools import PoolLocation
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.resources.task_status import LOCATIONS_MAX, Location, TaskStatus


class ClassifiedRecords(NamedTuple):
    """The records of a task: trusted and unlisted ones."""

    trusted: list[ObservedRecord]
    unlisted: list[ObservedRecord]
    """Records in the name of the task on databases that its status does not list. They may be forged."""


class Locations:
    """
    The databases that each task is known to use.

    Any writer to a database can forge records there, in the name of any task. So a task moves only from a database that its
    status lists. No tenant can write the status, and the operator lists a database before it moves a record there. The
    database to which a pass wrote is known at once. Two databases need no entry in the status. On the one that the task
    belongs on, a forger gains nothing from a move. On one that is open to no other namespace, the forger is the tenant.
    """

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._in_use: dict[ObjectName, frozenset[tuple[str, str]]] = {}
        """By task: the stores and realms of its records after the last pass. Its status may not list them yet."""

    def classify(
        self,
        task: ObjectName,
        status: TaskStatus,
        location: PoolLocation | None,
        records: Sequence[ObservedRecord],
    ) -> ClassifiedRecords:
        """Return the *records* of *task*, which belongs at *location*, by whether they are trusted."""
        here = None if location is None or location.backend is None else location.store_name
        classified = ClassifiedRecords([], [])
        for observed in records:
            is_trusted = observed.backend == here or self._is_known(task, status, observed)
            (classified.trusted if is_trusted else classified.unlisted).append(observed)
        return classified

    def may_hold(self, task: ObjectName, status: TaskStatus, store_name: str) -> bool:
        """Return whether a record at *store_name* would be trusted; the store was not read yet."""
        listed = {self._backends.store_name(each.backend) for each in status.locations}
        return store_name in listed or self._backends.is_exclusive(store_name, task.namespace)

    def note_used(self, task: ObjectName, records: Sequence[ObservedRecord]) -> None:
        """Record that a pass over *task* left these *records*, so that their places are trusted."""
        if records:
            self._in_use[task] = frozenset(map(_store_and_realm, records))

    def is_in_use(self, task: ObjectName, observed: ObservedRecord) -> bool:
        """Return whether the last pass left a record of *task* in the store and realm of *observed*."""
        return _store_and_realm(observed) in self._in_use.get(task, ())

    def forget(self, task: ObjectName) -> None:
        """Drop all that is known of a *task* that was deleted."""
        self._in_use.pop(task, None)

    def reported(
        self, status: TaskStatus, location: PoolLocation, records: Sequence[ObservedRecord], *, moving: bool
    ) -> tuple[Location, ...]:
        """
        Return the new `locations` of *status*: those of *records*, and with *moving*, *location* as their destination.

        Return an empty tuple without records. The status then keeps its list.
        """
        if not records:
            return ()
        places = [_store_and_realm(observed) for observed in records]
        if moving:  # records on the destination's database come last, since they need no entry
            places.sort(key=lambda place: place[0] == location.store_name)
            places.insert(0, (location.store_name, location.realm))
        named = {
            (self._backends.store_name(each.backend), each.realm): each for each in reversed(status.locations)
        }
        if location.backend is not None:
            here = (location.store_name, location.realm)
            named[here] = Location(backend=location.pool.backend, realm=location.realm)
        found = [
            named.get(place) or Location(backend=place[0], realm=place[1]) for place in dict.fromkeys(places)
        ]
        return tuple(found[:LOCATIONS_MAX])

    def _is_known(self, task: ObjectName, status: TaskStatus, observed: ObservedRecord) -> bool:
        return (
            self.is_in_use(task, observed)
            or self._backends.is_exclusive(observed.backend, task.namespace)
            or any(
                (self._backends.store_name(each.backend), each.realm) == _store_and_realm(observed)
                for each in status.locations
            )
        )


def _store_and_realm(observed: ObservedRecord) -> tuple[str, str]:
    return observed.backend, observed.record.key.partition.realm
