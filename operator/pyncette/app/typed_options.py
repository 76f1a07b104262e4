"""
The options of tasks and instances, as type checkers and editors see them.

Each overload of `task`, `dynamic_task`, `partitioned_task`, `schedule_task` and `instantiate` has one kind of schedule, and
shares the rest from here. An option that is added to `RunOptions` is an option of all of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from pyncette.app.modes import ExecutionMode, FailureMode
from pyncette.app.options import PartitionSelector


class RunOptions(TypedDict, total=False):
    """The options of a task or an instance for its runs. Those of a template are defaults of its instances."""

    fast_forward: bool
    """After a pause, run one of the missed occurrences and continue from now, instead of running each."""
    failure_mode: FailureMode
    """What follows if the handler raised. It replaces the retries of safe defaults."""
    execution_mode: ExecutionMode
    lease_duration: datetime.timedelta
    """How long only this run has the instance, unless it is renewed; by default one minute."""
    heartbeat: Literal["cooperative", "automatic"]
    """Who renews the lease of a run: the handler, or the worker."""


class InstanceOptions(RunOptions, total=False):
    """The options of an instance beside its schedule."""

    args: Mapping[str, Any]
    """The arguments, by name: JSON values, or values of the types in the signature of the handler."""


class TaskOptions(InstanceOptions, total=False):
    """The options of a task beside its schedule."""

    name: str
    """The name of the task in the backend, in logs and metrics; by default that of the function."""
    enabled: bool
    """False: this process does not run it."""
    concurrency_limit: int | None
    """The maximum number of concurrent runs in this process."""
    max_concurrent_runs: int | None
    """The maximum number of concurrent runs on all workers together, up to 10,000."""


class PartitionedTaskOptions(TaskOptions, total=False):
    """The options of a partitioned task beside its schedule."""

    partition_count: Required[int]
    """The number of partitions. It is stored, and can change only while there are no instances."""
    partition_selector: PartitionSelector | None
    """Returns the partition for the count and the name of an instance; by default a hash of the name."""
    enabled_partitions: Sequence[int] | Literal["shared"] | None
    """The partitions that this process polls; "shared" assigns them to the running workers."""
