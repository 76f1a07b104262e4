"""The types of a task module: the context of a run, modes, and states of instances."""

from pyncette.app.blocking import BlockingContext, BlockingPyncetteContext, TaskFunc
from pyncette.app.context import Context, FixtureFunc, MiddlewareFunc, NextFunc
from pyncette.app.modes import ExecutionMode, FailureMode, ResultType
from pyncette.app.options import PartitionSelector
from pyncette.app.results import ContinuationToken, InstanceResult, Lease, ListTasksResponse, TaskState

__all__ = [
    "BlockingContext",
    "BlockingPyncetteContext",
    "Context",
    "ContinuationToken",
    "ExecutionMode",
    "FailureMode",
    "FixtureFunc",
    "InstanceResult",
    "Lease",
    "ListTasksResponse",
    "MiddlewareFunc",
    "NextFunc",
    "PartitionSelector",
    "ResultType",
    "TaskFunc",
    "TaskState",
]
