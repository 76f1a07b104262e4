"""The values that a task module meets: the context of a run, modes, states of instances, and names for its types."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NewType, TypeAlias

import msgspec

from pyncette.clock import Instant
from pyncette.core.schedule import Cron, Once, Schedule
from pyncette.core.tallies import idempotency_key, run_id
from pyncette.core.zone import zone_or_utc
from pyncette.errors import LeaseLostException, StoreUnavailableError

if TYPE_CHECKING:
    from pyncette.app import PyncetteContext
    from pyncette.registration import TaskRegistration
    from pyncette.task import Task
    from pyncette.worker.occurrence import Occurrence

logger = logging.getLogger(__name__)

EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
A_MICROSECOND: Final = datetime.timedelta(microseconds=1)


class ExecutionMode(Enum):
    """How often an occurrence may run when workers die."""

    AT_LEAST_ONCE = 0
    AT_MOST_ONCE = 1


class FailureMode(Enum):
    """What becomes of an occurrence whose handler raised."""

    NONE = 0
    """Nothing: it is tried again when its lease has expired."""
    UNLOCK = 1
    """It is released, and tried again a poll interval later."""
    COMMIT = 2
    """It is completed, as if its handler had returned, but counted as failed."""


class ResultType(Enum):
    """How a look at one task ended in 1.x. Nothing here returns it; modules that name it still import."""

    MISSING = 0
    PENDING = 1
    READY = 2
    LOCKED = 3
    LEASE_MISMATCH = 4


Lease = NewType("Lease", str)
"""Who holds a lease, as `TaskState.locked_by` names it."""

ContinuationToken = NewType("ContinuationToken", str)
"""Where the next page of `list_tasks` begins. It may be stored and sent, and stays good; what it says is private."""


class Context:
    """
    What a handler is called with: what runs, for when, with which arguments.

    The value of a fixture, and what `add_to_context` added, is an attribute, too. Everything is worked out when it is
    first asked for.
    """

    def __init__(self, registration: TaskRegistration, occurrence: Occurrence) -> None:
        self._registration = registration
        self._occurrence = occurrence
        self._held = occurrence.held

    @property
    def app_context(self) -> PyncetteContext:
        return self._registration.app_context

    @cached_property
    def task(self) -> Task:
        """The task, or the instance of a template; a PyncetteTask's run has a task with the name of the resource."""
        return self._registration.task_for(self._held.record)

    @cached_property
    def scheduled_at(self) -> datetime.datetime:
        """When it was due, in the time zone of its schedule (else UTC). The same for all attempts, however late."""
        return datetime_of(self._held.scheduled_at, self._held.record.spec.schedule)

    @cached_property
    def args(self) -> dict[str, Any]:
        """The arguments of the instance. They are this run's own copy."""
        return arguments_of(self._held.record.spec.args)

    @cached_property
    def attempt(self) -> int:
        """1 for the first try of this occurrence, 2 for the one after that, …"""
        return self._held.attempt

    @cached_property
    def run_id(self) -> str:
        """Different for each attempt; the same in logs and in the history of runs."""
        return run_id(self._held.record.key, self._held.record.fence)

    @cached_property
    def fencing_token(self) -> int:
        """Greater than that of any earlier attempt of this instance: systems that keep the greatest can refuse older ones."""
        return self._held.record.fence

    @cached_property
    def idempotency_key(self) -> str:
        """The same for all attempts of this occurrence, and of no other occurrence ever."""
        return idempotency_key(self._held.record, self._held.scheduled_at)

    async def heartbeat(self) -> None:
        """
        Renew the lease: from now on it lasts its full length again. Of no effect at most once, where none can be taken.

        Raises LeaseLostException if it expired and was taken over, or if the instance was removed or overwritten by
        force: then another run may be on its way, and what this one still does is not counted. A backend that does
        not answer is no reason to stop as long as the lease lasts; after that it is, since nobody knows whose it is.
        """
        occurrence = self._occurrence
        if occurrence.is_at_most_once:
            return
        try:
            held = await occurrence.heartbeat()
        except StoreUnavailableError as error:
            held = occurrence.lease_remaining() > 0
            logger.warning("a heartbeat did not reach the backend: %s", error, extra=occurrence.facts())
        if not held:
            raise LeaseLostException(self.task)

    def __getattr__(self, name: str) -> Any:
        """Look for what fixtures and `add_to_context` provide, once nothing else has that name."""
        if name != "_registration":  # not yet there while a context is being copied
            values = self._registration.app_context.values
            if name in values:
                return values[name]
        raise AttributeError(f"The context has no {name!r}: neither a fixture nor add_to_context provides it")

    def __repr__(self) -> str:
        return f"<Context of {self._held.record.key}, due at {self.scheduled_at.isoformat()}>"


NextFunc: TypeAlias = Callable[[], Awaitable[None]]
"""What a middleware awaits for the rest of the run."""

MiddlewareFunc: TypeAlias = Callable[[Context, NextFunc], Awaitable[None]]
"""Called around every run."""

TaskFunc: TypeAlias = Callable[[Context], Awaitable[None]]
"""A handler."""

FixtureFunc: TypeAlias = Callable[["PyncetteContext"], AsyncIterator[Any]]
"""An async generator function that yields once: what it yields is the fixture's value."""

PartitionSelector: TypeAlias = Callable[[int, str], int]
"""Says which partition an instance belongs to, from 0, given the number of partitions and the instance's name. It must always say the same."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """How an instance, or a task with a schedule of its own, stands."""

    task: Task
    """The instance as it is stored; its `extra_args` are the arguments of its next run."""
    scheduled_at: datetime.datetime | None
    """The next occurrence, or the one that runs now. None: there is no further one."""
    locked_until: datetime.datetime | None
    """While it runs: when its lease ends, unless it is renewed. Else None."""
    locked_by: Lease | None
    """While it runs: the worker that holds its lease. Else None."""


@dataclass(frozen=True, slots=True)
class ListTasksResponse:
    """A page of instances."""

    tasks: Sequence[TaskState]
    continuation_token: ContinuationToken | None
    """To be given to the next call; None: this was the last page."""


class InstanceResult(NamedTuple):
    """What became of one item of `schedule_many` or `unschedule_many`."""

    name: str
    task: Task | None
    """The instance, if it was scheduled."""
    error: Exception | None
    """Why nothing, or nothing certain, was done for this item; None if all is well."""


def datetime_of(instant: Instant, schedule: Schedule | None = None) -> datetime.datetime:
    """Return *instant* as an aware datetime, in the zone of *schedule* if it has one that is known here, else in UTC."""
    moment = EPOCH + datetime.timedelta(microseconds=instant)
    if isinstance(schedule, Cron | Once) and schedule.zone != "UTC":
        return moment.astimezone(zone_or_utc(schedule.zone))
    return moment


def instant_of(moment: datetime.datetime) -> Instant:
    """Return *moment* in microseconds since the epoch. One without a time zone is taken for UTC, on any machine."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - EPOCH) // A_MICROSECOND


def arguments_of(args: msgspec.Raw) -> dict[str, Any]:
    """Return stored arguments, parsed anew."""
    arguments: dict[str, Any] = msgspec.json.decode(args)
    return arguments
