"""The application: the declarations of a task module, and how they are started."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, Literal, Never, Protocol, TypeVar, Unpack, overload

from pyncette.app.blocking import BlockingContext
from pyncette.app.calls import stored_args, wrapped
from pyncette.app.configuration import (
    Executor,
    batch_size_of,
    made_by,
    realm_of,
    refuse_unknown,
    require_store,
    slots_of,
)
from pyncette.app.context import Context, FixtureFunc, MiddlewareFunc, PyncetteContext, refuse_field
from pyncette.app.default_backend import sqlite_repository
from pyncette.app.defaults import DefaultsName, defaults_named
from pyncette.app.executors import DefaultExecutor
from pyncette.app.handlers import (
    MIDDLEWARE,
    Call,
    Handler,
    check_handler,
    warn_if_unawaitable,
    without_parentheses,
)
from pyncette.app.modes import A_MICROSECOND, as_timedelta
from pyncette.app.options import PartitionSelector, check_task_name
from pyncette.app.partitioned_tasks import PartitionedTask
from pyncette.app.process import run_until_stopped
from pyncette.app.retries import Retry, errors_of_handler
from pyncette.app.runtime import Runtime, SimulatedTime
from pyncette.app.signatures import with_arguments
from pyncette.app.tasks import Kind, P, Task
from pyncette.app.typed_options import PartitionedTaskOptions, TaskOptions
from pyncette.clock import LONGEST, Clock, Duration, SystemClock, synchronize
from pyncette.errors import ConfigurationError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.worker.service import Listener, OutcomeListener

logger = logging.getLogger(__name__)

_C = TypeVar("_C", bound=Context)
_B = TypeVar("_B", bound=BlockingContext)
_F = TypeVar("_F", bound=Callable[..., Any])
_Fixture = TypeVar("_Fixture", bound=Callable[..., AsyncIterator[Any]])


class TaskDecorator(Protocol):
    """A decorator that makes a task of a handler: a coroutine function, or a plain function that runs in a thread."""

    @overload
    def __call__(
        self, func: Callable[Concatenate[_C, P], Awaitable[None]], /
    ) -> Task[Concatenate[_C, P]]: ...

    @overload
    def __call__(self, func: Callable[Concatenate[_B, P], None], /) -> Task[Concatenate[_B, P]]: ...


class PartitionedTaskDecorator(Protocol):
    """A decorator that makes a partitioned task of a handler."""

    @overload
    def __call__(
        self, func: Callable[Concatenate[_C, P], Awaitable[None]], /
    ) -> PartitionedTask[Concatenate[_C, P]]: ...

    @overload
    def __call__(
        self, func: Callable[Concatenate[_B, P], None], /
    ) -> PartitionedTask[Concatenate[_B, P]]: ...


class Pyncette:
    """
    An application: tasks, fixtures and middlewares, declared on import, and started by `main` or `create`.

    *repository_factory* opens the backend, *executor_cls* limits the handlers that run at the same time, and
    *configuration* is passed to both. *defaults* applies to all tasks: "1.x" as in Pyncette 1.x, or "safe" for automatic
    heartbeats, bounded retries, edits that replace, and no loose keywords. Raises ConfigurationError for an unknown key.
    """

    def __init__(
        self,
        repository_factory: Callable[..., Store] = sqlite_repository,
        executor_cls: Callable[..., Executor] = DefaultExecutor,
        poll_interval: datetime.timedelta = datetime.timedelta(seconds=1),
        *,
        defaults: DefaultsName = "1.x",
        **configuration: Any,
    ) -> None:
        if not isinstance(poll_interval, datetime.timedelta):
            raise ConfigurationError(
                f"poll_interval must be a timedelta, not {poll_interval!r}{as_timedelta(poll_interval)}"
            )
        if not 0 < poll_interval // A_MICROSECOND <= LONGEST:
            raise ConfigurationError(
                f"poll_interval must be longer than zero and at most a century, not {poll_interval}"
            )
        refuse_unknown(configuration, repository_factory, executor_cls)
        self.defaults = defaults_named(defaults)
        self.poll_interval = poll_interval
        self.tasks: dict[str, Task] = {}
        """The declared tasks, by name. Read-only."""
        self.fixtures: dict[str, FixtureFunc] = {}
        self.middlewares: list[MiddlewareFunc] = []
        self.listeners: list[Listener] = []
        self.outcome_listeners: list[OutcomeListener] = []
        self.repository_factory = repository_factory
        self.batch_size = batch_size_of(configuration)
        self.realm = realm_of(configuration)
        self.slots = slots_of(made_by(executor_cls, configuration))
        self.configuration = configuration

    # --- Tasks -------------------------------------------------------------------------------------------------------

    @overload
    def task(
        self, *, schedule: str, timezone: str | None = None, **options: Unpack[TaskOptions]
    ) -> TaskDecorator:
        """Declare a task with a cron *schedule*, in its *timezone* (UTC)."""

    @overload
    def task(self, *, interval: datetime.timedelta, **options: Unpack[TaskOptions]) -> TaskDecorator:
        """Declare a task that runs every *interval*."""

    def task(self, *misplaced: Never, **options: Any) -> TaskDecorator:
        """
        Declare a task with a schedule of its own.

        *options* are exactly one of `schedule` (cron) and `interval`, and those of `TaskOptions`. With the defaults of
        1.x, all other keywords must be JSON, and become `context.args`. Raises ValueError for invalid options.
        """
        _refuse_misplaced("task", misplaced)

        def decorator(func: Handler) -> Task[Any]:
            name, handler = _named(func, options)
            return self._declare(Task._of_declaration(name, handler, Kind.STATIC, options, self.defaults))

        return decorator

    @overload
    def dynamic_task(
        self, *, schedule: str, timezone: str | None = None, **options: Unpack[TaskOptions]
    ) -> TaskDecorator:
        """Declare a template whose instances have this cron *schedule* unless they have another."""

    @overload
    def dynamic_task(self, *, interval: datetime.timedelta, **options: Unpack[TaskOptions]) -> TaskDecorator:
        """Declare a template whose instances have this *interval* unless they have another schedule."""

    @overload
    def dynamic_task(self, *, execute_at: datetime.datetime, **options: Unpack[TaskOptions]) -> TaskDecorator:
        """Declare a template whose instances have this due time unless they have another schedule."""

    @overload
    def dynamic_task(self, **options: Unpack[TaskOptions]) -> TaskDecorator:
        """Declare a template whose instances have schedules of their own."""

    def dynamic_task(self, *misplaced: Never, **options: Any) -> TaskDecorator:
        """
        Declare a template: its instances are scheduled at run time, by `PyncetteContext.schedule_task`.

        The options are those of `task`. Schedule and arguments are defaults of the instances.
        """
        _refuse_misplaced("dynamic_task", misplaced)

        def decorator(func: Handler) -> Task[Any]:
            name, handler = _named(func, options)
            return self._declare(Task._of_declaration(name, handler, Kind.TEMPLATE, options, self.defaults))

        return decorator

    @overload
    def partitioned_task(
        self, *, schedule: str, timezone: str | None = None, **options: Unpack[PartitionedTaskOptions]
    ) -> PartitionedTaskDecorator:
        """Declare a partitioned template whose instances have this cron *schedule* unless they have another."""

    @overload
    def partitioned_task(
        self, *, interval: datetime.timedelta, **options: Unpack[PartitionedTaskOptions]
    ) -> PartitionedTaskDecorator:
        """Declare a partitioned template whose instances have this *interval* unless they have another schedule."""

    @overload
    def partitioned_task(
        self, *, execute_at: datetime.datetime, **options: Unpack[PartitionedTaskOptions]
    ) -> PartitionedTaskDecorator:
        """Declare a partitioned template whose instances have this due time unless they have another schedule."""

    @overload
    def partitioned_task(self, **options: Unpack[PartitionedTaskOptions]) -> PartitionedTaskDecorator:
        """Declare a partitioned template whose instances have schedules of their own."""

    def partitioned_task(
        self,
        *misplaced: Never,
        partition_count: int | None = None,
        partition_selector: PartitionSelector | None = None,
        enabled_partitions: Sequence[int] | Literal["shared"] | None = None,
        **options: Any,
    ) -> PartitionedTaskDecorator:
        """
        Declare a template whose instances are spread over *partition_count* partitions.

        *partition_selector* returns the partition for a count and the name of an instance; by default a hash of the name.
        *enabled_partitions* limits the partitions that this process polls; "shared" assigns them to the running workers.
        The count is stored: it can change only while there are no instances.
        """
        _refuse_misplaced("partitioned_task", misplaced)
        if partition_count is None:
            raise ValueError("A partitioned task needs a partition_count")

        def decorator(func: Handler) -> PartitionedTask[Any]:
            name, handler = _named(func, options)
            task = PartitionedTask._of_declaration(name, handler, Kind.TEMPLATE, options, self.defaults)
            task._spread(partition_count, partition_selector, enabled_partitions)
            self._declare(task)
            return task

        return decorator

    def handler(self, name: str | None = None, *, retry: Retry | None = None) -> TaskDecorator:
        """
        Declare a handler without a schedule, for PyncetteTasks. Its options are the fields of each PyncetteTask.

        *retry* says only which exceptions are retried, by `on` and `give_up_on`.
        """
        if callable(name):
            raise without_parentheses("handler", name)
        errors = errors_of_handler(retry)

        def decorator(func: Handler) -> Task[Any]:
            handler = _handler(func)
            task_name = _name_of(handler, name, "task")
            task = Task._of_declaration(task_name, handler, Kind.HANDLER, {}, self.defaults)
            task._retry_only(errors)
            return self._declare(task)

        return decorator

    # --- Fixtures and middlewares ------------------------------------------------------------------------------------

    def fixture(self, name: str | None = None) -> Callable[[_Fixture], _Fixture]:
        """Declare a fixture: an async generator function, called with the app context, that yields one value."""
        if callable(name):
            raise without_parentheses("fixture", name)

        def decorator(func: _Fixture) -> _Fixture:
            self.use_fixture(_name_of(func, name, "fixture"), func)
            return func

        return decorator

    def use_fixture(self, name: str, fixture: FixtureFunc) -> None:
        """
        Set up *fixture* before the first poll, in the order of declaration. Its value becomes `context.<name>`.

        It is torn down after the last run. The code after its `yield` always runs, even if a run failed.
        """
        refuse_field(name)
        if name in self.fixtures:
            raise ValueError(f"Duplicate fixture name {name}")
        self.fixtures[name] = fixture

    def middleware(self, middleware: _F) -> _F:
        """Declare a middleware: it is called for every run, with the context and a function that runs the rest."""
        self.use_middleware(middleware)
        return middleware

    def use_middleware(self, middleware: MiddlewareFunc) -> None:
        """
        Call *middleware* for every run, inside of the middlewares that were declared before.

        Raises ValueError if it cannot be called with the context and `next`.
        """
        check_handler(middleware, MIDDLEWARE)
        warn_if_unawaitable(middleware, MIDDLEWARE)
        self.middlewares.append(middleware)

    def use_listener(self, listener: Listener) -> None:
        """Notify *listener* of each poll."""
        self.listeners.append(listener)

    # --- Starting ----------------------------------------------------------------------------------------------------

    def new_store(self) -> Store:
        """Return a new store, which is not open yet. Raises ConfigurationError if the factory does not return one."""
        try:
            made = made_by(self.repository_factory, self.configuration)
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        return require_store(made, self.repository_factory)

    @contextlib.asynccontextmanager
    async def create(
        self,
        context_items: Mapping[str, Any] | None = None,
        *,
        clock: Clock | None = None,
        new_store: Callable[[], Store] | None = None,
        realm: str | None = None,
        slots: int | None = None,
    ) -> AsyncIterator[PyncetteContext]:
        """
        Open the backend, store the declared tasks, and yield the app context, which runs and schedules them.

        *context_items* has no effect, as in Pyncette 1.x: use `add_to_context`. The other arguments are for tests and for
        the command line, which set the clock, the backend and limits. Raises StoreError if the backend is not usable.

        If the partition count of a template differs from the stored one, only that template is refused, with a warning.
        A call that needs it raises ConfigurationError.
        """
        if context_items:
            logger.warning("context_items are ignored: use add_to_context instead")
        new_store = new_store or self.new_store
        async with new_store() as store:
            clock = clock or SystemClock()
            for task in self.tasks.values():
                clock.expect_lease(task.lease_duration // A_MICROSECOND)
            await synchronize(clock, store.now)
            # Simulated time belongs to one event loop, so renewals cannot have a loop of their own.
            renews_apart = store.capabilities.shared and not isinstance(clock, SimulatedTime)
            runtime = Runtime(
                self,
                Ledger(store, clock),
                self.realm if realm is None else realm,
                self.slots if slots is None else slots,
                new_store if renews_apart else None,
            )
            await runtime.declare_tasks()
            async with runtime.following_templates():
                yield PyncetteContext(runtime)

    def main(self) -> None:
        """
        Run until SIGINT or SIGTERM, then until the running handlers have returned. A second signal ends it immediately.

        Environment: LOG_LEVEL (default INFO); USE_UVLOOP (1: required, 0: not used, unset: used if installed). On an
        error, print it and exit with 1.
        """
        run_until_stopped(self.create)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _call_of(self, task: Task) -> Call:
        """Return a function that calls the handler of *task* inside of the middlewares."""
        return wrapped(with_arguments(task.task_func, task._arguments, stored_args), self.middlewares)

    @property
    def _interval(self) -> Duration:
        return self.poll_interval // A_MICROSECOND

    def _declare(self, task: Task) -> Task:
        check_task_name(task.name)
        check_handler(task.task_func, arguments=() if task._arguments is None else task._arguments.names)
        if task.name in self.tasks:
            raise ValueError(f"Duplicate task name {task.name}; pass another with name=…")
        warn_if_unawaitable(task.task_func)
        task._adopt(self._interval)
        self.tasks[task.name] = task
        return task


def _named(func: Handler, options: Mapping[str, Any]) -> tuple[str, Handler]:
    """Return the name of a task, that of the function unless *options* have one, and its handler."""
    handler = _handler(func)
    return _name_of(handler, options.get("name"), "task"), handler


def _name_of(func: Any, given: Any, of: str) -> str:
    name = getattr(func, "__name__", None) if given is None else given
    if name is None:
        raise ValueError(f"Unable to determine name for the {of}; pass one with name=…")
    if not isinstance(name, str):
        message = f"The name of a {of} must be a string, not {name!r}"
        raise ValueError(message)  # noqa: TRY004 - what is refused at declaration is a ValueError
    return name


def _handler(func: Handler) -> Handler:
    """Return the handler of *func*, which may be a task: decorators can be stacked, one task each."""
    return func.task_func if isinstance(func, Task) else func


def _refuse_misplaced(decorator: str, given: Sequence[Any]) -> None:
    if given:
        raise without_parentheses(decorator, given[0])
