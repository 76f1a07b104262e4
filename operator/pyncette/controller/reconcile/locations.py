"""Decides which records of a task count: those on a database that the task is known to be on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.reconcile.backends import Backends
from pyncette.controller.reconcile.pools import PoolLocation
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.resources.task_status import LOCATIONS_MAX, Location, TaskStatus


class Known(NamedTuple):
    """The records of a task, by whether they count."""

    records: list[ObservedRecord]
    unlisted: list[ObservedRecord]
    """Records in the name of the task on databases that its status does not list. They do not count."""


class Locations:
    """
    The databases that each task is known to be on.

    Whoever can write to a database can forge records there, in the name of any task. So a task moves only from a database
    that its status lists: no tenant can write that, and the operator writes it before it moves a record. Where a
    pass has left it counts before the status lists it. Two databases need no proof: the one that the task belongs on,
    where a forger has no use for a move; and one that is open to no other namespace, whose forger is the tenant itself.
    """

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._settled: dict[ObjectName, frozenset[tuple[str, str]]] = {}
        """By task: the stores and realms that its records were at after the last pass, which its status may not name yet."""

    def known(
        self,
        task: ObjectName,
        status: TaskStatus,
        location: PoolLocation | None,
        records: Sequence[ObservedRecord],
    ) -> Known:
        """Return which *records* of *task*, which belongs at *location*, count."""
        here = None if location is None or location.backend is None else location.store_name
        known = Known([], [])
        for observed in records:
            counts = observed.backend == here or self._is_known(task, status, observed)
            (known.records if counts else known.unlisted).append(observed)
        return known

    def may_hold(self, task: ObjectName, status: TaskStatus, store_name: str) -> bool:
        """Return whether a record at *store_name*, which was not read yet, could count."""
        places = {self._backends.store_name(each.backend) for each in status.locations}
        return store_name in places or self._backends.is_exclusive(store_name, task.namespace)

    def settle(self, task: ObjectName, records: Sequence[ObservedRecord]) -> None:
        """Record that these *records* of *task* count, as a pass over it has left them."""
        if records:
            self._settled[task] = frozenset(map(_place, records))

    def is_settled(self, task: ObjectName, observed: ObservedRecord) -> bool:
        """Return whether a pass has left a record of *task* where this one was *observed*."""
        return _place(observed) in self._settled.get(task, ())

    def forget(self, task: ObjectName) -> None:
        """Drop all that is known of a *task* that was deleted."""
        self._settled.pop(task, None)

    def reported(
        self, status: TaskStatus, location: PoolLocation, records: Sequence[ObservedRecord], *, moving: bool
    ) -> tuple[Location, ...]:
        """
        Return what the *status* is to list: where the *records* are, and with *moving*, *location*, where they go.

        Without records it is empty: then the status keeps what it lists.
        """
        if not records:
            return ()
        places = [_place(observed) for observed in records]
        if moving:  # what lies on the same database can do without
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
            self.is_settled(task, observed)
            or self._backends.is_exclusive(observed.backend, task.namespace)
            or any(
                (self._backends.store_name(each.backend), each.realm) == _place(observed)
                for each in status.locations
            )
        )


def _place(observed: ObservedRecord) -> tuple[str, str]:
    return observed.backend, observed.record.key.partition.realm
