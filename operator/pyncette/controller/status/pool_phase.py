"""Decides whether a pool is ready, gets ready by itself, or is stalled."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from pyncette._version import __version__
from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    RECONCILING,
    STALLED,
    as_sentence,
    counted,
    cut,
)
from pyncette.controller.status.observed import Access
from pyncette.controller.status.pool_context import (
    AVAILABLE,
    PoolContext,
    registered_workers,
    unavailable_backend,
    until_then,
)
from pyncette.controller.status.rollout import COMPLETE, DEADLINE_EXCEEDED, Scale, rolling_out
from pyncette.controller.workloads.pod_template import POOL_LABEL
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from pyncette.resources.resource import CONDITION_CHARACTERS_MAX

SETTLING: Final[Duration] = 60 * SECOND
"""How long a ready worker may take to be registered, on a slow backend."""

READYING: Final[Duration] = 30 * SECOND
"""How long pods of a rollout may take to be ready before the message says what to check."""

SEE_PODS: Final = "See kubectl describe pods"
"""The start of the sentence that points to the pods."""


class Phase(Enum):
    """Whether a pool is ready, for those who wait for it."""

    READY = "ready"
    UNKNOWN = "unknown"
    """The operator can neither see nor change it."""
    RECONCILING = "reconciling"
    """It may become ready by itself; if not, it is stalled in the end."""
    STALLED = "stalled"
    """A person has to fix it."""


class Assessment(NamedTuple):
    """The phase of a pool, and why it is in it."""

    phase: Phase
    reason: Reason
    message: str
    until: Instant | None = None
    """When it becomes stalled, if nothing changes."""


def assess(context: PoolContext) -> Assessment:
    """Assess whether a pool is ready. The first obstacle found is reported."""
    pool = context.pool
    if context.seen.deleting:
        return Assessment(
            Phase.RECONCILING, Reason.TERMINATING, "It is being deleted, and its workers stop with it."
        )
    if isinstance(pool, Refusal):
        return _refused(context, pool)
    refused = _refused_backend(context, pool)
    if refused is not None:
        return refused
    if pool.spec.external:
        return _external(context)
    if context.environment.refused is not None:
        message = f"The API server refused an object of the pool: {context.environment.refused}"
        return Assessment(Phase.STALLED, Reason.APPLY_REFUSED, message + until_then(context))
    return _rollout(context, pool)


def _refused(context: PoolContext, refusal: Refusal) -> Assessment:
    said = "; ".join(map(str, refusal.problems))
    tail = until_then(context)
    reason = Reason.of(refusal.problems[0].reason) or Reason.INVALID
    message = as_sentence(cut(said, CONDITION_CHARACTERS_MAX - len(tail) - 1)) + tail
    return Assessment(Phase.STALLED, reason, message)


def _refused_backend(context: PoolContext, pool: PyncetteWorkerPool) -> Assessment | None:
    """Return why the pool may not use its backend; None if it may."""
    name = pool.spec.backend_ref.name
    if context.environment.access is Access.REFUSED:
        return Assessment(
            Phase.STALLED,
            Reason.BACKEND_NOT_ALLOWED,
            f'The backend "{name}" is not available to this namespace: name another in spec.backendRef, or have the namespace '
            f"added to this one in the operator's settings.{until_then(context)}",
        )
    if context.environment.access is Access.UNKNOWN:
        return Assessment(
            Phase.STALLED,
            Reason.BACKEND_NOT_FOUND,
            f'The operator\'s settings have no backend "{name}": correct spec.backendRef, or have the backend '
            f"added.{until_then(context)}",
        )
    return None


def _external(context: PoolContext) -> Assessment:
    """
    Assess an external pool: it is ready if one of its workers is registered.

    If there is none, the operator cannot know whether there should be: the pool is neither stalled nor reconciling.
    """
    if context.environment.members:
        return Assessment(
            Phase.READY, Reason.WORKERS_REGISTERED, registered_workers(context.environment.members)
        )
    if context.environment.members is None:
        return Assessment(Phase.UNKNOWN, Reason.BACKEND_UNREACHABLE, unavailable_backend(context))
    message = (
        f"No worker has registered yet: start one with the backend's URL and PYNCETTE_REALM={context.environment.realm}, "
        "or look at the log of one that runs."
    )
    return Assessment(Phase.UNKNOWN, Reason.NO_WORKER, message)


def _rollout(context: PoolContext, pool: PyncetteWorkerPool) -> Assessment:
    """Assess the rollout of the Deployment."""
    scale = context.scale
    if scale is None:
        return Assessment(Phase.RECONCILING, Reason.ROLLING_OUT, "Its Deployment is about to be created.")
    if not rolling_out(context.environment.deployment):
        return _rolled_out(context, scale)
    if scale.observed and scale.progress == DEADLINE_EXCEEDED:
        return Assessment(
            Phase.STALLED,
            Reason.PROGRESS_DEADLINE_EXCEEDED,
            f"The rollout has made no progress for {pool.spec.progress_deadline_seconds} s. {_progress(scale)} {_what_to_look_at(context)}",
        )
    if _was_complete(scale):
        return _unready(context, scale, pool)
    if not scale.observed:
        return Assessment(
            Phase.RECONCILING, Reason.ROLLING_OUT, "The cluster has not started the rollout yet."
        )
    # While a rollout makes progress, there is nothing to check, however long it takes.
    begun = context.since(RECONCILING)
    limit = max(begun, min(scale.progressed_at or begun, context.now)) + READYING
    if context.now < limit:
        return Assessment(Phase.RECONCILING, Reason.ROLLING_OUT, _progress(scale), limit)
    message = f"{_progress(scale)} {_what_to_look_at(context)}"
    return Assessment(Phase.RECONCILING, Reason.ROLLING_OUT, message)


def _rolled_out(context: PoolContext, scale: Scale) -> Assessment:
    """Assess a pool whose workers are all ready: are they registered where the operator looks?"""
    if not scale.wanted:
        return Assessment(
            Phase.READY, Reason.SCALED_TO_ZERO, "spec.replicas is 0: due occurrences wait for workers."
        )
    asked = context.environment.access is Access.OPEN and context.environment.members is not None
    if not asked or context.environment.members:
        return Assessment(Phase.READY, Reason.ROLLED_OUT, _all_ready(scale.wanted))
    limit = max(context.since(RECONCILING), context.since(AVAILABLE)) + SETTLING
    message = (
        "Workers are ready, and none has registered in the backend that the operator uses. "
        f"{_secret(context)} has to hold the URL of the same database as the operator's own Secret, and the image a "
        "release of the library that registers."
    )
    if context.now >= limit or _was_stalled(context, Reason.WORKERS_ELSEWHERE):
        return Assessment(Phase.STALLED, Reason.WORKERS_ELSEWHERE, message)
    return Assessment(
        Phase.RECONCILING, Reason.ROLLING_OUT, "Workers are ready and about to register.", limit
    )


def _was_complete(scale: Scale) -> bool:
    """Return whether the rollout was complete once, so that missing workers have failed since."""
    replaced = scale.updated >= scale.wanted and scale.there <= scale.updated
    return scale.observed and scale.progress == COMPLETE and replaced


def _unready(context: PoolContext, scale: Scale, pool: PyncetteWorkerPool) -> Assessment:
    """Assess workers that have become unready. The deadline is ours: Kubernetes has one for rollouts alone."""
    if context.environment.access is Access.DOWN:
        # Workers report unready while their backend is unavailable; the pool itself needs no fix.
        return Assessment(Phase.RECONCILING, Reason.BACKEND_UNREACHABLE, unavailable_backend(context))
    message = f"{_of(scale.available, scale.wanted)} ready. {_what_to_look_at(context)}"
    before = context.this_generation(RECONCILING)
    counted = before is not None and before.reason != Reason.BACKEND_UNREACHABLE.value
    since = context.since(RECONCILING) if counted else context.now
    limit = since + pool.spec.progress_deadline_seconds * SECOND
    if context.now >= limit or _was_stalled(context, Reason.WORKERS_UNAVAILABLE):
        return Assessment(Phase.STALLED, Reason.WORKERS_UNAVAILABLE, message)
    return Assessment(Phase.RECONCILING, Reason.WORKERS_UNAVAILABLE, message, limit)


def _was_stalled(context: PoolContext, reason: Reason) -> bool:
    """Return whether it was stalled for this reason: then it stays so until something changes, without another deadline."""
    stalled = context.this_generation(STALLED)
    return stalled is not None and stalled.reason == reason.value


def _progress(scale: Scale) -> str:
    """Return how many workers are ready, and how far the rollout is."""
    said = f"{_of(scale.available, scale.wanted)} ready."
    if scale.updated < scale.wanted:
        said += f" {_of(scale.updated, scale.wanted)} started from the current spec."
    older = scale.there - scale.updated
    if older > 0:
        goes = "runs until it is" if older == 1 else "run until they are"
        said += f" {counted(older, 'older worker')} {goes} replaced."
    return f"{said} Pods cannot be created: {as_sentence(scale.trouble)}" if scale.trouble else said


def _of(number: int, wanted: int) -> str:
    """Return the start of a sentence about *number* of all *wanted* workers, which ends in an adjective or a participle."""
    if number == 0 and wanted:
        return "The worker is not" if wanted == 1 else f"None of {wanted} workers is"
    return f"{number} of {counted(wanted, 'worker')} {'is' if number == 1 else 'are'}"


def _all_ready(wanted: int) -> str:
    return "The worker is ready." if wanted == 1 else f"All {wanted} workers are ready."


def _what_to_look_at(context: PoolContext) -> str:
    """Return what to check. The operator may not read pods and Secrets itself."""
    namespace, name = context.seen.name
    return (
        f"{SEE_PODS} -n {namespace} -l {POOL_LABEL}={name}, and their logs. They need {_secret(context)}, an "
        "image that can be pulled, runs as a numbered user other than 0 and holds the module and the library, and room on a "
        f"node. The library's release must be the operator's {__version__}, or one next to it."
    )


def _secret(context: PoolContext) -> str:
    backend = context.environment.backend
    if backend is None:
        return "the backend's Secret"
    return f'the key "{backend.secret_key}" of the Secret "{backend.secret_name}" in this namespace'
