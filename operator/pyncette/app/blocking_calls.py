"""The calls on instances that block: for plain functions in threads, and for programs without an event loop."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar, Unpack, overload

from pyncette.app.context import PyncetteContext
from pyncette.app.results import ContinuationToken, InstanceResult, ListTasksResponse, TaskState
from pyncette.app.tasks import P, Task
from pyncette.app.typed_options import InstanceOptions

CHUNK: Final = 500
"""Items of `schedule_many` that are written together, and whose results follow together."""

_T = TypeVar("_T")
_Item = TypeVar("_Item")


class BlockingCalls(ABC):
    """The calls on instances of a `PyncetteContext`, blocking: with the same names, arguments, results and errors."""

    @overload
    def schedule_task(
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
    def schedule_task(
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
    def schedule_task(
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
    def schedule_task(
        self,
        task: Task[P],
        instance_name: str,
        force: bool = False,
        *,
        keep_sooner: bool = ...,
        **options: Unpack[InstanceOptions],
    ) -> Task[P]:
        """Create or update an instance with the schedule of its template."""

    def schedule_task(
        self, task: Task[P], instance_name: str, force: bool = False, **options: Any
    ) -> Task[P]:
        """Create or update an instance of a dynamic task, and return it, like `PyncetteContext.schedule_task`."""
        return self._wait_for(lambda context: context.schedule_task(task, instance_name, force, **options))

    def unschedule_task(self, task: Task, instance_name: str | None = None) -> None:
        """Remove an instance, if it exists. A run in progress loses its lease."""
        return self._wait_for(lambda context: context.unschedule_task(task, instance_name))

    def get_task(self, task: Task, instance_name: str | None = None) -> TaskState | None:
        """Return the state of an instance or of a static task; None if it does not exist."""
        return self._wait_for(lambda context: context.get_task(task, instance_name))

    def list_tasks(
        self,
        task: Task,
        limit: int | None = None,
        continuation_token: ContinuationToken | None = None,
        *,
        prefix: str = "",
    ) -> ListTasksResponse:
        """Return a page of at most *limit* instances of *task*, like `PyncetteContext.list_tasks`."""
        return self._wait_for(
            lambda context: context.list_tasks(task, limit, continuation_token, prefix=prefix)
        )

    def schedule_many(
        self,
        task: Task,
        items: Iterable[tuple[str, Mapping[str, Any]]],
        force: bool = False,
        *,
        keep_sooner: bool | None = None,
    ) -> Iterator[InstanceResult]:
        """
        Create or update any number of instances, given as pairs of a name and options, and yield a result for each.

        *items* are read in the thread of the caller, 500 at a time, so they may come from a function that blocks. Nothing
        is done unless the results are iterated over.
        """
        return self._stream(
            items,
            lambda context, chunk: context.schedule_many(task, chunk, force, keep_sooner=keep_sooner),
        )

    def unschedule_many(self, task: Task, names: Iterable[str]) -> Iterator[InstanceResult]:
        """Remove any number of instances, as a stream like `schedule_many`."""
        return self._stream(names, lambda context, chunk: context.unschedule_many(task, chunk))

    # --- Inside ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _wait_for(self, call: Callable[[PyncetteContext], Coroutine[Any, Any, _T]]) -> _T:
        """Have an event loop run *call*, and return its result."""

    def _stream(
        self,
        items: Iterable[_Item],
        write: Callable[[PyncetteContext, Iterable[_Item]], AsyncIterator[InstanceResult]],
    ) -> Iterator[InstanceResult]:
        async def written(chunk: list[_Item], context: PyncetteContext) -> list[InstanceResult]:
            return [result async for result in write(context, chunk)]

        def results() -> Iterator[InstanceResult]:
            # Read here and not in the event loop: the connections of Django, for example, belong to a thread.
            source = iter(items)
            while chunk := list(islice(source, CHUNK)):
                yield from self._wait_for(partial(written, chunk))

        # A task that has no instances is an error of this call, not of the first result.
        self._wait_for(partial(written, []))
        return results()
