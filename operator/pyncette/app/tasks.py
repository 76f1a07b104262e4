"""Tasks: handlers with their options, and instances of templates."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, Self, Unpack, cast, overload

import msgspec
from typing_extensions import ParamSpec

from pyncette.app.behaviour import Behaviour, behaviour_of, policies_of, with_history
from pyncette.app.defaults import DEFAULTS_OF_1_X, Defaults
from pyncette.app.handlers import Handler
from pyncette.app.modes import datetime_of
from pyncette.app.option_attributes import OptionAttributes
from pyncette.app.options import (
    OF_THE_TASK_ALONE,
    ONE_SCHEDULE,
    Options,
    arguments_of,
    as_stored,
    check_instance_name,
    check_task_name,
    encode_args,
    policy_options,
    pop_args,
    pop_schedule,
    read_options,
    seeded_by,
    shown_as_arguments,
)
from pyncette.app.policy_options import check_window, pop_policies, updated
from pyncette.app.retries import RetriedErrors, refuse_exceptions
from pyncette.app.signatures import Arguments
from pyncette.app.typed_options import InstanceOptions
from pyncette.clock import SECOND, Duration
from pyncette.core.record import Record, replace
from pyncette.core.schedule import Once, Schedule, first_after
from pyncette.core.spec import EMPTY_ARGS, Policies, Spec
from pyncette.core.times import instant_of


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


P = ParamSpec("P", default=...)
"""The parameters of a handler. The default lets annotations name `Task` alone."""


class Task(OptionAttributes, Generic[P]):
    """
    A handler with its options. It can be called like the handler, whose parameters *P* are.

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
        kind = Kind.TEMPLATE if dynamic else Kind.STATIC
        if parent_task is not None:
            kind = Kind.INSTANCE
        self._declare(name, func, kind, read_options(options, DEFAULTS_OF_1_X, func), parent_task)

    @classmethod
    def _of_declaration(
        cls, name: str, func: Handler, kind: Kind, options: Mapping[str, Any], defaults: Defaults
    ) -> Self:
        """Create a task from the *options* of a decorator, read by the *defaults* of its app. Raises ValueError."""
        task = cls.__new__(cls)
        task._declare(name, func, kind, read_options(options, defaults, func))
        return task

    def _declare(
        self, name: str, func: Handler, kind: Kind, options: Options, parent_task: Task | None = None
    ) -> None:
        if kind is Kind.STATIC and isinstance(options.schedule, Once):
            raise ValueError(
                f"execute_at is only supported for dynamic tasks; use a schedule or an interval for the task {name}"
            )
        if kind in {Kind.STATIC, Kind.INSTANCE} and options.schedule is None:
            raise ValueError(f"{ONE_SCHEDULE}; the task {name} has none of them")
        check_task_name(name)
        if kind is Kind.STATIC and options.schedule is not None:
            options = options._replace(schedule=seeded_by(options.schedule, name))
        if kind is Kind.STATIC and options.arguments is not None:
            options.arguments.check(options.args)
        self._fill(name, func, kind, options, 1 * SECOND, parent_task)

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
        self.task_func: Callable[P, Any] = task_func
        self._kind = kind
        self._on_polled_changed: set[Callable[[], object]] = set()
        """Called when it is enabled or disabled, and when its polled partitions change."""
        self._enabled = options.enabled
        self.concurrency_limit = options.concurrency_limit
        self.max_concurrent_runs = options.max_concurrent_runs
        self.parent_task = parent_task
        """The template of an instance, else None."""
        self._options = options
        self._poll_interval = poll_interval
        self._cached_policies: Policies | None = None

    @staticmethod
    def _from_options(
        name: str,
        task_func: Handler,
        kind: Kind,
        options: Options,
        poll_interval: Duration,
        parent_task: Task | None = None,
    ) -> Task:
        """Create a task from checked options."""
        task = Task.__new__(Task)
        task._fill(name, task_func, kind, options, poll_interval, parent_task)
        return task

    def _adopt(self, poll_interval: Duration) -> None:
        """Set the delay before a released run is retried: the *poll_interval* of the app."""
        self._poll_interval = poll_interval
        self._cached_policies = None

    @property
    def enabled(self) -> bool:
        """True if this process runs it. It can be set at any time."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        self._notify()

    def _notify(self) -> None:
        for listener in self._on_polled_changed:
            listener()

    @property
    def canonical_name(self) -> str:
        """A unique name. That of an instance includes its template, and its partition if there are several."""
        if self.parent_task is None:
            return self.name
        return f"{self.parent_task._prefix_of(self.name)}:{self.name}"

    def _prefix_of(self, instance_name: str) -> str:
        """Return the prefix of an instance's canonical name."""
        del instance_name
        return self.name

    @property
    def dynamic(self) -> bool:
        """True for a template."""
        return self._kind is Kind.TEMPLATE

    @property
    def partition_count(self) -> int:
        """The number of partitions of its instances."""
        return 1

    @property
    def _polled_partitions(self) -> Sequence[int]:
        """The partitions that this process claims from."""
        return (0,)

    @property
    def _shares_partitions(self) -> bool:
        """True if partitions are assigned to the running workers."""
        return False

    def partition_of(self, instance_name: str) -> int:
        """Return the partition of an instance. Raises ValueError if the selector returns an invalid one."""
        del instance_name
        return 0

    @property
    def _policies(self) -> Policies:
        """The policies of records that have none of their own."""
        if self._cached_policies is None:
            policies = policies_of(self._options.behaviour, self._poll_interval)
            self._cached_policies = replace(policies, max_concurrent=self.max_concurrent_runs or 0)
        return self._cached_policies

    def _retry_only(self, errors: RetriedErrors) -> None:
        """Set the exceptions after which this process calls the handler again."""
        self._options = self._options._replace(errors=errors)

    @property
    def _retried_errors(self) -> RetriedErrors:
        """The exceptions after which this process calls the handler again."""
        return self._options.errors

    def _own_spec(self) -> Spec:
        """Return the spec of a static task."""
        schedule, args = self._options.schedule, self._options.args
        assert schedule is not None
        return Spec(schedule, args, with_history(self._policies, self._options.behaviour))

    def _spec_of(
        self,
        instance_name: str,
        options: Mapping[str, Any],
        defaults: msgspec.Raw | None = None,
        common: Policies | None = None,
    ) -> Spec:
        """
        Return the spec of an instance with *options*.

        Missing options come from the template: each argument, from *defaults* if set, and the schedule. If there are
        options for policies, the other policies are copied from *common* if set, else from the options of the template.
        Raises ValueError.
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
        shown = shown_as_arguments(given, self._options.defaults)
        own = self._own_policies(given, schedule, common)
        arguments = self._options.arguments
        given = as_stored(pop_args(given, self._options.defaults) | shown, arguments)
        if defaults is None:
            defaults = self._options.args
        if defaults is not EMPTY_ARGS:
            given = {**arguments_of(defaults), **given}
        args = encode_args(given)
        if arguments is not None:
            arguments.check(args)
        return Spec(seeded_by(schedule, f"{self.name}/{instance_name}"), args, own)

    def _own_policies(
        self, options: dict[str, Any], schedule: Schedule, common: Policies | None
    ) -> Policies | None:
        """Remove the options for policies from *options*, and return the policies of an instance with them, or None."""
        given = pop_policies(options, policy_options(self._options.defaults))
        if given.get("suspend") is False:
            del given["suspend"]  # the default alone does not keep an instance from following its template
        behaviour = self._behaviour(common)
        if not given:
            check_window(behaviour, schedule)
            return None
        refuse_exceptions(given)
        # The suspension of a template suspends its instances anyway. A copy would outlast it.
        behaviour = updated(behaviour._replace(suspend=False), given)
        check_window(behaviour, schedule)
        return policies_of(behaviour, self._poll_interval)

    def _behaviour(self, policies: Policies | None) -> Behaviour:
        """Return the options that stand for *policies*; those of this task, if None or its own."""
        if policies is None or policies is self._policies:
            return self._options.behaviour
        return behaviour_of(policies)

    def _instance(self, instance_name: str, spec: Spec, common: Policies | None = None) -> Task:
        """Return the instance of this template with *spec*; without policies of its own, it has the *common* ones."""
        stored = self._as_stored(spec, common)
        return Task._from_options(
            instance_name, self.task_func, Kind.INSTANCE, stored, self._poll_interval, self
        )

    @overload
    def instantiate(
        self, name: str, *, schedule: str, timezone: str | None = None, **options: Unpack[InstanceOptions]
    ) -> Task[P]:
        """Return an instance with a cron *schedule*, in its *timezone*, without storing it."""

    @overload
    def instantiate(
        self, name: str, *, interval: datetime.timedelta, **options: Unpack[InstanceOptions]
    ) -> Task[P]:
        """Return an instance that runs every *interval*, without storing it."""

    @overload
    def instantiate(
        self, name: str, *, execute_at: datetime.datetime, **options: Unpack[InstanceOptions]
    ) -> Task[P]:
        """Return an instance that runs once, at *execute_at*, without storing it."""

    @overload
    def instantiate(self, name: str, **options: Unpack[InstanceOptions]) -> Task[P]:
        """Return an instance with the schedule of the template, without storing it."""

    def instantiate(self, name: str, **options: Any) -> Task[P]:
        """
        Return the instance *name* of this template with *options*, like `PyncetteContext.schedule_task`, without storing it.

        Pass it to `get_task` or `unschedule_task`. Raises ValueError for invalid options.
        """
        if self._kind is not Kind.TEMPLATE:
            raise ValueError(f"Cannot instantiate a non-dynamic task; {self} has no instances")
        return cast("Task[P]", self._instance(name, self._spec_of(name, options)))

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
        interval, execute_at, args = (task_spec[name] for name in ("interval", "execute_at", "extra_args"))
        options = {
            **(args if self._options.defaults.loose_keywords else {"args": args}),
            "schedule": task_spec["schedule"],
            "interval": None if interval is None else datetime.timedelta(seconds=interval),
            "execute_at": None if execute_at is None else datetime.datetime.fromisoformat(execute_at),
            "timezone": task_spec["timezone"],
        }
        name: str = task_spec["name"]
        return self._instance(name, self._spec_of(name, options))

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

    def _of_record(self, record: Record, common: Policies | None = None) -> Task:
        """
        Return the task of *record*: this one, one with the name of a resource, or an instance of either.

        An instance without policies of its own has the *common* ones of its template.
        """
        # A resource may have the name of its handler, or that of a template.
        is_own = record.key.task == self.name and (self._kind is Kind.STATIC or record.key.instance)
        task = self if is_own else self._named(record.key.task, record.spec)
        return task._instance(record.key.instance, record.spec, common) if record.key.instance else task

    @property
    def _arguments(self) -> Arguments | None:
        """The arguments that the handler takes by its signature; None if it takes the context alone."""
        return self._options.arguments

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the handler without middlewares, for tests. A plain function runs in the thread of the caller."""
        return self.task_func(*args, **kwargs)

    def __str__(self) -> str:
        return self.canonical_name

    def __repr__(self) -> str:
        return f"<{self._kind.value.capitalize()} task {self}>"

    def _named(self, name: str, spec: Spec) -> Task:
        return Task._from_options(
            name, self.task_func, Kind.HANDLER, self._as_stored(spec, None), self._poll_interval
        )

    def _as_stored(self, spec: Spec, common: Policies | None) -> Options:
        behaviour = self._behaviour(common if spec.policies is None else spec.policies)
        if common is not None and common.suspend and not behaviour.suspend:
            behaviour = behaviour._replace(suspend=True)
        return Options(
            self._options.defaults,
            self.enabled,
            self.concurrency_limit,
            self.max_concurrent_runs,
            behaviour,
            spec.schedule,
            spec.args,
            self._options.arguments,
            self._options.errors,
        )


def kind_of(task: Task) -> Kind:
    """Return the source of the runs of *task*, for the commands: it is not for task modules."""
    return task._kind


def schema_of(task: Task) -> dict[str, Any] | None:
    """Return the JSON schema of the arguments that the handler of *task* takes; None if its signature does not say."""
    return None if task._arguments is None else task._arguments.schema()
