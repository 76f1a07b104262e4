"""The observed state of a task's pool, backend and record, which its status is worked out from."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.coordination.members import Member
from pyncette.core.record import Record
from pyncette.resources.task_status import Instances, Location


class Access(Enum):
    """The access of a pool to the backend that it names."""

    OPEN = "open"
    """It is reachable, and the pool may use it."""
    DOWN = "down"
    """The pool may use it, and it does not answer now."""
    OVERFULL = "overfull"
    """The namespace has more records there than fit into the operator's memory: `TooManyRecords`."""
    REFUSED = "refused"
    """The operator's settings do not let this namespace use it: `BackendNotAllowed`."""
    UNKNOWN = "unknown"
    """The operator's settings have no backend of this name: `BackendNotFound`."""


class ObservedPool(NamedTuple):
    """The observed state of a pool, for its tasks."""

    name: str
    exists: bool = True
    """False: there is no such pool in the namespace."""
    invalid: bool = False
    """The pool exists, but its spec is invalid: workers of an earlier generation may keep running."""
    problem: str = ""
    """Why it may have no worker, and where to read more, as the predicate of a sentence; empty if no problem is known."""
    backend: str = "default"
    access: Access = Access.OPEN
    fault: str = ""
    """Why the backend is not reachable, as in the log, without secrets; empty if it is reachable, or if that is unknown."""
    rolling_out: bool = False
    """Workers of an earlier template are being replaced, or the first are on their way: a new handler may come with them."""
    wanted: int | None = None
    """The desired number of workers; None if others start them."""
    members: tuple[Member, ...] | None = None
    """Running workers that are registered in the backend; None if it could not be read."""
    schemas: Mapping[str, bytes] = MappingProxyType({})
    """The JSON schemas of the arguments of handlers, as its workers have published them."""


class ObservedTask(NamedTuple):
    """The observed state of a task in the backend."""

    record: Record | None = None
    """None if there is none, or if the backend could not be read."""
    locations: tuple[Location, ...] = ()
    """The locations of its records; empty if there is none, or if the backend could not be read."""
    moving: bool = False
    """Its record moves to another pool or handler once its run has ended."""
    taken_by: str | None = None
    """The other dynamic task of its pool that has its handler already; a handler belongs to one."""
    side_runs: int = 0
    """Runs under way beside the schedule."""
    last_run_id: str | None = None
    strays: tuple[int, ...] = ()
    """Of a dynamic task: partitions beyond its count that hold instances. No worker polls them."""
    instances: Instances | None = None
    """Of a dynamic task, if they were counted this time."""
    write_interval: Duration = 0
    """How long it may take until a status that is written now can be written again."""
    now: Instant = 0
    """By the backend's clock, or by our own where there is none."""
