"""Tasks: handlers with their options, and instances of templates."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from hashlib import sha1
from typing import Any, Final, Literal

import msgspec

from pyncette.app.handlers import Handler
from pyncette.app.modes import A_MICROSECOND, ExecutionMode, FailureMode, datetime_of
from pyncette.app.options import (
    OF_THE_TASK_ALONE,
    ONE_SCHEDULE,
    Options,
    PartitionSelector,
    arguments_of,
    behaviour_of,
    check_instance_name,
    check_task_name,
    encode_args,
    policies_of,
    pop_behaviour,
    pop_schedule,
    read_options,
    shown_as_arguments,
    with_history,
)
from pyncette.clock import SECOND, Duration
from pyncette.core.record import Record, replace
from pyncette.core.schedule import Cron, Interval, Once, first_after, seeded
from pyncette.core.spec import EMPTY_ARGS, Policies, Spec
from pyncette.core.times import instant_of

DIGEST_BITS: Final = 160


class Kind(Enum):
    """The source of the runs of a task."""

    STATIC = "static"
    """Its own schedule."""
    TEMPLATE = "template"
    """Its instances, which are scheduled at run time."""
    HANDLER = "handler"
    """PyncetteTasks that name it."""
    INSTANCE = "instance"
    """Its schedule as an instance of its template."""


SHARED: Final = "shared"
"""The value of enabled_partitions that assigns partitions to the running workers."""


class Task:
    """
    A handler with its options.

    The decorators of `Pyncette` make tasks, and its calls return them. A task that is constructed directly belongs to
    no app, so no worker runs it. Raises ValueError for invalid options.
    """

    def __init__(
        self,
        *,
        name: str,
        func: Handler,
        dynamic: bool = False,
        parent_task: Task | None = None,
        **options: Any,
    ) -> None:
        read = read_options(options)
        kind = Kind.TEMPLATE if dynamic else Kind.STATIC
        if parent_task is not None:
            kind = Kind.INSTANCE
        if kind is Kind.STATIC and isinstance(read.schedule, Once):
            raise ValueError(
                f"execute_at is only supported for dynamic tasks; use a schedule or an interval for the task {name}"
            )
        if kind is not Kind.TEMPLATE and read.schedule is None:
            raise ValueError(f"{ONE_SCHEDULE}; the task {name} has none of them")
        check_task_name(name)
        self._fill(name, func, kind, read, 1 * SECOND, parent_task)

    def _fill(
        self,
        name: str,
        task_func: Handler,
        kind: Kind,
        options: Options,
        poll_interval: Duration,
        parent_task: Task | None = None,
    ) -> None:
        self.name = name
        self.task_func = task_func
        self.kind = kind
        self.on_polled_changed: set[Callable[[], object]] = set()
        """Called when it is enabled or disabled, and when its polled partitions change."""
        self._enabled = options.enabled
        self.concurrency_limit = options.concurrency_limit
        self.max_concurrent_runs = options.max_concurrent_runs
        self.parent_task = parent_task
        """The template of an instance, else None."""
        self._options = options
        self._poll_interval = poll_interval
        self._policies: Policies | None = None

    @staticmethod
    def from_options(
        name: str,
        task_func: Handler,
        kind: Kind,
        options: Options,
        poll_interval: Duration,
        parent_task: Task | None = None,
    ) -> Task:
        """Create a task from checked options."""
        task = Task.__new__(Task)
        task._fill(name, task_func, kind, options, poll_interval, parent_task)  # noqa: SLF001 - it is one of this class
        return task

    def adopt(self, poll_interval: Duration) -> None:
        """Set the delay before a released run is retried: the *poll_interval* of the app."""
        self._poll_interval = poll_interval
        self._policies = None

    @property
    def enabled(self) -> bool:
        """True if this process runs it. It can be set at any time."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        self._notify()

    def _notify(self) -> None:
        for listener in self.on_polled_changed:
            listener()

    @property
    def canonical_name(self) -> str:
        """A unique name. That of an instance includes its template, and its partition if there are several."""
        if self.parent_task is None:
            return self.name
        return f"{self.parent_task.prefix_of(self.name)}:{self.name}"

    def prefix_of(self, instance_name: str) -> str:
        """Return the prefix of an instance's canonical name."""
        del instance_name
        return self.name

    @property
    def dynamic(self) -> bool:
        """True for a template."""
        return self.kind is Kind.TEMPLATE

    @property
    def is_handler(self) -> bool:
        """True if a PyncetteTask can name it as its handler."""
        return self.kind in {Kind.TEMPLATE, Kind.HANDLER}

    @property
    def schedule(self) -> str | None:
        """The cron expression, or None."""
        schedule = self._options.schedule
        return schedule.expression if isinstance(schedule, Cron) else None

    @property
    def interval(self) -> datetime.timedelta | None:
        schedule = self._options.schedule
        return schedule.length * A_MICROSECOND if isinstance(schedule, Interval) else None

    @property
    def execute_at(self) -> datetime.datetime | None:
        """The due time of a one-off, in UTC, or None."""
        schedule = self._options.schedule
        return datetime_of(schedule.at) if isinstance(schedule, Once) else None

    @property
    def timezone(self) -> str | None:
        """The time zone of the cron expression; None for UTC."""
        schedule = self._options.schedule
        return schedule.zone if isinstance(schedule, Cron) and schedule.zone != "UTC" else None

    @property
    def fast_forward(self) -> bool:
        return self._options.behaviour.fast_forward

    @property
    def failure_mode(self) -> FailureMode:
        return self._options.behaviour.failure_mode

    @property
    def execution_mode(self) -> ExecutionMode:
        return self._options.behaviour.execution_mode

    @property
    def lease_duration(self) -> datetime.timedelta:
        return self._options.behaviour.lease_duration

    @property
    def heartbeat(self) -> str:
        """'cooperative' if the handler renews the lease of a run, 'automatic' if the worker does."""
        return self._options.behaviour.heartbeat

    @property
    def extra_args(self) -> dict[str, Any]:
        """The arguments, as a copy."""
        return arguments_of(self._options.args)

    @property
    def partition_count(self) -> int:
        """The number of partitions of its instances."""
        return 1

    @property
    def polled_partitions(self) -> Sequence[int]:
        """The partitions that this process claims from."""
        return (0,)

    @property
    def shares_partitions(self) -> bool:
        """True if partitions are assigned to the running workers."""
        return False

    def partition_of(self, instance_name: str) -> int:
        """Return the partition of an instance. Raises ValueError if the selector returns an invalid one."""
        del instance_name
        return 0

    @property
    def policies(self) -> Policies:
        """The policies of records that have none of their own."""
        if self._policies is None:
            policies = policies_of(self._options.behaviour, self._poll_interval)
            self._policies = replace(policies, max_concurrent=self.max_concurrent_runs or 0)
        return self._policies

    def own_spec(self, realm: str) -> Spec:
        """Return the spec of a static task."""
        schedule, args = self._options.schedule, self._options.args
        assert schedule is not None
        return Spec(seeded(schedule, f"{realm}/{self.name}"), args, with_history(self.policies))

    def spec_of(
        self,
        instance_name: str,
        options: Mapping[str, Any],
        realm: str,
        defaults: msgspec.Raw | None = None,
    ) -> Spec:
        """
        Return the spec of an instance with *options*.

        Missing options come from the template: each argument, from *defaults* if set, and the schedule. Raises ValueError.
        """
        check_instance_name(instance_name)
        given = dict(options)
        if not OF_THE_TASK_ALONE.isdisjoint(given):
            (first, *_) = sorted(OF_THE_TASK_ALONE & given.keys())
            raise ValueError(
                f"{first} is not an option of an instance, and cannot be the name of an argument"
            )
        schedule = pop_schedule(given) or self._options.schedule
        if schedule is None:
            raise ValueError(f"{ONE_SCHEDULE}; the instance {instance_name!r} has none of them")
        shown = shown_as_arguments(given)
        behaviour = pop_behaviour(given, self._options.behaviour)
        own = None
        if behaviour is not self._options.behaviour:
            own = policies_of(behaviour, self._poll_interval)
        given |= shown
        if defaults is None:
            defaults = self._options.args
        if defaults is not EMPTY_ARGS:
            given = {**arguments_of(defaults), **given}
        if isinstance(schedule, Cron):
            schedule = seeded(schedule, f"{realm}/{self.name}/{instance_name}")
        return Spec(schedule, encode_args(given), own)

    def instance(self, instance_name: str, spec: Spec) -> Task:
        """Return the instance of this template with *spec*."""
        return Task.from_options(
            instance_name, self.task_func, Kind.INSTANCE, self._as_stored(spec), self._poll_interval, self
        )

    def instantiate(self, name: str, **options: Any) -> Task:
        """
        Return the instance *name* of this template with *options*, like `PyncetteContext.schedule_task`, without storing it.

        Pass it to `get_task` or `unschedule_task`. Raises ValueError for invalid options.
        """
        if self.kind is not Kind.TEMPLATE:
            raise ValueError(f"Cannot instantiate a non-dynamic task; {self} has no instances")
        return self.instance(name, self.spec_of(name, options, realm=""))

    def as_spec(self) -> dict[str, Any]:
        """Return name, schedule and arguments as a JSON-serializable dictionary."""
        interval, execute_at = self.interval, self.execute_at
        return {
            "name": self.name,
            "schedule": self.schedule,
            "interval": None if interval is None else interval.total_seconds(),
            "execute_at": None if execute_at is None else execute_at.isoformat(),
            "timezone": self.timezone,
            "extra_args": self.extra_args,
        }

    def instantiate_from_spec(self, task_spec: Mapping[str, Any]) -> Task:
        """Return the instance of this template for the result of `as_spec` of an instance."""
        interval, execute_at = task_spec["interval"], task_spec["execute_at"]
        return self.instantiate(
            task_spec["name"],
            **task_spec["extra_args"],
            schedule=task_spec["schedule"],
            interval=None if interval is None else datetime.timedelta(seconds=interval),
            execute_at=None if execute_at is None else datetime.datetime.fromisoformat(execute_at),
            timezone=task_spec["timezone"],
        )

    def get_next_execution(
        self, utc_now: datetime.datetime, last_execution: datetime.datetime | None
    ) -> datetime.datetime | None:
        """
        Return the occurrence after *last_execution*, or after *utc_now* if there was none; None if there is no further one.

        With `fast_forward` it is the first after *utc_now*. Raises ValueError for a template without a schedule.
        """
        schedule = self._options.schedule
        if schedule is None:
            raise ValueError(f"{self} is a template without a schedule: call this on an instance")
        now = instant_of(utc_now)
        if last_execution is None:
            due = schedule.at if isinstance(schedule, Once) else first_after(schedule, now, now)
        elif isinstance(schedule, Once):
            due = None
        else:
            last = instant_of(last_execution)
            after = max(last, now) if self.fast_forward else last
            due = first_after(schedule, after, last)
        return None if due is None else datetime_of(due, schedule)

    def of_record(self, record: Record) -> Task:
        """Return the task of *record*: this one, one with the name of a resource, or an instance of either."""
        task = self if record.key.task == self.name else self._named(record.key.task, record.spec)
        return task.instance(record.key.instance, record.spec) if record.key.instance else task

    def __call__(self, context: Any) -> Any:
        """Call the handler without middlewares, for tests. A plain function runs in the thread of the caller."""
        return self.task_func(context)

    def __str__(self) -> str:
        return self.canonical_name

    def __repr__(self) -> str:
        return f"<{self.kind.value.capitalize()} task {self}>"

    def _named(self, name: str, spec: Spec) -> Task:
        return Task.from_options(
            name, self.task_func, Kind.HANDLER, self._as_stored(spec), self._poll_interval
        )

    def _as_stored(self, spec: Spec) -> Options:
        behaviour = self._options.behaviour if spec.policies is None else behaviour_of(spec.policies)
        return Options(
            self.enabled,
            self.concurrency_limit,
            self.max_concurrent_runs,
            behaviour,
            spec.schedule,
            spec.args,
        )


class PartitionedTask(Task):
    """A template whose instances are spread over partitions, which can be assigned to several processes."""

    def __init__(
        self,
        *,
        partition_count: int,
        partition_selector: PartitionSelector | None = None,
        enabled_partitions: Sequence[int] | Literal["shared"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options, dynamic=True)
        if partition_count < 1:
            raise ValueError("Partition count must be greater than or equal to 1")
        self._partition_count = partition_count
        self.partition_selector = partition_selector or default_partition
        self.enabled_partitions = enabled_partitions

    @property
    def enabled_partitions(self) -> Sequence[int] | Literal["shared"] | None:
        """
        The partitions that this process polls; None: all; "shared": those assigned to this worker.

        It can be set at any time and takes effect immediately; "shared" must be set before `run`. Raises ValueError for
        invalid values.
        """
        return self._enabled_partitions

    @enabled_partitions.setter
    def enabled_partitions(self, enabled: Sequence[int] | Literal["shared"] | None) -> None:
        everyone = range(self._partition_count)
        polled: tuple[Any, ...] = tuple(everyone)
        if isinstance(enabled, str):
            if enabled != SHARED:
                raise ValueError(f"enabled_partitions must be numbers or {SHARED!r}, not {enabled!r}")
        elif enabled is not None:
            polled = tuple(sorted(set(enabled)))
            if not all(number in everyone for number in polled):
                raise ValueError(
                    f"enabled_partitions of the task {self.name} must be from 0 to {self._partition_count - 1}, "
                    f"not {polled}"
                )
            enabled = polled
        self._enabled_partitions = enabled
        self._polled = polled
        self._notify()

    def prefix_of(self, instance_name: str) -> str:
        try:
            return f"{self.name}:{self.partition_of(instance_name)}"
        except Exception:  # noqa: BLE001 - a selector may raise anything, and errors about the instance need its name
            return self.name

    @property
    def partition_count(self) -> int:
        return self._partition_count

    @property
    def polled_partitions(self) -> Sequence[int]:
        return self._polled

    @property
    def shares_partitions(self) -> bool:
        return self._enabled_partitions == SHARED

    def partition_of(self, instance_name: str) -> int:
        number = self.partition_selector(self._partition_count, instance_name)
        if number not in range(self._partition_count):
            raise ValueError(
                f"The partition selector of the task {self.name} returned {number!r} for {instance_name!r}; "
                f"it must be from 0 to {self._partition_count - 1}"
            )
        return number


def default_partition(partition_count: int, instance_name: str) -> int:
    """Return the partition of the hash of the name, in an even division of the range of hashes."""
    digest = sha1(instance_name.encode(), usedforsecurity=False).digest()
    return (int.from_bytes(digest) * partition_count) >> DIGEST_BITS
