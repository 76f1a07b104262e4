"""Decides what the status of a PyncetteWorkerPool says, from its Deployment and from the workers that the backend knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    READY,
    RECONCILING,
    STALLED,
    Holds,
    condition_of,
    counted,
)
from pyncette.controller.status.observed import Access
from pyncette.controller.status.pool_context import (
    AVAILABLE,
    BACKEND_REACHABLE,
    PoolContext,
    PoolEnvironment,
    StoredPool,
    registered_workers,
    unavailable_backend,
)
from pyncette.controller.status.pool_phase import SEE_PODS, Assessment, Phase, assess
from pyncette.controller.status.rollout import mapping, number
from pyncette.controller.workloads.pod_template import POOL_LABEL
from pyncette.resources.pool import HANDLERS_MAX, PoolStatus, PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from pyncette.resources.resource import Condition
from pyncette.resources.task import HandlerName

CONDITIONS: Final = {
    READY: "All workers are as the pool says, ready, and registered; or none are wanted, and there are none.",
    RECONCILING: "It is not so, and becomes so by itself.",
    STALLED: "It is not so, and a person has to do something; the message says what.",
    AVAILABLE: "At least one worker is ready to run due occurrences.",
    BACKEND_REACHABLE: "A worker is registered in the backend that the operator uses: both use the same one, and reach it.",
}
"""The meaning of each condition when it is True, in the order of the status."""


LOOK_AGAIN: Final[Duration] = 10 * SECOND
"""Between two passes while too few or too many workers are registered, since no event reports that."""


class PoolReport(NamedTuple):
    """The new status, and when to work it out again."""

    status: PoolStatus
    again_at: Instant | None = None
    """When it may change without any event; None: never."""


def status_of_pool(
    pool: PyncetteWorkerPool | Refusal, seen: StoredPool, around: PoolEnvironment
) -> PoolReport:
    """
    Return what the status of *pool* is to be; the same whenever the same is known.

    A Refusal is that of its spec, or of its template: the workers of the last good generation go on then. Reconciling
    and Stalled are there only while they hold.
    """
    case = PoolContext(pool, seen, around)
    outlook = assess(case)
    conditions = (*_summary(case, outlook), _available(case), _backend_reachable(case, outlook))
    status = PoolStatus(
        observed_generation=seen.generation,
        conditions=conditions,
        realm=around.realm or seen.status.realm,
        replicas=_count(case, "replicas"),
        ready_replicas=_count(case, "readyReplicas"),
        selector=_selector(case),
        handlers=_handlers(case),
        tasks=around.tasks,
        due=around.due,
    )
    return PoolReport(status, _again_at(case, outlook))


def points_to_pods(status: PoolStatus) -> bool:
    """Return whether *status* is of a pool that is not ready, and its message points to the pods."""
    ready = condition_of(status, READY)
    return ready is not None and ready.status != "True" and SEE_PODS in ready.message


# --- A Deployment ----------------------------------------------------------------------------------------------------


# --- What is known ---------------------------------------------------------------------------------------------------


# --- Whether all is well ---------------------------------------------------------------------------------------------


# --- The conditions --------------------------------------------------------------------------------------------------

_READY: Final[Mapping[Phase, Holds]] = {Phase.WELL: "True", Phase.UNKNOWN: "Unknown"}


def _summary(case: PoolContext, outlook: Assessment) -> tuple[Condition, ...]:
    """Return Ready, and beside it Reconciling or Stalled if that is so."""
    phase, reason, message, _ = outlook
    ready = case.condition(READY, _READY.get(phase, "False"), reason, message)
    if phase is Phase.STUCK:
        return (ready, case.condition(STALLED, "True", reason, message))
    if phase is Phase.UNDER_WAY:
        return (ready, case.condition(RECONCILING, "True", reason, message, anew=_begins_anew(case, reason)))
    return (ready,)


def _begins_anew(case: PoolContext, reason: Reason) -> bool:
    """It is about one generation; and the time that a backend was away is none of the time that workers have."""
    before = case.this_generation(RECONCILING)
    away = Reason.BACKEND_UNREACHABLE
    return before is None or (before.reason == away.value and reason is not away)


def _available(case: PoolContext) -> Condition:
    """Return whether anybody would run what is due."""
    if case.external and case.around.members is None:
        return case.condition(AVAILABLE, "Unknown", Reason.BACKEND_UNREACHABLE, unavailable_backend(case))
    if case.ready:
        are = "is" if case.ready == 1 else "are"
        message = f"{counted(case.ready, 'worker')} {are} ready."
        return case.condition(AVAILABLE, "True", Reason.WORKERS_READY, message)
    if case.scale is not None and not case.scale.wanted:
        return case.condition(AVAILABLE, "False", Reason.SCALED_TO_ZERO, "spec.replicas is 0.")
    return case.condition(
        AVAILABLE, "False", Reason.NO_WORKER_READY, "No worker is ready; due occurrences wait."
    )


def _backend_reachable(case: PoolContext, outlook: Assessment) -> Condition:
    """Return the condition BackendReachable: a worker in the operator's backend proves that both use the same one."""
    around = case.around
    if outlook.reason in {Reason.BACKEND_NOT_ALLOWED, Reason.BACKEND_NOT_FOUND}:
        return case.condition(BACKEND_REACHABLE, "False", outlook.reason, outlook.message)
    if around.access is Access.DOWN:
        return case.condition(
            BACKEND_REACHABLE, "False", Reason.BACKEND_UNREACHABLE, unavailable_backend(case)
        )
    if around.members:
        return case.condition(
            BACKEND_REACHABLE, "True", Reason.WORKERS_REGISTERED, registered_workers(around.members)
        )
    if outlook.reason is Reason.WORKERS_ELSEWHERE:
        return case.condition(BACKEND_REACHABLE, "False", outlook.reason, outlook.message)
    message = (
        "No worker is registered in the backend, which would show that workers and operator use the same one."
    )
    return case.condition(BACKEND_REACHABLE, "Unknown", Reason.NO_WORKER, message)


# --- The rest --------------------------------------------------------------------------------------------------------

_HANDLER_NAME: Final[TypeAdapter[str]] = TypeAdapter(HandlerName)


def _count(case: PoolContext, name: str) -> int | None:
    """Return a number of workers; of those that others start, all that are registered are ready."""
    if case.external:
        members = case.around.members
        return getattr(case.seen.status, _FIELDS[name]) if members is None else len(members)
    deployment = case.around.deployment
    return 0 if deployment is None else number(mapping(deployment.get("status")), name)


_FIELDS: Final = {"replicas": "replicas", "readyReplicas": "ready_replicas"}


def _selector(case: PoolContext) -> str | None:
    return None if case.external else f"{POOL_LABEL}={case.seen.name.name}"


def _handlers(case: PoolContext) -> tuple[str, ...]:
    """Return the handlers of running workers; the last ones while the backend cannot be read."""
    members = case.around.members
    if members is None:
        return case.seen.status.handlers
    return tuple(sorted({name for member in members for name in _nameable(member.handlers)})[:HANDLERS_MAX])


def _nameable(names: Iterable[str]) -> Iterator[str]:
    """Yield the names that a task can refer to: a module may register others, and they are not worth a refused status."""
    for name in names:
        try:
            yield _HANDLER_NAME.validate_python(name)
        except ValidationError:
            continue


def _again_at(case: PoolContext, outlook: Assessment) -> Instant | None:
    """Return when to look again although nothing happened in the cluster."""
    times = [] if outlook.until is None else [outlook.until]
    members = case.around.members
    wanted = 1 if case.external else case.ready
    if members is not None and (len(members) < wanted if case.external else len(members) != wanted):
        times.append(case.now + LOOK_AGAIN)
    return min(times, default=None)


# --- What is said ----------------------------------------------------------------------------------------------------
