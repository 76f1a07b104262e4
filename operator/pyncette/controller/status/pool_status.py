"""Decides what the status of a PyncetteWorkerPool says, from its Deployment and from the workers that the backend knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    READY,
    RECONCILING,
    STALLED,
    Holds,
    condition_of,
    counted,
    too_many_records,
)
from pyncette.controller.status.observed import Access
from pyncette.controller.status.pool_context import (
    AVAILABLE,
    BACKEND_REACHABLE,
    DATABASE_COPIED,
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
from pyncette.resources.task import is_handler_name

CONDITIONS: Final = {
    READY: "All workers are as the pool says, ready, and registered; or none are wanted, and there are none.",
    RECONCILING: "It is not so, and becomes so by itself.",
    STALLED: "It is not so, and a person has to do something; the message says what.",
    AVAILABLE: "At least one worker is ready to run due occurrences.",
    BACKEND_REACHABLE: "A worker is registered in the backend that the operator uses: both use the same one, and reach it.",
    DATABASE_COPIED: "The database of the backend has the identity of another one: one of them is a copy. It does not affect "
    "Ready.",
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
    pool: PyncetteWorkerPool | Refusal, seen: StoredPool, environment: PoolEnvironment
) -> PoolReport:
    """
    Return what the status of *pool* is to be; the same whenever the same is known.

    If *pool* is the Refusal of its spec or template, the workers of the last valid generation continue. Reconciling, Stalled
    and DatabaseCopied are part of the status only while they hold.
    """
    context = PoolContext(pool, seen, environment)
    assessment = assess(context)
    conditions = (
        *_summary(context, assessment),
        _available(context),
        _backend_reachable(context, assessment),
        *_database_copied(context),
    )
    status = PoolStatus(
        observed_generation=seen.generation,
        conditions=conditions,
        realm=environment.realm or seen.status.realm,
        replicas=_count(context, "replicas"),
        ready_replicas=_count(context, "readyReplicas"),
        selector=_selector(context),
        handlers=_handlers(context),
        tasks=environment.tasks,
        due=environment.due,
    )
    return PoolReport(status, _again_at(context, assessment))


def points_to_pods(status: PoolStatus) -> bool:
    """Return whether *status* is of a pool that is not ready, and its message points to the pods."""
    ready = condition_of(status, READY)
    return ready is not None and ready.status != "True" and SEE_PODS in ready.message


# --- The conditions --------------------------------------------------------------------------------------------------

_READY: Final[Mapping[Phase, Holds]] = {Phase.READY: "True", Phase.UNKNOWN: "Unknown"}


def _summary(context: PoolContext, assessment: Assessment) -> tuple[Condition, ...]:
    """Return Ready, and Reconciling or Stalled where one is True."""
    phase, reason, message, _ = assessment
    ready = context.condition(READY, _READY.get(phase, "False"), reason, message)
    if phase is Phase.STALLED:
        return (ready, context.condition(STALLED, "True", reason, message))
    if phase is Phase.RECONCILING:
        return (
            ready,
            context.condition(RECONCILING, "True", reason, message, anew=_begins_anew(context, reason)),
        )
    return (ready,)


def _begins_anew(context: PoolContext, reason: Reason) -> bool:
    """Return whether Reconciling restarts: with each generation, and after an outage of the backend."""
    before = context.this_generation(RECONCILING)
    away = Reason.BACKEND_UNREACHABLE
    return before is None or (before.reason == away.value and reason is not away)


def _available(context: PoolContext) -> Condition:
    """Return the condition Available."""
    if context.external and context.environment.members is None:
        return context.condition(
            AVAILABLE, "Unknown", Reason.BACKEND_UNREACHABLE, unavailable_backend(context)
        )
    if context.ready:
        are = "is" if context.ready == 1 else "are"
        message = f"{counted(context.ready, 'worker')} {are} ready."
        return context.condition(AVAILABLE, "True", Reason.WORKERS_READY, message)
    if context.scale is not None and not context.scale.wanted:
        return context.condition(AVAILABLE, "False", Reason.SCALED_TO_ZERO, "spec.replicas is 0.")
    return context.condition(
        AVAILABLE, "False", Reason.NO_WORKER_READY, "No worker is ready; due occurrences wait."
    )


def _backend_reachable(context: PoolContext, assessment: Assessment) -> Condition:
    """Return the condition BackendReachable: a worker in the operator's backend proves that both use the same one."""
    environment = context.environment
    if assessment.reason in {Reason.BACKEND_NOT_ALLOWED, Reason.BACKEND_NOT_FOUND}:
        return context.condition(BACKEND_REACHABLE, "False", assessment.reason, assessment.message)
    if environment.access is Access.DOWN:
        return context.condition(
            BACKEND_REACHABLE, "False", Reason.BACKEND_UNREACHABLE, unavailable_backend(context)
        )
    if environment.access is Access.OVERFULL:
        name = "" if environment.backend is None else environment.backend.name
        return context.condition(BACKEND_REACHABLE, "False", Reason.TOO_MANY_RECORDS, too_many_records(name))
    if environment.members:
        return context.condition(
            BACKEND_REACHABLE, "True", Reason.WORKERS_REGISTERED, registered_workers(environment.members)
        )
    if assessment.reason is Reason.WORKERS_ELSEWHERE:
        return context.condition(BACKEND_REACHABLE, "False", assessment.reason, assessment.message)
    message = (
        "No worker is registered in the backend, which would show that workers and operator use the same one."
    )
    return context.condition(BACKEND_REACHABLE, "Unknown", Reason.NO_WORKER, message)


def _database_copied(context: PoolContext) -> tuple[Condition, ...]:
    """Return the condition DatabaseCopied, if it holds."""
    if not context.environment.is_copy:
        return ()
    name = "" if context.environment.backend is None else f' "{context.environment.backend.name}"'
    message = (
        f"The database of the backend{name} has the identity of another database that the operator uses: one of them is a copy, "
        "such as a restored backup. The operator keeps the two apart, and the tasks of this pool run. The workers of either "
        "database may also run the tasks that were copied. Remove those from the copy, and give the copy an identity of its own "
        "with pyncette migrate --new-identity."
    )
    return (context.condition(DATABASE_COPIED, "True", Reason.DATABASE_COPIED, message),)


def _count(context: PoolContext, name: str) -> int | None:
    """Return a number of workers; of an external pool, all registered workers are ready."""
    if context.external:
        members = context.environment.members
        return getattr(context.seen.status, _FIELDS[name]) if members is None else len(members)
    deployment = context.environment.deployment
    return 0 if deployment is None else number(mapping(deployment.get("status")), name)


_FIELDS: Final = {"replicas": "replicas", "readyReplicas": "ready_replicas"}


def _selector(context: PoolContext) -> str | None:
    return None if context.external else f"{POOL_LABEL}={context.seen.name.name}"


def _handlers(context: PoolContext) -> tuple[str, ...]:
    """Return the handlers of running workers; the last ones while the backend cannot be read."""
    members = context.environment.members
    if members is None:
        return context.seen.status.handlers
    # The API server would refuse a status with other names.
    names = {name for member in members for name in member.handlers if is_handler_name(name)}
    return tuple(sorted(names)[:HANDLERS_MAX])


def _again_at(context: PoolContext, assessment: Assessment) -> Instant | None:
    """Return when to work the status out again even if nothing happens."""
    times = [] if assessment.until is None else [assessment.until]
    members = context.environment.members
    wanted = 1 if context.external else context.ready
    if members is not None and (len(members) < wanted if context.external else len(members) != wanted):
        times.append(context.now + LOOK_AGAIN)
    return min(times, default=None)
