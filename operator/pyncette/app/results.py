"""What calls of an app context return: how instances stand, pages of them, and results of bulk calls."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType

from pyncette.app.tasks import Task

Lease = NewType("Lease", str)
"""Who holds a lease, as `TaskState.locked_by` names it."""

ContinuationToken = NewType("ContinuationToken", str)
"""Where the next page of `list_tasks` begins. It may be stored and sent, and stays good; what it says is private."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """How an instance, or a task with a schedule of its own, stands."""

    task: Task
    """The instance as it is stored; its `extra_args` are the arguments of its next run."""
    scheduled_at: datetime.datetime | None
    """The next occurrence, or the one that runs now. None: there is no further one."""
    locked_until: datetime.datetime | None
    """While it runs: when its lease ends, unless it is renewed. Else None."""
    locked_by: Lease | None
    """While it runs: the worker that holds its lease. Else None."""


@dataclass(frozen=True, slots=True)
class ListTasksResponse:
    """A page of instances."""

    tasks: Sequence[TaskState]
    continuation_token: ContinuationToken | None
    """To be given to the next call; None: this was the last page."""


class InstanceResult(NamedTuple):
    """What became of one item of `schedule_many` or `unschedule_many`."""

    name: str
    task: Task | None
    """The instance, if it was scheduled."""
    error: Exception | None
    """Why nothing, or nothing certain, was done for this item; None if all is well."""
