"""An application on an open backend: what an app context runs, schedules and shows with."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from pyncette.app.defaults import Defaults
from pyncette.app.handlers import Call, Middleware
from pyncette.app.instances import Instances, declaration, first_declaration, refusal_if_over
from pyncette.app.modes import A_MICROSECOND, datetime_of
from pyncette.app.registration import ContextOf, TaskRegistration
from pyncette.app.tasks import Kind, Task, schema_of
from pyncette.app.templates import Templates
from pyncette.coordination.argument_schemas import publication, schema_key
from pyncette.coordination.assignment import PartitionAssignment
from pyncette.coordination.members import Member, Membership
from pyncette.coordination.permit_records import PERMITS_REALM, permit_partition, remove_permits
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Key, Outcome, Partition
from pyncette.core.spec import Policies, Spec
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.worker.service import AHEAD, Figures, Listener, OutcomeListener, Worker, WorkerSettings
from pyncette.worker.stored_tasks import follow_tasks

logger = naming_logger(__name__)

Fixture: TypeAlias = Callable[[Any], AsyncIterator[Any]]
"""A fixture, called with the app context."""

ContextsOf: TypeAlias = Callable[[Task], ContextOf]
"""Returns the function that makes the contexts of a task."""


@runtime_checkable
class SimulatedTime(Protocol):
    """A simulated clock that waits for its participants before it moves."""

    def join(self, participant: Runtime) -> None: ...

    def leave(self, participant: Runtime) -> None: ...


class Declarations(Protocol):
    """The declarations of an app: the part of `Pyncette` that its runtime needs."""

    tasks: dict[str, Task]
    fixtures: dict[str, Fixture]
    middlewares: list[Middleware]
    defaults: Defaults
    listeners: list[Listener]
    outcome_listeners: list[OutcomeListener]
    batch_size: int
    poll_interval: datetime.timedelta

    def _call_of(self, task: Task) -> Call: ...


class Runtime:
    """The declarations of an app on an open backend, and their worker while they run."""

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
        self.instances = Instances(ledger, self._templates, realm, app.batch_size)
        self._created_at = self.clock.now()
        self._worker: Worker | None = None
        self._running = False
        self._shut_down = False
        if app.outcome_listeners:
            ledger.on_ended(self._ended)
            for task in app.tasks.values():
                if task._kind is not Kind.HANDLER:  # the tasks of a handler come from resources
                    self._registered(realm, task.name)

    async def run(self, app_context: Any, contexts_of: ContextsOf) -> None:
        """Set up the fixtures with *app_context*, run due tasks until `shutdown`, and tear the fixtures down."""
        if self._running:
            raise RuntimeError("This app context is already running")
        self._running = True
        if isinstance(self.clock, SimulatedTime):
            self.clock.join(self)
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name, fixture in self.app.fixtures.items():
                    self.values[name] = await stack.enter_async_context(_set_up(name, fixture, app_context))
                count = len(self.app.tasks)
                tasks = "1 task" if count == 1 else f"{count} tasks"
                logger.info("running %s with the %s defaults", tasks, self.app.defaults.name)
                await self._work(contexts_of)
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
    def abandoned_runs(self) -> int:
        """How many plain functions still run in threads although `run` has ended."""
        return 0 if self._worker is None else self._worker.abandoned

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the event loop last ran: a few, unless it is blocked. Can be read from any thread."""
        return 0.0 if self._worker is None else self._worker.stalled_seconds

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
        Store the declared tasks, and the schemas of their arguments, if they differ from the stored ones.

        If the instances of a template are stored in a different number of partitions, only that template is refused: this
        process neither claims nor schedules its instances.
        """
        rules = {}
        for task in self.app.tasks.values():
            key = Key(Partition(self.realm, task.name), task.name)
            if task._kind is Kind.STATIC:
                spec = task._own_spec()
                assert spec.policies is not None
                self._warn_if_over(task, spec, spec.policies)
                rules[key] = declaration(key, spec, spec.policies)
            elif task._kind is Kind.TEMPLATE:
                spec = Spec(partitions=task.partition_count)
                rules[key] = first_declaration(key, spec, task._policies)
        for task in self.app.tasks.values():
            if task._kind in {Kind.TEMPLATE, Kind.HANDLER}:  # a manifest can name it
                key = schema_key(self.realm, task.name)
                rules[key] = publication(self.realm, task.name, schema_of(task))
        await self.ledger.apply(rules)
        await self.read_templates()
        await self._remove_permits()

    async def _remove_permits(self) -> None:
        """Remove the permits of tasks that no longer have a limit. A worker removes those above a lower limit."""
        store = self.ledger.store
        unlimited = {
            permit_partition(self.realm, task.name, task.name): task.name
            for task in self.app.tasks.values()
            if task._kind is not Kind.HANDLER and not self._templates.common(task).policies.max_concurrent
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

    def _warn_if_over(self, task: Task, spec: Spec, policies: Policies) -> None:
        error = refusal_if_over(spec, policies, self.clock.now())
        if error is not None:
            # No reason not to start: its schedule may have ended after the module was written.
            logger.warning("a task has no further due time: %s", error, extra={"task": task.name})

    async def _work(self, contexts_of: ContextsOf) -> None:
        tasks = list(self.app.tasks.values())
        registrations = [
            TaskRegistration(task, self.realm, contexts_of(task), self.app._call_of(task), self._templates)
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
            watches_loop=not isinstance(self.clock, SimulatedTime),
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
            task._on_polled_changed.add(poll_soon)
        self._templates.refusals_changed = refusals_changed
        try:
            async with self._following_tasks():
                self.started.set()
                await worker.run()
        finally:
            self._templates.refusals_changed = None
            for task in tasks:
                task._on_polled_changed.discard(poll_soon)

    def _registered(self, realm: str, task: str) -> None:
        for listener in self.app.outcome_listeners:
            listener.registered(realm, task)

    def _lost(self, realm: str, task: str) -> None:
        known = self.app.tasks.get(task)
        if known is not None and known._kind is not Kind.HANDLER:  # declared tasks are never lost
            return
        for listener in self.app.outcome_listeners:
            listener.lost(realm, task)

    def _ended(self, realm: str, task: str, outcome: Outcome, number: int) -> None:
        for listener in self.app.outcome_listeners:
            listener.ended(realm, task, outcome, number)

    def _membership(self) -> Membership | None:
        """Return the membership of this worker; None on a private backend or in simulated time."""
        if self._renewal_store is None:
            return None
        holder, slots, *_ = self._settings
        counts = {
            task.name: task.partition_count for task in self.app.tasks.values() if task._kind is Kind.TEMPLATE
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


@contextlib.asynccontextmanager
async def _set_up(name: str, fixture: Fixture, app_context: Any) -> AsyncIterator[Any]:
    generator = fixture(app_context)
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


def _holder() -> str:
    """Return a name for this process. It has a random part, since every container has a process 1."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
