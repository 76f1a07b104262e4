"""The context of a run, which handlers receive, and the app context: an application on an open backend."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, Unpack, cast, overload

from pyncette.app.instance_edits import edit_of
from pyncette.app.modes import datetime_of
from pyncette.app.options import arguments_of
from pyncette.app.registration import ContextOf, TaskRegistration
from pyncette.app.results import ContinuationToken, InstanceResult, ListTasksResponse, TaskState
from pyncette.app.runtime import Runtime
from pyncette.app.signatures import context_hint
from pyncette.app.tasks import P, Task
from pyncette.app.typed_options import InstanceOptions
from pyncette.core.accounting import idempotency_key, run_id
from pyncette.core.log_messages import naming_logger
from pyncette.errors import LeaseLostException, StoreUnavailableError
from pyncette.worker.occurrence import Occurrence

logger = naming_logger(__name__)


class Context:
    """
    The argument of a handler: the task, its due time and its arguments.

    The values of fixtures and of `add_to_context` are attributes, too. A subclass can give them types, as in
    `class Mine(Context): db: Pool`. A handler whose first parameter names it receives one. It must not define `__init__`.
    """

    _blocks: ClassVar = False
    """True for the contexts of plain functions, which are made from another one when the function is called."""

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

    if not TYPE_CHECKING:  # so that they find misspelled attributes

        def __getattr__(self, name: str) -> Any:
            """Return the value of a fixture or of `add_to_context`."""
            if name != "_app_context":  # not yet there while a context is being copied
                values = runtime_of(self._app_context).values
                if name in values:
                    return values[name]
            raise AttributeError(
                f"The context has no {name!r}: neither a fixture nor add_to_context provides it"
            )

    def __repr__(self) -> str:
        return f"<Context of {self._held.record.key}, due at {self.scheduled_at.isoformat()}>"


FIELDS: Final = frozenset(dir(Context)) | {"_app_context", "_registration", "_occurrence", "_held"}
"""The attributes of every context, which fixtures cannot override."""


NextFunc: TypeAlias = Callable[[], Awaitable[None]]
"""The function that a middleware awaits to run the rest."""

MiddlewareFunc: TypeAlias = Callable[[Context, NextFunc], Awaitable[None]]
"""A middleware."""

FixtureFunc: TypeAlias = Callable[["PyncetteContext"], AsyncIterator[Any]]
"""An async generator function that yields the value of the fixture once."""


class PyncetteContext:
    """An application on an open backend."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    # --- Running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """
        Set up the fixtures, run due tasks until `shutdown`, and tear the fixtures down.

        After `shutdown` running handlers finish. If this is cancelled, they are cancelled too, and their occurrences stay
        due.
        """
        await self._runtime.run(self, self._contexts_of)

    def shutdown(self, grace: datetime.timedelta | None = None) -> None:
        """End `run` when the running handlers have returned. Cancel them after *grace*, if set."""
        self._runtime.shutdown(grace)

    @property
    def last_tick(self) -> datetime.datetime:
        """The end of the last poll, in UTC; before the first, the creation of this. Waiting for a due time counts as polling."""
        return self._runtime.last_tick

    @property
    def ready(self) -> bool:
        """True if it polls and the backend answered the last request."""
        return self._runtime.ready

    @property
    def abandoned_runs(self) -> int:
        """How many plain functions still run in threads although `run` has ended. Their leases expire."""
        return self._runtime.abandoned_runs

    def add_to_context(self, name: str, value: Any) -> None:
        """Make *value* available as `context.<name>`. Raises ValueError for a name that is taken."""
        refuse_field(name)
        if name in self._runtime.values or name in self._runtime.app.fixtures:
            raise ValueError(f"Key {name} already exists in the context")
        self._runtime.values[name] = value

    # --- Instances ---------------------------------------------------------------------------------------------------

    @overload
    async def schedule_task(
        self,
        task: Task[P],
        instance_name: str,
        force: bool = False,
        *,
        schedule: str,
        timezone: str | None = None,
        keep_sooner: bool = ...,
        **options: Unpack[InstanceOptions],
    ) -> Task[P]:
        """Create or update an instance with a cron *schedule*, in its *timezone* (UTC)."""

    @overload
    async def schedule_task(
        self,
        task: Task[P],
        instance_name: str,
        force: bool = False,
        *,
        interval: datetime.timedelta,
        keep_sooner: bool = ...,
        **options: Unpack[InstanceOptions],
    ) -> Task[P]:
        """Create or update an instance that runs every *interval*, counted from now."""

    @overload
    async def schedule_task(
        self,
        task: Task[P],
        instance_name: str,
        force: bool = False,
        *,
        execute_at: datetime.datetime,
        keep_sooner: bool = ...,
        **options: Unpack[InstanceOptions],
    ) -> Task[P]:
        """Create or update an instance that runs once, at *execute_at*."""

    @overload
    async def schedule_task(
        self,
        task: Task[P],
        instance_name: str,
        force: bool = False,
        *,
        keep_sooner: bool = ...,
        **options: Unpack[InstanceOptions],
    ) -> Task[P]:
        """Create or update an instance with the schedule of its template."""

    async def schedule_task(
        self, task: Task[P], instance_name: str, force: bool = False, **options: Any
    ) -> Task[P]:
        """
        Create or update an instance of a dynamic task, and return it.

        *options* are a schedule (exactly one of `schedule`, `interval` and `execute_at`), `timezone`, `args`, and options
        that override those of the template. A time in the past is due immediately. A running instance raises
        TaskLockedException, unless *force* overwrites everything: then a running handler loses its lease.

        An update replaces the next time, or with `keep_sooner` keeps the earlier of the old and the new one. With the
        defaults of 1.x it always keeps the earlier one, and all other keywords are arguments.
        """
        edit = edit_of(self._runtime.app.defaults, options, force=force)
        scheduled = await self._runtime.instances.schedule(task, instance_name, options, edit)
        return cast("Task[P]", scheduled)

    async def unschedule_task(self, task: Task, instance_name: str | None = None) -> None:
        """
        Remove an instance, if it exists. A run in progress loses its lease.

        *task* is the template, with *instance_name*, or the instance itself. A static task is removed until the next start.
        """
        await self._runtime.instances.unschedule(task, instance_name)

    async def get_task(self, task: Task, instance_name: str | None = None) -> TaskState | None:
        """Return the state of an instance or of a static task; None if it does not exist."""
        return await self._runtime.instances.state(task, instance_name)

    def schedule_many(
        self,
        task: Task,
        items: Iterable[tuple[str, Mapping[str, Any]]] | AsyncIterable[tuple[str, Mapping[str, Any]]],
        force: bool = False,
        *,
        keep_sooner: bool | None = None,
    ) -> AsyncIterator[InstanceResult]:
        """
        Create or update any number of instances, like `schedule_task`, and yield a result for each.

        *items* are pairs of a name and options. They are read as a stream and written in batches; results have the order
        of the items. An invalid or failed item affects only the `error` of its own result. Nothing is done unless the
        results are iterated over.
        """
        defaults = self._runtime.app.defaults
        if keep_sooner is not None:
            defaults = defaults._replace(keep_sooner=keep_sooner)
        return self._runtime.instances.schedule_many(task, items, edit_of(defaults, {}, force=force))

    def unschedule_many(
        self, task: Task, names: Iterable[str] | AsyncIterable[str]
    ) -> AsyncIterator[InstanceResult]:
        """Remove any number of instances, as a stream like `schedule_many`."""
        return self._runtime.instances.unschedule_many(task, names)

    async def list_tasks(
        self,
        task: Task,
        limit: int | None = None,
        continuation_token: ContinuationToken | None = None,
        *,
        prefix: str = "",
    ) -> ListTasksResponse:
        """
        Return a page of at most *limit* instances of *task*, by default `batch_size`.

        Following the tokens to the end returns each instance that exists throughout exactly once. With *prefix*, the pages
        hold the instances whose names begin with it, and nothing else is read: list one user's with names like `ada/17`.
        """
        return await self._runtime.instances.page(task, limit, continuation_token, prefix)

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _contexts_of(self, task: Task) -> ContextOf:
        """Return what makes the contexts of *task*: of the class that the first parameter of its handler names."""
        named = context_hint(task.task_func)
        is_context = isinstance(named, type) and issubclass(named, Context) and not named._blocks  # noqa: SLF001 - a class attribute of this module
        return partial(named if is_context else Context, self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return the value of a fixture that was set up before."""
            runtime = self.__dict__.get("_runtime")
            if runtime is not None and name in runtime.values:
                return runtime.values[name]
            raise AttributeError(f"The app context has no {name!r}: no fixture provides it yet")


def runtime_of(app_context: PyncetteContext) -> Runtime:
    """Return the runtime of *app_context*, for other modules of this package: it is not for task modules."""
    return app_context._runtime  # noqa: SLF001 - the public class shows public members only


def refuse_field(name: str) -> None:
    if name in FIELDS:
        raise ValueError(f"Cannot use reserved name {name}: it is a field of Context")
