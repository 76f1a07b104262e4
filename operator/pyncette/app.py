"""What a task module declares, and what it can do with it once it is started."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Literal, Never, Protocol, TypeVar, runtime_checkable

from pyncette.clock import LONGEST, Clock, Duration, SystemClock, synchronize
from pyncette.configuration import (
    Executor,
    batch_size_of,
    made_by,
    realm_of,
    refuse_unknown,
    require_store,
    slots_of,
)
from pyncette.coordination.assignment import Shares
from pyncette.coordination.members import Member, Membership
from pyncette.coordination.permit_records import PERMITS_REALM, permit_partition, remove_permits
from pyncette.core.record import Key, Outcome, Partition
from pyncette.core.schedule import check_ahead
from pyncette.core.spec import Spec
from pyncette.errors import ConfigurationError
from pyncette.executor import DefaultExecutor
from pyncette.handlers import MIDDLEWARE, check_handler, warn_if_plain, without_parentheses
from pyncette.instances import Instances, declaration, first_declaration
from pyncette.ledger.ledger import Ledger
from pyncette.model import (
    A_MICROSECOND,
    Context,
    ContinuationToken,
    FixtureFunc,
    InstanceResult,
    ListTasksResponse,
    MiddlewareFunc,
    PartitionSelector,
    TaskFunc,
    TaskState,
    datetime_of,
)
from pyncette.options import DEFAULT_BEHAVIOUR, Options, check_task_name, encode_args
from pyncette.registration import TaskRegistration
from pyncette.sqlite import sqlite_repository
from pyncette.start import run_until_stopped
from pyncette.store.base import Store
from pyncette.task import Kind, PartitionedTask, Task
from pyncette.templates import Templates
from pyncette.worker.service import AHEAD, Figures, Listener, OutcomeListener, Worker, WorkerSettings
from pyncette.worker.stored_tasks import follow_tasks

logger = logging.getLogger(__name__)

FIELDS: Final = frozenset(dir(Context)) | {"_registration", "_occurrence", "_held"}
"""What a context has anyway, so no fixture can have its name."""

_F = TypeVar("_F", bound=Callable[..., Any])


class Pyncette:
    """
    An application: tasks, fixtures and middlewares, declared on import, and started by `main` or `create`.

    *repository_factory* opens the backend, *executor_cls* says how many handlers run at once, and *configuration* is
    for both. A key that nobody knows is a ConfigurationError.
    """

    def __init__(
        self,
        repository_factory: Callable[..., Store] = sqlite_repository,
        executor_cls: Callable[..., Executor] = DefaultExecutor,
        poll_interval: datetime.timedelta = datetime.timedelta(seconds=1),
        **configuration: Any,
    ) -> None:
        if not 0 < poll_interval // A_MICROSECOND <= LONGEST:
            raise ConfigurationError(
                f"poll_interval must be longer than zero, and at most a century, not {poll_interval}"
            )
        refuse_unknown(configuration, repository_factory, executor_cls)
        self.poll_interval = poll_interval
        self.tasks: dict[str, Task] = {}
        """All that is declared, by name. To be read only."""
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

    def task(self, *misplaced: Never, **options: Any) -> Callable[[TaskFunc], Task]:
        """
        Declare a task with a schedule of its own.

        Options: `name` (else the function's), `enabled`, exactly one of `schedule` (cron) and `interval`, `timezone`,
        `fast_forward`, `failure_mode`, `execution_mode`, `lease_duration`, `heartbeat`, `concurrency_limit` (in
        this process), `max_concurrent_runs` (on all workers together); whatever else is given must be JSON, and becomes `context.args`. Raises ValueError for what cannot be meant.
        """
        _refuse_misplaced("task", misplaced)

        def decorator(func: TaskFunc) -> Task:
            return self._declare(Task(**_named(func, options)))

        return decorator

    def dynamic_task(self, *misplaced: Never, **options: Any) -> Callable[[TaskFunc], Task]:
        """
        Declare a template: its instances are scheduled at run time, by `PyncetteContext.schedule_task`.

        Options are those of `task`. A schedule and arguments are what instances have that do not say otherwise.
        """
        _refuse_misplaced("dynamic_task", misplaced)

        def decorator(func: TaskFunc) -> Task:
            return self._declare(Task(**_named(func, options), dynamic=True))

        return decorator

    def partitioned_task(
        self,
        *misplaced: Never,
        partition_count: int | None = None,
        partition_selector: PartitionSelector | None = None,
        enabled_partitions: Sequence[int] | Literal["shared"] | None = None,
        **options: Any,
    ) -> Callable[[TaskFunc], PartitionedTask]:
        """
        Declare a template whose instances are spread over *partition_count* partitions.

        *partition_selector* says which, given the count and the name of the instance; else a hash of the name does.
        *enabled_partitions* limits which ones this process polls; "shared" lets the workers that run share them out among
        themselves. The count is stored: it can change only while there are no instances.
        """
        _refuse_misplaced("partitioned_task", misplaced)
        if partition_count is None:
            raise ValueError("A partitioned task needs a partition_count")

        def decorator(func: TaskFunc) -> PartitionedTask:
            task = PartitionedTask(
                **_named(func, options),
                partition_count=partition_count,
                partition_selector=partition_selector,
                enabled_partitions=enabled_partitions,
            )
            self._declare(task)
            return task

        return decorator

    def handler(self, name: str | None = None) -> Callable[[TaskFunc], Task]:
        """Declare a handler without a schedule, for PyncetteTasks to name. Their fields are its options."""
        if callable(name):
            raise without_parentheses("handler", name)

        def decorator(func: TaskFunc) -> Task:
            handler = _handler(func)
            task_name = _name_of(handler, name, "task")
            options = Options(
                enabled=True,
                concurrency_limit=None,
                max_concurrent_runs=None,
                behaviour=DEFAULT_BEHAVIOUR,
                schedule=None,
                args=encode_args({}),
            )
            return self._declare(Task.from_options(task_name, handler, Kind.HANDLER, options, self._interval))

        return decorator

    # --- What is around runs -----------------------------------------------------------------------------------------

    def fixture(self, name: str | None = None) -> Callable[[_F], _F]:
        """Declare a fixture: an async generator function, called with the app context, that yields one value."""
        if callable(name):
            raise without_parentheses("fixture", name)

        def decorator(func: _F) -> _F:
            self.use_fixture(_name_of(func, name, "fixture"), func)
            return func

        return decorator

    def use_fixture(self, name: str, fixture: FixtureFunc) -> None:
        """
        Have *fixture* set up before the first poll, after those declared before it, and its value as `context.<name>`.

        It is torn down after the last run, however that ended: what stands after its `yield` is always run.
        """
        _refuse_field(name)
        if name in self.fixtures:
            raise ValueError(f"Duplicate fixture name {name}")
        self.fixtures[name] = fixture

    def middleware(self, middleware: _F) -> _F:
        """Declare a middleware: called around every run with the context and with what runs the rest."""
        self.use_middleware(middleware)
        return middleware

    def use_middleware(self, middleware: MiddlewareFunc) -> None:
        """
        Call *middleware* around every run, inside of those that were declared before it.

        Raises ValueError if it cannot be called with the context and `next`.
        """
        check_handler(middleware, MIDDLEWARE)
        warn_if_plain(middleware, MIDDLEWARE)
        self.middlewares.append(middleware)

    def use_listener(self, listener: Listener) -> None:
        """Tell *listener* of each look for what is due."""
        self.listeners.append(listener)

    # --- Starting ----------------------------------------------------------------------------------------------------

    def new_store(self) -> Store:
        """Make a store by the factory and the configuration, not opened yet. Raises ConfigurationError if it is none."""
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
        Open the backend, declare the tasks there, and yield what they can be run and scheduled with.

        *context_items* has no effect, as in Pyncette 1.x: see `add_to_context`. The other arguments are for tests and
        for the command line, which have a clock, a backend and limits of their own.
        Raises StoreError if the backend cannot be used. If the partition count of a template differs from the
        stored one, only that template is refused, with a warning: a call that needs it raises ConfigurationError.
        """
        if context_items:
            logger.warning("context_items are ignored: use add_to_context instead")
        new_store = new_store or self.new_store
        async with new_store() as store:
            clock = clock or SystemClock()
            for task in self.tasks.values():
                clock.expect_lease(task.lease_duration // A_MICROSECOND)
            await synchronize(clock, store.now)
            # Pretended time is that of one loop, so there renewals cannot have another.
            renews_apart = store.capabilities.shared and not isinstance(clock, _PretendedTime)
            context = PyncetteContext(
                self,
                Ledger(store, clock),
                self.realm if realm is None else realm,
                self.slots if slots is None else slots,
                new_store if renews_apart else None,
            )
            await context.declare_tasks()
            async with context.following_templates():
                yield context

    def main(self) -> None:
        """
        Run until SIGINT or SIGTERM, and then until what runs has returned; a second signal ends it at once.

        Environment: LOG_LEVEL (INFO), USE_UVLOOP (1: required, 0: not used; else used where it is installed).
        Exits with 1 if it cannot go on, and says why in a sentence.
        """
        run_until_stopped(self.create)

    # --- Inside ------------------------------------------------------------------------------------------------------

    @property
    def _interval(self) -> Duration:
        return self.poll_interval // A_MICROSECOND

    def _declare(self, task: Task) -> Task:
        check_task_name(task.name)
        check_handler(task.task_func)
        if task.name in self.tasks:
            raise ValueError(f"Duplicate task name {task.name}; give this one another by name=…")
        warn_if_plain(task.task_func)
        task.adopt(self._interval)
        self.tasks[task.name] = task
        return task


@runtime_checkable
class _PretendedTime(Protocol):
    """A clock that waits for those who have joined, before it moves."""

    def join(self, participant: PyncetteContext) -> None: ...

    def leave(self, participant: PyncetteContext) -> None: ...


class PyncetteContext:
    """An application on an open backend."""

    def __init__(
        self,
        app: Pyncette,
        ledger: Ledger,
        realm: str,
        slots: int,
        renewal_store: Callable[[], Store] | None,
    ) -> None:
        self.app = app
        self.ledger = ledger
        self.clock = ledger.clock
        self.realm = realm
        self.values: dict[str, Any] = {}
        """What fixtures yielded, and what was added: the further attributes of each `Context`."""
        self.heartbeats: set[asyncio.Task[None]] = set()
        """Renewals on their way that no handler waits for."""
        self._settings = WorkerSettings(
            _holder(),
            slots,
            app.batch_size,
            app.poll_interval // A_MICROSECOND,
            0 if isinstance(self.clock, _PretendedTime) else AHEAD,
        )
        self._renewal_store = renewal_store
        self._templates = Templates(ledger, realm, app.tasks.values(), self._settings.holder)
        self._instances = Instances(ledger, self._templates, realm, app.batch_size)
        self._created_at = self.clock.now()
        self._worker: Worker | None = None
        self._running = False
        self._shut_down = False
        if app.outcome_listeners:
            ledger.on_ended(self._ended)
            for task in app.tasks.values():
                if task.kind is not Kind.HANDLER:  # the tasks of a handler come from resources
                    self._registered(realm, task.name)

    # --- Running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """
        Set up the fixtures, run what is due until `shutdown`, and tear them down.

        After `shutdown` running handlers finish. If this is cancelled, so are they, and what they ran stays due.
        """
        if self._running:
            raise RuntimeError("This app context runs already")
        self._running = True
        if isinstance(self.clock, _PretendedTime):
            self.clock.join(self)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name, fixture in self.app.fixtures.items():
                    self.values[name] = await stack.enter_async_context(_set_up(name, fixture, self))
                await self._work()
        finally:
            if isinstance(self.clock, _PretendedTime):
                self.clock.leave(self)
            self._running = False

    def shutdown(self, grace: datetime.timedelta | None = None) -> None:
        """End `run` once the running handlers have returned; after *grace*, if it is given, they are cancelled."""
        self._shut_down = True
        if self._worker is not None:
            self._worker.drain(None if grace is None else grace // A_MICROSECOND)

    @property
    def last_tick(self) -> datetime.datetime:
        """When the last poll ended, in UTC; before the first: when this was created. A wait for what is due counts as a poll."""
        polled_at = None if self._worker is None else self._worker.last_polled_at
        return datetime_of(self._created_at if polled_at is None else polled_at)

    @property
    def ready(self) -> bool:
        """Whether it polls, and the backend answered when it was last asked."""
        return self._running and self._worker is not None and self._worker.ready and not self._shut_down

    @property
    def figures(self) -> Figures:
        """How much there is to do. Can be asked from any thread."""
        return Figures(self._settings.slots, 0, 0, 0, 0) if self._worker is None else self._worker.figures

    @property
    def stalled_seconds(self) -> float:
        """How long the event loop has stood still: some seconds, unless something is wrong. Can be asked from any thread."""
        return 0.0 if self._worker is None else self._worker.stalled_seconds

    def add_to_context(self, name: str, value: Any) -> None:
        """Make *value* available as `context.<name>`. Raises ValueError for a name that is taken."""
        _refuse_field(name)
        if name in self.values or name in self.app.fixtures:
            raise ValueError(f"Key {name} already exists in the context")
        self.values[name] = value

    def is_settled(self, asleep: AbstractSet[asyncio.Task[Any]] = frozenset()) -> bool:
        """Say whether nothing is to be done before pretended time moves on; the tasks *asleep* wait for just that."""
        if self.heartbeats or (self._running and self._worker is None):
            return False
        return self._worker is None or self._worker.is_settled(asleep)

    async def declare_tasks(self) -> None:
        """
        Store what the module declares, where it differs from what is stored.

        If the instances of a template are stored in a different number of partitions, only that template is refused: this
        process neither claims nor schedules its instances.
        """
        rules = {}
        for task in self.app.tasks.values():
            key = Key(Partition(self.realm, task.name), task.name)
            if task.kind is Kind.STATIC:
                spec = task.own_spec(self.realm)
                assert spec.policies is not None
                self._warn_if_over(spec)
                rules[key] = declaration(key, spec, spec.policies)
            elif task.kind is Kind.TEMPLATE:
                spec = Spec(partitions=task.partition_count)
                rules[key] = first_declaration(key, spec, task.policies)
        await self.ledger.apply(rules)
        await self.read_templates()
        await self._remove_permits()

    async def _remove_permits(self) -> None:
        """Remove the permits of tasks that no longer have a limit. A worker removes those above a lower limit."""
        store = self.ledger.store
        unlimited = {
            permit_partition(self.realm, task.name, task.name): task.name
            for task in self.app.tasks.values()
            if task.kind is not Kind.HANDLER and not self._templates.common(task).policies.max_concurrent
        }
        if not unlimited:
            return
        for partition in await store.partitions(PERMITS_REALM):
            if partition in unlimited:
                await remove_permits(store, partition, unlimited[partition], await self.ledger.now())

    async def read_templates(self) -> None:
        """Read what resources say of the templates once. `following_templates` does so periodically. Raises StoreError."""
        await self._templates.read()

    @contextlib.asynccontextmanager
    async def following_templates(self) -> AsyncIterator[None]:
        """
        Read the templates periodically during the block, so that a process that only schedules picks up edits, too.

        Do nothing where time is pretended: an edit made in real time could be noticed at any pretended moment.
        """
        if isinstance(self.clock, _PretendedTime):
            yield
            return
        watching = asyncio.create_task(self._templates.watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _following_tasks(self) -> AsyncIterator[None]:
        """Report the tasks of resources to the listeners, periodically; in simulated time there are none."""
        if not self.app.outcome_listeners or isinstance(self.clock, _PretendedTime):
            yield
            return
        partitions = [Partition(self.realm, name) for name in self.app.tasks]
        following = asyncio.create_task(
            follow_tasks(self.ledger.store, partitions, self._registered, self._lost)
        )
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    # --- Instances ---------------------------------------------------------------------------------------------------

    async def schedule_task(
        self, task: Task, instance_name: str, force: bool = False, **options: Any
    ) -> Task:
        """
        Create or update an instance of a dynamic task, and return it.

        *options* are a schedule (exactly one of `schedule`, `interval` and `execute_at`), `timezone`, arguments, and
        what the instance shall have otherwise than its template. Without *force*, one that runs now raises
        TaskLockedException, and an update keeps the sooner of the old and the new next time. With *force* all is
        overwritten: a running handler loses its lease. A time in the past is due at once.
        """
        return await self._instances.schedule(task, instance_name, options, force=force)

    async def unschedule_task(self, task: Task, instance_name: str | None = None) -> None:
        """
        Remove an instance, whether it exists or not; a run in progress loses its lease.

        *task* is the template, with *instance_name*, or the instance itself. A static task is removed until the next start.
        """
        await self._instances.unschedule(task, instance_name)

    async def get_task(self, task: Task, instance_name: str | None = None) -> TaskState | None:
        """Return how an instance, or a static task, stands; None if there is no such instance (any more)."""
        return await self._instances.state(task, instance_name)

    def schedule_many(
        self,
        task: Task,
        items: Iterable[tuple[str, Mapping[str, Any]]] | AsyncIterable[tuple[str, Mapping[str, Any]]],
        force: bool = False,
    ) -> AsyncIterator[InstanceResult]:
        """
        Create or update any number of instances, each as `schedule_task` would, and tell of each how it went.

        *items* are pairs of a name and options. They are taken as they come, written in batches, and never held all at
        once; a result follows each, in their order. What is wrong with one item, or fails, is the `error` of its result
        alone. Nothing is done unless the results are iterated over.
        """
        return self._instances.schedule_many(task, items, force=force)

    def unschedule_many(
        self, task: Task, names: Iterable[str] | AsyncIterable[str]
    ) -> AsyncIterator[InstanceResult]:
        """Remove any number of instances, as `schedule_many` creates them."""
        return self._instances.unschedule_many(task, names)

    async def list_tasks(
        self,
        task: Task,
        limit: int | None = None,
        continuation_token: ContinuationToken | None = None,
    ) -> ListTasksResponse:
        """
        Return a page of the instances of *task*: at most *limit*, else at most `batch_size`.

        Following the tokens until there is none gives each instance that exists throughout exactly once.
        """
        return await self._instances.page(task, limit, continuation_token)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _warn_if_over(self, spec: Spec) -> None:
        try:
            check_ahead(spec.schedule, self.clock.now())
        except ValueError as error:
            # No reason not to start: it may have run its course, and the module is as it was.
            logger.warning("a task is not due any more: %s", error)

    async def _work(self) -> None:
        tasks = list(self.app.tasks.values())
        registrations = [
            TaskRegistration(task, self.realm, self, self.app.middlewares, self._templates) for task in tasks
        ]
        membership = self._membership()
        worker = Worker(
            ledger=self.ledger,
            clock=self.clock,
            registrations=registrations,
            settings=self._settings,
            renewal_store=self._renewal_store,
            membership=membership,
            shares=None if membership is None else self._shares(),
            listeners=self.app.listeners,
        )
        self._worker = worker
        if self._shut_down:
            worker.drain()
        loop = asyncio.get_running_loop()

        def look_soon() -> None:
            loop.call_soon_threadsafe(worker.look_soon)

        def refusals_changed() -> None:
            if membership is not None:
                membership.refuse(self._templates.refused)
            worker.look_soon()

        for task in tasks:
            task.told_if_enabled.add(look_soon)
        self._templates.refusals_changed = refusals_changed
        try:
            async with self._following_tasks():
                await worker.run()
        finally:
            self._templates.refusals_changed = None
            for task in tasks:
                task.told_if_enabled.discard(look_soon)

    def _registered(self, realm: str, task: str) -> None:
        for listener in self.app.outcome_listeners:
            listener.registered(realm, task)

    def _lost(self, realm: str, task: str) -> None:
        known = self.app.tasks.get(task)
        if known is not None and known.kind is not Kind.HANDLER:  # what the module declares is never gone
            return
        for listener in self.app.outcome_listeners:
            listener.lost(realm, task)

    def _ended(self, realm: str, task: str, outcome: Outcome, number: int) -> None:
        for listener in self.app.outcome_listeners:
            listener.ended(realm, task, outcome, number)

    def _membership(self) -> Membership | None:
        """Return what tells others that this worker runs; where nobody else can look, or time is pretended, there is none."""
        if self._renewal_store is None:
            return None
        holder, slots, *_ = self._settings
        counts = {
            task.name: task.partition_count for task in self.app.tasks.values() if task.kind is Kind.TEMPLATE
        }
        member = Member(
            holder,
            tuple(sorted(self.app.tasks)),
            slots=slots,
            started_at=self.clock.now(),
            partitions=tuple(sorted(counts.items())),
            refused=self._templates.refused,
        )
        return Membership(self.realm, member, self.clock)

    def _shares(self) -> Shares:
        return Shares(self.ledger.store, self.clock, self.realm, self._settings.holder)

    def __getattr__(self, name: str) -> Any:
        """Let a fixture reach those that were set up before it."""
        values = self.__dict__.get("values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"The app context has no {name!r}: no fixture provides it yet")


@contextlib.asynccontextmanager
async def _set_up(name: str, fixture: FixtureFunc, context: PyncetteContext) -> AsyncIterator[Any]:
    generator = fixture(context)
    try:
        value = await anext(generator)
    except StopAsyncIteration:
        raise RuntimeError(f"The fixture {name} ended without a yield") from None
    try:
        yield value
    finally:
        # Resumed, not thrown at: what stands after the yield is there to be run, also when the app ended in an error.
        if await anext(generator, _OVER) is not _OVER:
            raise RuntimeError(f"The fixture {name} yielded more than once")


_OVER: Final = object()


def _named(func: TaskFunc, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return *options* with the handler, and with its name if they contain none."""
    handler = _handler(func)
    return {**options, "name": _name_of(handler, options.get("name"), "task"), "func": handler}


def _name_of(func: Any, given: Any, of: str) -> str:
    name = getattr(func, "__name__", None) if given is None else given
    if name is None:
        raise ValueError(f"Unable to determine name for the {of}; give it one by name=…")
    if not isinstance(name, str):
        message = f"The name of a {of} must be a string, not {name!r}"
        raise ValueError(message)  # noqa: TRY004 - what is refused at declaration is a ValueError
    return name


def _handler(func: TaskFunc) -> TaskFunc:
    """Decorators of tasks can be stacked: each gives the same handler another task."""
    return func.task_func if isinstance(func, Task) else func


def _refuse_misplaced(decorator: str, given: Sequence[Any]) -> None:
    if given:
        raise without_parentheses(decorator, given[0])


def _refuse_field(name: str) -> None:
    if name in FIELDS:
        raise ValueError(f"Cannot use reserved name {name}: it is a field of Context")


def _holder() -> str:
    """A name for this process: who runs it, and something random, since processes in containers are all number 1."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
