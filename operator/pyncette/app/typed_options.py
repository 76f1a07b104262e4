"""
The options of tasks and instances, as type checkers and editors see them.

Each overload of `task`, `dynamic_task`, `partitioned_task`, `schedule_task` and `instantiate` has one kind of schedule, and
shares the rest from here. An option that is added to `RunOptions` is an option of all of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from pyncette.app.behaviour import ExhaustionName, HeartbeatName, MissedName, OverlapName
from pyncette.app.modes import ExecutionMode, FailureMode
from pyncette.app.options import PartitionSelector
from pyncette.app.retries import Retry


class RunOptions(TypedDict, total=False):
    """The options of a task or an instance for its runs. Those of a template are defaults of its instances."""

    fast_forward: bool
    """After a pause, run one of the missed occurrences and continue from now, instead of running each."""
    failure_mode: FailureMode
    """What follows if the handler raised. It replaces the retries of safe defaults."""
    execution_mode: ExecutionMode
    lease_duration: datetime.timedelta
    """How long only this run has the instance, unless it is renewed; by default one minute."""
    heartbeat: HeartbeatName
    """Who renews the lease of a run: the handler, or the worker."""
    retry: Retry
    """How often and when a failed attempt is repeated. It replaces `failure_mode`."""
    on_exhausted: ExhaustionName
    """What follows when the attempts are exhausted: the next occurrence, a suspension, or that and a dead letter."""
    timeout: datetime.timedelta | None
    """How long one run may take. Then it is cancelled, and counts as a TimeoutError."""
    starting_deadline: datetime.timedelta | None
    """How late an occurrence may start. Later, it is skipped."""
    missed: MissedName
    """Which of several missed occurrences run. It replaces `fast_forward`."""
    max_catch_up_runs: int | None
    """With `missed="all"`, how many of them run: the newest."""
    overlap: OverlapName
    """What happens to an occurrence that is due while the one before it runs: it waits, runs too, or replaces that."""
    jitter: datetime.timedelta
    """The upper bound of a delay that is hashed from the name, and always the same for it."""
    not_before: datetime.datetime | None
    """Occurrences before this instant do not count."""
    not_after: datetime.datetime | None
    """Occurrences after this instant do not count. An instance is removed after the last one."""
    suspend: bool
    """True: nothing new starts, until it is False again."""
    successful_runs_history_limit: int | None
    """How many runs that succeeded are kept; by default 3 of a task, and none of an instance."""
    failed_runs_history_limit: int | None
    """How many other outcomes are kept; by default 10 of a task, and none of an instance."""


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
