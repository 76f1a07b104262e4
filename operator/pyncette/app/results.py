"""The results of an app context: states of instances, pages of them, and results of bulk calls."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType

from pyncette.app.tasks import Task

Lease = NewType("Lease", str)
"""The holder of a lease, as in `TaskState.locked_by`."""

ContinuationToken = NewType("ContinuationToken", str)
"""The start of the next page of `list_tasks`. It can be stored and sent, and does not expire. Its format is private."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """The state of an instance, or of a task with a schedule of its own."""

    task: Task
    """The stored instance; its `extra_args` are the arguments of its next run."""
    scheduled_at: datetime.datetime | None
    """The next occurrence, or the running one. None: there is no further one, or it is suspended."""
    locked_until: datetime.datetime | None
    """The end of the lease if it is running, else None."""
    locked_by: Lease | None
    """The worker that holds the lease if it is running, else None."""


@dataclass(frozen=True, slots=True)
class ListTasksResponse:
    """A page of instances."""

    tasks: Sequence[TaskState]
    continuation_token: ContinuationToken | None
    """The argument for the next call; None: this is the last page."""


class InstanceResult(NamedTuple):
    """The result of one item of `schedule_many` or `unschedule_many`."""

    name: str
    task: Task | None
    """The instance, if it was scheduled."""
    error: Exception | None
    """The error if the item failed or its result is unknown; None if it succeeded."""
