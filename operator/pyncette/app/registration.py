"""Binds a declared task to a running app, so that a worker can claim and run it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from pyncette.app.handlers import Call
from pyncette.app.tasks import Task
from pyncette.app.templates import Templates
from pyncette.core.record import Partition, Record
from pyncette.core.spec import Policies
from pyncette.worker.occurrence import Occurrence

ContextOf: TypeAlias = Callable[["TaskRegistration", Occurrence], Any]
"""Returns the context of a run."""


class TaskRegistration:
    """The `Registration` of a task, for a worker."""

    def __init__(
        self,
        task: Task,
        realm: str,
        context_of: ContextOf,
        call: Call,
        templates: Templates,
    ) -> None:
        self.task = task
        self._context_of = context_of
        self._realm = realm
        self._polled: Sequence[int] = ()
        self._partitions: Sequence[Partition] = ()
        self._call = call
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
