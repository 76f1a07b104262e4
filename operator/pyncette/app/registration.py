"""Binds a declared task to a running app, so that a worker can claim and run it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

import msgspec

from pyncette.app.handlers import MIDDLEWARE, Handler, Middleware, awaitable
from pyncette.app.signatures import with_arguments
from pyncette.app.tasks import Task
from pyncette.app.templates import Templates
from pyncette.core.record import Partition, Record
from pyncette.core.spec import Policies
from pyncette.worker.occurrence import Occurrence

ContextOf: TypeAlias = Callable[["TaskRegistration", Occurrence], Any]
"""Returns the context of a run."""

Call: TypeAlias = Callable[[Any], Coroutine[Any, Any, None]]


class TaskRegistration:
    """The `Registration` of a task, for a worker."""

    def __init__(
        self,
        task: Task,
        realm: str,
        context_of: ContextOf,
        middlewares: Sequence[Middleware],
        templates: Templates,
    ) -> None:
        self.task = task
        self._context_of = context_of
        self._realm = realm
        self._polled: Sequence[int] = ()
        self._partitions: Sequence[Partition] = ()
        self._call = wrapped(with_arguments(task.task_func, task._arguments, _stored_args), middlewares)
        self._templates = templates

    @property
    def handler(self) -> str:
        return self.task.name

    @property
    def partitions(self) -> Sequence[Partition]:
        if not self.task.enabled or not self._templates.is_served(self.task):
            return ()
        polled = self.task._polled_partitions
        if polled is not self._polled:  # rebuilt only when they are set, since each poll reads them
            self._polled = polled
            self._partitions = [Partition(self._realm, self.task.name, number) for number in polled]
        return self._partitions

    @property
    def policies(self) -> Policies:
        return self._templates.common(self.task).policies

    @property
    def concurrency_limit(self) -> int | None:
        return self.task.concurrency_limit

    @property
    def shared_among(self) -> int:
        return self.task.partition_count if self.task._shares_partitions else 0

    def run(self, occurrence: Occurrence) -> Coroutine[Any, Any, None]:
        return self._call(self._context_of(self, occurrence))

    def retries(self, error: BaseException) -> bool:
        return self.task._retried_errors.include(error)

    def task_for(self, record: Record) -> Task:
        """Return the task of *record*."""
        return self.task._of_record(record, self.policies)


def _stored_args(context: Any) -> msgspec.Raw:
    args: msgspec.Raw = context._held.record.spec.args
    return args


def wrapped(handler: Handler, middlewares: Sequence[Middleware]) -> Call:
    """Return *handler* inside of *middlewares*, the first of which is outermost."""
    call = _as_coroutine(handler)
    for middleware in reversed(middlewares):
        call = _around(middleware, call)
    return call


def _around(middleware: Middleware, inner: Call) -> Call:
    async def call(context: Any) -> None:
        await awaitable(middleware, middleware(context, partial(inner, context)), MIDDLEWARE)

    return call


def _as_coroutine(handler: Handler) -> Call:
    if iscoroutinefunction(handler):
        return handler

    async def call(context: Any) -> None:
        await awaitable(handler, handler(context))

    return call
