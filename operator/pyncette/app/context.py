"""The context of a run, which handlers receive, and the app context: an application on an open backend."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
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
from pyncette.core.record import Key, Outcome, Partition
from pyncette.core.schedule import check_ahead
from pyncette.core.spec import Spec
from pyncette.errors import LeaseLostException, StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.service import AHEAD, Figures, Listener, OutcomeListener, Worker, WorkerSettings
from pyncette.worker.stored_tasks import follow_tasks

logger = logging.getLogger(__name__)


class Context:
    """
    What a handler is called with: what runs, for when, with which arguments.

    The value of a fixture, and what `add_to_context` added, is an attribute, too. Everything is worked out when it is
    first asked for.
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
            logger.warning("a heartbeat did not reach the backend: %s", error, extra=occurrence.log_fields())
        if not held:
            raise LeaseLostException(self.task)

    def __getattr__(self, name: str) -> Any:
        """Look for what fixtures and `add_to_context` provide, once nothing else has that name."""
        if name != "_app_context":  # not yet there while a context is being copied
            values = self._app_context.values
            if name in values:
                return values[name]
        raise AttributeError(f"The context has no {name!r}: neither a fixture nor add_to_context provides it")

    def __repr__(self) -> str:
        return f"<Context of {self._held.record.key}, due at {self.scheduled_at.isoformat()}>"


FIELDS: Final = frozenset(dir(Context)) | {"_app_context", "_registration", "_occurrence", "_held"}
"""What a context has anyway, so no fixture can have its name."""


NextFunc: TypeAlias = Callable[[], Awaitable[None]]
"""What a middleware awaits for the rest of the run."""

MiddlewareFunc: TypeAlias = Callable[[Context, NextFunc], Awaitable[None]]
"""Called around every run."""

TaskFunc: TypeAlias = Callable[[Context], Awaitable[None]]
"""A handler."""

FixtureFunc: TypeAlias = Callable[["PyncetteContext"], AsyncIterator[Any]]
"""An async generator function that yields once: what it yields is the fixture's value."""


@runtime_checkable
class PretendedTime(Protocol):
    """A clock that waits for those who have joined, before it moves."""

    def join(self, participant: PyncetteContext) -> None: ...

    def leave(self, participant: PyncetteContext) -> None: ...


class Declarations(Protocol):
    """What an app has declared: the part of `Pyncette` that running it needs."""

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
        """What fixtures yielded, and what was added: the further attributes of each `Context`."""
        self.heartbeats: set[asyncio.Task[None]] = set()
        """Renewals on their way that no handler waits for."""
        self._settings = WorkerSettings(
            _holder(),
            slots,
            app.batch_size,
            app.poll_interval // A_MICROSECOND,
            0 if isinstance(self.clock, PretendedTime) else AHEAD,
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
        if isinstance(self.clock, PretendedTime):
            self.clock.join(self)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name, fixture in self.app.fixtures.items():
                    self.values[name] = await stack.enter_async_context(_set_up(name, fixture, self))
                await self._work()
        finally:
            if isinstance(self.clock, PretendedTime):
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
        refuse_field(name)
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
        if isinstance(self.clock, PretendedTime):
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
        if not self.app.outcome_listeners or isinstance(self.clock, PretendedTime):
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
            task.told_if_enabled.add(poll_soon)
        self._templates.refusals_changed = refusals_changed
        try:
            async with self._following_tasks():
                await worker.run()
        finally:
            self._templates.refusals_changed = None
            for task in tasks:
                task.told_if_enabled.discard(poll_soon)

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

    def _context_of(self, registration: TaskRegistration, occurrence: Occurrence) -> Context:
        return Context(self, registration, occurrence)

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

    def _assignment(self) -> PartitionAssignment:
        return PartitionAssignment(self.ledger.store, self.clock, self.realm, self._settings.holder)

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


def refuse_field(name: str) -> None:
    if name in FIELDS:
        raise ValueError(f"Cannot use reserved name {name}: it is a field of Context")


def _holder() -> str:
    """A name for this process: who runs it, and something random, since processes in containers are all number 1."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
