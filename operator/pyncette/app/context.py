"""The context of a run, which handlers receive, and the app context: an application on an open backend."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import secrets
import socket
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from pyncette.app.instances import Instances, declaration, first_declaration
from pyncette.app.modes import A_MICROSECOND, datetime_of
from pyncette.app.options import arguments_of
from pyncette.app.registration import TaskRegistration
from pyncette.app.results import ContinuationToken, InstanceResult, ListTasksResponse, TaskState
from pyncette.app.tasks import Kind, Task
from pyncette.app.templates import Templates
from pyncette.coordination.assignment import PartitionAssignment
from pyncette.coordination.members import Member, Membership
from pyncette.coordination.permit_records import PERMITS_REALM, permit_partition, remove_permits
from pyncette.core.accounting import idempotency_key, run_id
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Key, Outcome, Partition
from pyncette.core.schedule import check_ahead
from pyncette.core.spec import Spec
from pyncette.errors import LeaseLostException, StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.service import AHEAD, Figures, Listener, OutcomeListener, Worker, WorkerSettings
from pyncette.worker.stored_tasks import follow_tasks

logger = naming_logger(__name__)


class Context:
    """
    The argument of a handler: the task, its due time and its arguments.

    The values of fixtures and of `add_to_context` are attributes, too. Attributes are computed on first access.
    """

    def __init__(
        self, app_context: PyncetteContext, registration: TaskRegistration, occurrence: Occurrence
    ) -> None:
        self._app_context = app_context
        self._registration = registration
        self._occurrence = occurrence
        self._held = occurrence.held

    @property
    def app_context(self) -> PyncetteContext:
        return self._app_context

    @cached_property
    def task(self) -> Task:
        """The task, or the instance of a template. For a PyncetteTask it has the name of the resource."""
        return self._registration.task_for(self._held.record)

    @cached_property
    def scheduled_at(self) -> datetime.datetime:
        """The due time, in the time zone of its schedule (else UTC). It is the same for all attempts."""
        return datetime_of(self._held.scheduled_at, self._held.record.spec.schedule)

    @cached_property
    def args(self) -> dict[str, Any]:
        """The arguments of the instance, as a copy for this run."""
        return arguments_of(self._held.record.spec.args)

    @cached_property
    def attempt(self) -> int:
        """The number of this attempt of the occurrence, from 1."""
        return self._held.attempt

    @cached_property
    def run_id(self) -> str:
        """The unique ID of this attempt, which is also in the logs and in the history of runs."""
        return run_id(self._held.record.key, self._held.record.fence)

    @cached_property
    def fencing_token(self) -> int:
        """A number greater than in all earlier attempts of this instance, so that other systems can reject older attempts."""
        return self._held.record.fence

    @cached_property
    def idempotency_key(self) -> str:
        """A key that is the same for all attempts of this occurrence, and unique to it."""
        return idempotency_key(self._held.record, self._held.scheduled_at)

    async def heartbeat(self) -> None:
        """
        Renew the lease to its full length. At most once, this has no effect, since such a run has no lease.

        Raises LeaseLostException if the lease expired and was taken over, or if the instance was removed or overwritten
        by force. Then another run may have started, and the result of this one is discarded. If the backend does not
        answer, raise it only after the lease has expired.
        """
        occurrence = self._occurrence
        if occurrence.is_at_most_once:
            return
        try:
            held = await occurrence.heartbeat()
        except StoreUnavailableError as error:
            held = occurrence.lease_remaining() > 0
            logger.warning("a heartbeat did not reach the backend: %s", error, extra=occurrence.log_fields())
        if not held:
            raise LeaseLostException(self.task)

    def __getattr__(self, name: str) -> Any:
        """Return the value of a fixture or of `add_to_context`."""
        if name != "_app_context":  # not yet there while a context is being copied
            values = self._app_context.values
            if name in values:
                return values[name]
        raise AttributeError(f"The context has no {name!r}: neither a fixture nor add_to_context provides it")

    def __repr__(self) -> str:
        return f"<Context of {self._held.record.key}, due at {self.scheduled_at.isoformat()}>"


FIELDS: Final = frozenset(dir(Context)) | {"_app_context", "_registration", "_occurrence", "_held"}
"""The attributes of every context, which fixtures cannot override."""


NextFunc: TypeAlias = Callable[[], Awaitable[None]]
"""The function that a middleware awaits to run the rest."""

MiddlewareFunc: TypeAlias = Callable[[Context, NextFunc], Awaitable[None]]
"""A middleware."""

TaskFunc: TypeAlias = Callable[[Context], Awaitable[None]]
"""A handler."""

FixtureFunc: TypeAlias = Callable[["PyncetteContext"], AsyncIterator[Any]]
"""An async generator function that yields the value of the fixture once."""


@runtime_checkable
class SimulatedTime(Protocol):
    """A simulated clock that waits for its participants before it moves."""

    def join(self, participant: PyncetteContext) -> None: ...

    def leave(self, participant: PyncetteContext) -> None: ...


class Declarations(Protocol):
    """The declarations of an app: the part of `Pyncette` that its context needs."""

    tasks: dict[str, Task]
    fixtures: dict[str, FixtureFunc]
    middlewares: list[MiddlewareFunc]
    listeners: list[Listener]
    outcome_listeners: list[OutcomeListener]
    batch_size: int
    poll_interval: datetime.timedelta


class PyncetteContext:
    """An application on an open backend."""

    def __init__(
        self,
        app: Declarations,
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
        """Values of fixtures and of `add_to_context`: additional attributes of each `Context`."""
        self.heartbeats: set[asyncio.Task[None]] = set()
        """Renewals in progress that no handler awaits."""
        self.started = asyncio.Event()
        """Set once `run` has set up the fixtures and begins to poll."""
        self._settings = WorkerSettings(
            _holder(),
            slots,
            app.batch_size,
            app.poll_interval // A_MICROSECOND,
            0 if isinstance(self.clock, SimulatedTime) else AHEAD,
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
        Set up the fixtures, run due tasks until `shutdown`, and tear the fixtures down.

        After `shutdown` running handlers finish. If this is cancelled, they are cancelled too, and their occurrences stay
        due.
        """
        if self._running:
            raise RuntimeError("This app context is already running")
        self._running = True
        if isinstance(self.clock, SimulatedTime):
            self.clock.join(self)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name, fixture in self.app.fixtures.items():
                    self.values[name] = await stack.enter_async_context(_set_up(name, fixture, self))
                await self._work()
        finally:
            if isinstance(self.clock, SimulatedTime):
                self.clock.leave(self)
            self._running = False

    def shutdown(self, grace: datetime.timedelta | None = None) -> None:
        """End `run` when the running handlers have returned. Cancel them after *grace*, if set."""
        self._shut_down = True
        if self._worker is not None:
            self._worker.drain(None if grace is None else grace // A_MICROSECOND)

    @property
    def last_tick(self) -> datetime.datetime:
        """The end of the last poll, in UTC; before the first, the creation of this. Waiting for a due time counts as polling."""
        polled_at = None if self._worker is None else self._worker.last_polled_at
        return datetime_of(self._created_at if polled_at is None else polled_at)

    @property
    def ready(self) -> bool:
        """True if it polls and the backend answered the last request."""
        return self._running and self._worker is not None and self._worker.ready and not self._shut_down

    @property
    def figures(self) -> Figures:
        """The current load. Can be read from any thread."""
        return Figures(self._settings.slots, 0, 0, 0, 0) if self._worker is None else self._worker.figures

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the event loop last ran: a few, unless it is blocked. Can be read from any thread."""
        return 0.0 if self._worker is None else self._worker.stalled_seconds

    def add_to_context(self, name: str, value: Any) -> None:
        """Make *value* available as `context.<name>`. Raises ValueError for a name that is taken."""
        refuse_field(name)
        if name in self.values or name in self.app.fixtures:
            raise ValueError(f"Key {name} already exists in the context")
        self.values[name] = value

    def is_settled(self, asleep: AbstractSet[asyncio.Task[Any]] = frozenset()) -> bool:
        """Return True if nothing is to be done before simulated time moves. The tasks *asleep* wait for that."""
        if self.heartbeats or (self._running and self._worker is None):
            return False
        return self._worker is None or self._worker.is_settled(asleep)

    def unsettled(self, asleep: AbstractSet[asyncio.Task[Any]] = frozenset()) -> list[str]:
        """Return what simulated time waits for, one line each: the runs, or else what does not answer."""
        if self._running and self._worker is None:
            return ["the fixtures are not set up yet"]
        runs = [] if self._worker is None else self._worker.unsettled(asleep)
        return runs or ["no handler runs: the backend does not answer"]

    async def declare_tasks(self) -> None:
        """
        Store the declared tasks, if they differ from the stored ones.

        If the instances of a template are stored in a different number of partitions, only that template is refused: this
        process neither claims nor schedules its instances.
        """
        rules = {}
        for task in self.app.tasks.values():
            key = Key(Partition(self.realm, task.name), task.name)
            if task.kind is Kind.STATIC:
                spec = task.own_spec(self.realm)
                assert spec.policies is not None
                self._warn_if_over(task, spec)
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
        """Read the resources of the templates once. `following_templates` does so periodically. Raises StoreError."""
        await self._templates.read()

    @contextlib.asynccontextmanager
    async def following_templates(self) -> AsyncIterator[None]:
        """
        Read the templates periodically during the block, so that a process that only schedules picks up edits, too.

        Do nothing in simulated time: an edit in real time could be noticed at any simulated moment.
        """
        if isinstance(self.clock, SimulatedTime):
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
        if not self.app.outcome_listeners or isinstance(self.clock, SimulatedTime):
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
        options that override those of the template. Without *force*, a running instance raises TaskLockedException, and
        an update keeps the earlier of the old and the new next time. With *force* everything is overwritten, and a
        running handler loses its lease. A time in the past is due immediately.
        """
        return await self._instances.schedule(task, instance_name, options, force=force)

    async def unschedule_task(self, task: Task, instance_name: str | None = None) -> None:
        """
        Remove an instance, if it exists. A run in progress loses its lease.

        *task* is the template, with *instance_name*, or the instance itself. A static task is removed until the next start.
        """
        await self._instances.unschedule(task, instance_name)

    async def get_task(self, task: Task, instance_name: str | None = None) -> TaskState | None:
        """Return the state of an instance or of a static task; None if it does not exist."""
        return await self._instances.state(task, instance_name)

    def schedule_many(
        self,
        task: Task,
        items: Iterable[tuple[str, Mapping[str, Any]]] | AsyncIterable[tuple[str, Mapping[str, Any]]],
        force: bool = False,
    ) -> AsyncIterator[InstanceResult]:
        """
        Create or update any number of instances, like `schedule_task`, and yield a result for each.

        *items* are pairs of a name and options. They are read as a stream and written in batches; results have the order
        of the items. An invalid or failed item affects only the `error` of its own result. Nothing is done unless the
        results are iterated over.
        """
        return self._instances.schedule_many(task, items, force=force)

    def unschedule_many(
        self, task: Task, names: Iterable[str] | AsyncIterable[str]
    ) -> AsyncIterator[InstanceResult]:
        """Remove any number of instances, as a stream like `schedule_many`."""
        return self._instances.unschedule_many(task, names)

    async def list_tasks(
        self,
        task: Task,
        limit: int | None = None,
        continuation_token: ContinuationToken | None = None,
    ) -> ListTasksResponse:
        """
        Return a page of at most *limit* instances of *task*, by default `batch_size`.

        Following the tokens to the end returns each instance that exists throughout exactly once.
        """
        return await self._instances.page(task, limit, continuation_token)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _warn_if_over(self, task: Task, spec: Spec) -> None:
        try:
            check_ahead(spec.schedule, self.clock.now())
        except ValueError as error:
            # No reason not to start: its schedule may have ended after the module was written.
            logger.warning("a task has no further due time: %s", error, extra={"task": task.name})

    async def _work(self) -> None:
        tasks = list(self.app.tasks.values())
        registrations = [
            TaskRegistration(task, self.realm, self._context_of, self.app.middlewares, self._templates)
            for task in tasks
        ]
        membership = self._membership()
        worker = Worker(
            ledger=self.ledger,
            clock=self.clock,
            registrations=registrations,
            settings=self._settings,
            renewal_store=self._renewal_store,
            membership=membership,
            assignment=None if membership is None else self._assignment(),
            listeners=self.app.listeners,
        )
        self._worker = worker
        if self._shut_down:
            worker.drain()
        loop = asyncio.get_running_loop()

        def poll_soon() -> None:
            loop.call_soon_threadsafe(worker.poll_soon)

        def refusals_changed() -> None:
            if membership is not None:
                membership.refuse(self._templates.refused)
            worker.poll_soon()

        for task in tasks:
            task.on_polled_changed.add(poll_soon)
        self._templates.refusals_changed = refusals_changed
        try:
            async with self._following_tasks():
                self.started.set()
                await worker.run()
        finally:
            self._templates.refusals_changed = None
            for task in tasks:
                task.on_polled_changed.discard(poll_soon)

    def _registered(self, realm: str, task: str) -> None:
        for listener in self.app.outcome_listeners:
            listener.registered(realm, task)

    def _lost(self, realm: str, task: str) -> None:
        known = self.app.tasks.get(task)
        if known is not None and known.kind is not Kind.HANDLER:  # declared tasks are never lost
            return
        for listener in self.app.outcome_listeners:
            listener.lost(realm, task)

    def _ended(self, realm: str, task: str, outcome: Outcome, number: int) -> None:
        for listener in self.app.outcome_listeners:
            listener.ended(realm, task, outcome, number)

    def _context_of(self, registration: TaskRegistration, occurrence: Occurrence) -> Context:
        return Context(self, registration, occurrence)

    def _membership(self) -> Membership | None:
        """Return the membership of this worker; None on a private backend or in simulated time."""
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

    def _assignment(self) -> PartitionAssignment:
        return PartitionAssignment(self.ledger.store, self.clock, self.realm, self._settings.holder)

    def __getattr__(self, name: str) -> Any:
        """Return the value of a fixture that was set up before."""
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
        # Resumed, not thrown at: the code after the yield must run even if the app failed.
        if await anext(generator, _OVER) is not _OVER:
            raise RuntimeError(f"The fixture {name} yielded more than once")


_OVER: Final = object()


def refuse_field(name: str) -> None:
    if name in FIELDS:
        raise ValueError(f"Cannot use reserved name {name}: it is a field of Context")


def _holder() -> str:
    """Return a name for this process. It has a random part, since every container has a process 1."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
