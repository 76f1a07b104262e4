"""The behaviour of a task: its options for runs, and the policies that they stand for."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

from pyncette.app.modes import A_MICROSECOND, ExecutionMode, FailureMode, datetime_of
from pyncette.clock import Duration, Instant
from pyncette.core.record import replace
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies, Retry
from pyncette.core.times import instant_of

_Name = TypeVar("_Name", bound=str)
_Value = TypeVar("_Value")

HISTORY_OF_SUCCESSES: Final = 3
HISTORY_OF_OTHERS: Final = 10
"""History rows of a task with a schedule of its own: the defaults of a PyncetteTask."""

HeartbeatName: TypeAlias = Literal["cooperative", "automatic"]
MissedName: TypeAlias = Literal["all", "latest", "skip"]
OverlapName: TypeAlias = Literal["forbid", "allow", "replace"]
ExhaustionName: TypeAlias = Literal["continue", "suspend", "dead_letter"]

HEARTBEATS: Final[dict[HeartbeatName, Heartbeat]] = {
    "cooperative": Heartbeat.COOPERATIVE,
    "automatic": Heartbeat.AUTOMATIC,
}
MISSED: Final[dict[MissedName, Missed]] = {
    "all": Missed.ALL,
    "latest": Missed.LATEST,
    "skip": Missed.SKIP,
}
OVERLAPS: Final[dict[OverlapName, Overlap]] = {
    "forbid": Overlap.FORBID,
    "allow": Overlap.ALLOW,
    "replace": Overlap.REPLACE,
}
EXHAUSTIONS: Final[dict[ExhaustionName, Exhaustion]] = {
    "continue": Exhaustion.CONTINUE,
    "suspend": Exhaustion.SUSPEND,
    "dead_letter": Exhaustion.DEAD_LETTER,
}
"""The names of policies in Python, each with the value that is stored."""


class Behaviour(NamedTuple):
    """The options of a task for its runs. The defaults are those of Pyncette 1.x."""

    fast_forward: bool = False
    failure_mode: FailureMode = FailureMode.NONE
    execution_mode: ExecutionMode = ExecutionMode.AT_LEAST_ONCE
    lease_duration: datetime.timedelta = datetime.timedelta(seconds=60)
    heartbeat: HeartbeatName = "cooperative"
    retry: Retry | None = None
    """The retry policy; None: the one that `failure_mode` stands for."""
    missed: MissedName | None = None
    """The policy for missed occurrences; None: the one that `fast_forward` stands for."""
    max_catch_up_runs: int | None = None
    """With "all", how many of the missed occurrences run; None: all of them."""
    overlap: OverlapName | None = None
    """None: "forbid", but "allow" at most once."""
    starting_deadline: datetime.timedelta | None = None
    timeout: datetime.timedelta | None = None
    jitter: datetime.timedelta = datetime.timedelta()
    not_before: datetime.datetime | None = None
    not_after: datetime.datetime | None = None
    on_exhausted: ExhaustionName = "continue"
    suspend: bool = False
    successful_runs_history_limit: int | None = None
    failed_runs_history_limit: int | None = None
    """None: the default of a PyncetteTask, which is no history for instances."""


BEHAVIOUR_OF_1_X: Final = Behaviour()
SAFE_BEHAVIOUR: Final = Behaviour(heartbeat="automatic", retry=Retry())
"""Heartbeat and retries by the defaults of a PyncetteTask."""


def policies_of(behaviour: Behaviour, poll_interval: Duration) -> Policies:
    """Convert *behaviour* to policies. `FailureMode.UNLOCK` retries after the *poll_interval*."""
    at_most_once = behaviour.execution_mode is ExecutionMode.AT_MOST_ONCE
    return Policies(
        mode=Mode.AT_MOST_ONCE if at_most_once else Mode.AT_LEAST_ONCE,
        overlap=OVERLAPS[overlap_of(behaviour)],
        missed=_missed(behaviour),
        max_catch_up=behaviour.max_catch_up_runs or 0,
        starting_deadline=_duration(behaviour.starting_deadline),
        active_deadline=_duration(behaviour.timeout),
        retry=behaviour.retry or _retry(behaviour.failure_mode, poll_interval),
        exhausted=EXHAUSTIONS[behaviour.on_exhausted],
        jitter=behaviour.jitter // A_MICROSECOND,
        not_before=_instant(behaviour.not_before),
        not_after=_instant(behaviour.not_after),
        suspend=behaviour.suspend,
        lease=behaviour.lease_duration // A_MICROSECOND,
        # At most once, a heartbeat has no effect, so the worker renews: a run may outlive its lease.
        heartbeat=Heartbeat.AUTOMATIC if at_most_once else HEARTBEATS[behaviour.heartbeat],
        keep_successful=behaviour.successful_runs_history_limit or 0,
        keep_failed=behaviour.failed_runs_history_limit or 0,
    )


@lru_cache(maxsize=1024)
def behaviour_of(policies: Policies) -> Behaviour:
    """
    Return the options that stand for stored *policies*: `policies_of` makes the same policies of them.

    The limit of concurrent runs is an option of its own, and whether a finished record is kept is none.
    """
    return Behaviour(
        fast_forward=policies.missed is Missed.FAST_FORWARD,
        execution_mode=ExecutionMode[policies.mode.name],
        lease_duration=policies.lease * A_MICROSECOND,
        heartbeat=_named(HEARTBEATS, policies.heartbeat),
        retry=policies.retry,
        missed=None if policies.missed is Missed.FAST_FORWARD else _named(MISSED, policies.missed),
        max_catch_up_runs=policies.max_catch_up or None,
        overlap=_named(OVERLAPS, policies.overlap),
        starting_deadline=_timedelta(policies.starting_deadline),
        timeout=_timedelta(policies.active_deadline),
        jitter=policies.jitter * A_MICROSECOND,
        not_before=_datetime(policies.not_before),
        not_after=_datetime(policies.not_after),
        on_exhausted=_named(EXHAUSTIONS, policies.exhausted),
        suspend=policies.suspend,
        successful_runs_history_limit=policies.keep_successful,
        failed_runs_history_limit=policies.keep_failed,
    )


def closest_failure_mode(behaviour: Behaviour) -> FailureMode:
    """Return the failure mode of *behaviour*, or the one closest to its retry policy."""
    return behaviour.failure_mode if behaviour.retry is None else _failure_mode(behaviour.retry)


def missed_of(behaviour: Behaviour) -> MissedName | None:
    """Return the policy of *behaviour* for missed occurrences; None with `fast_forward`, which is another one."""
    return behaviour.missed or (None if behaviour.fast_forward else "all")


def overlap_of(behaviour: Behaviour) -> OverlapName:
    """Return the policy of *behaviour* for an occurrence that is due while the one before it runs."""
    if behaviour.overlap is not None:
        return behaviour.overlap
    return "allow" if behaviour.execution_mode is ExecutionMode.AT_MOST_ONCE else "forbid"


def with_history(policies: Policies, behaviour: Behaviour) -> Policies:
    """Return the *policies* of *behaviour* for a task with a schedule of its own, which keeps its record and its history."""
    successes, others = behaviour.successful_runs_history_limit, behaviour.failed_runs_history_limit
    return replace(
        policies,
        keep_finished=True,
        keep_successful=HISTORY_OF_SUCCESSES if successes is None else successes,
        keep_failed=HISTORY_OF_OTHERS if others is None else others,
    )


def _named(names: Mapping[_Name, _Value], value: _Value) -> _Name:
    return next(name for name, named in names.items() if named is value)


def _missed(behaviour: Behaviour) -> Missed:
    name = missed_of(behaviour)
    return Missed.FAST_FORWARD if name is None else MISSED[name]


def _retry(mode: FailureMode, poll_interval: Duration) -> Retry:
    if mode is FailureMode.UNLOCK:
        return Retry(max_attempts=0, initial=poll_interval, maximum=poll_interval, jitter=False)
    if mode is FailureMode.COMMIT:
        return Retry(max_attempts=1, count_takeovers=False)
    return Retry(max_attempts=0, wait_for_lease=True)


def _failure_mode(retry: Retry) -> FailureMode:
    if retry.max_attempts == 1:
        return FailureMode.COMMIT
    return FailureMode.NONE if retry.wait_for_lease else FailureMode.UNLOCK


def _duration(time: datetime.timedelta | None) -> Duration | None:
    return None if time is None else time // A_MICROSECOND


def _timedelta(duration: Duration | None) -> datetime.timedelta | None:
    return None if duration is None else duration * A_MICROSECOND


def _instant(moment: datetime.datetime | None) -> Instant | None:
    return None if moment is None else instant_of(moment)


def _datetime(instant: Instant | None) -> datetime.datetime | None:
    return None if instant is None else datetime_of(instant)
