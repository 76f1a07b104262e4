"""The behaviour of a task: its options for runs, and the policies that they stand for."""

from __future__ import annotations

import datetime
from typing import Final, NamedTuple

from pyncette.app.modes import A_MICROSECOND, ExecutionMode, FailureMode
from pyncette.clock import Duration
from pyncette.core.record import replace
from pyncette.core.spec import Heartbeat, Missed, Mode, Overlap, Policies, Retry

HISTORY_OF_SUCCESSES: Final = 3
HISTORY_OF_OTHERS: Final = 10
"""History rows of a task with a schedule of its own: the defaults of a PyncetteTask."""

HEARTBEATS: Final = {"cooperative": Heartbeat.COOPERATIVE, "automatic": Heartbeat.AUTOMATIC}


class Behaviour(NamedTuple):
    """The options of a task for its runs. The defaults are those of Pyncette 1.x."""

    fast_forward: bool = False
    failure_mode: FailureMode = FailureMode.NONE
    execution_mode: ExecutionMode = ExecutionMode.AT_LEAST_ONCE
    lease_duration: datetime.timedelta = datetime.timedelta(seconds=60)
    heartbeat: str = "cooperative"
    retry: Retry | None = None
    """The retry policy; None: the one that `failure_mode` stands for."""


BEHAVIOUR_OF_1_X: Final = Behaviour()
SAFE_BEHAVIOUR: Final = Behaviour(heartbeat="automatic", retry=Retry())
"""Heartbeat and retries by the defaults of a PyncetteTask."""


def policies_of(behaviour: Behaviour, poll_interval: Duration) -> Policies:
    """Convert *behaviour* to policies."""
    at_most_once = behaviour.execution_mode is ExecutionMode.AT_MOST_ONCE
    return Policies(
        mode=Mode.AT_MOST_ONCE if at_most_once else Mode.AT_LEAST_ONCE,
        overlap=Overlap.ALLOW if at_most_once else Overlap.FORBID,
        missed=Missed.FAST_FORWARD if behaviour.fast_forward else Missed.ALL,
        max_catch_up=0,
        retry=behaviour.retry or _retry(behaviour.failure_mode, poll_interval),
        lease=behaviour.lease_duration // A_MICROSECOND,
        # At most once, a heartbeat has no effect, so the worker renews: a run may outlive its lease.
        heartbeat=Heartbeat.AUTOMATIC if at_most_once else HEARTBEATS[behaviour.heartbeat],
    )


def behaviour_of(policies: Policies) -> Behaviour:
    """Return the options closest to stored *policies*: a resource has more options than the API."""
    return Behaviour(
        fast_forward=policies.missed is Missed.FAST_FORWARD,
        failure_mode=_failure_mode(policies.retry),
        execution_mode=ExecutionMode[policies.mode.name],
        lease_duration=policies.lease * A_MICROSECOND,
        heartbeat=policies.heartbeat.value.lower(),
    )


def closest_failure_mode(behaviour: Behaviour) -> FailureMode:
    """Return the failure mode of *behaviour*, or the one closest to its retry policy."""
    return behaviour.failure_mode if behaviour.retry is None else _failure_mode(behaviour.retry)


def with_history(policies: Policies) -> Policies:
    """Return *policies* for a task with a schedule of its own, which keeps its record and its history."""
    return replace(
        policies,
        keep_finished=True,
        keep_successful=HISTORY_OF_SUCCESSES,
        keep_failed=HISTORY_OF_OTHERS,
    )


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
