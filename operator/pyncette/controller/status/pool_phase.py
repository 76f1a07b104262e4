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
"""So long a worker that is ready may take to be registered where the operator sees it, on a backend that is slow."""


READYING: Final[Duration] = 30 * SECOND
"""How long pods of a rollout may take to be ready before the message says what to check."""


SEE_PODS: Final = "See kubectl describe pods"
"""The start of the sentence that points to the pods."""


class Phase(Enum):
    """Whether a pool is ready, for those who wait for it."""

    WELL = "well"
    UNKNOWN = "unknown"
    """The operator can neither see nor change it."""
    UNDER_WAY = "under way"
    """It becomes well by itself, or does not: then it is stuck in the end."""
    STUCK = "stuck"
    """A person has to do something."""


class Assessment(NamedTuple):
    phase: Phase
    reason: Reason
    message: str
    until: Instant | None = None
    """When it is stuck, if nothing happens."""


def assess(case: PoolContext) -> Assessment:
    """Assess whether a pool is ready. The first obstacle found is reported."""
    pool = case.pool
    if case.seen.deleting:
        return Assessment(
            Phase.UNDER_WAY, Reason.TERMINATING, "It is being deleted, and its workers stop with it."
        )
    if isinstance(pool, Refusal):
        return _refused(case, pool)
    barred = _barred(case, pool)
    if barred is not None:
        return barred
    if pool.spec.external:
        return _elsewhere_run(case)
    if case.around.refused is not None:
        message = f"The API server refused an object of the pool: {case.around.refused}"
        return Assessment(Phase.STUCK, Reason.APPLY_REFUSED, message + until_then(case))
    return _rolled(case, pool)


def _refused(case: PoolContext, refusal: Refusal) -> Assessment:
    said = "; ".join(map(str, refusal.problems))
    tail = until_then(case)
    reason = Reason.of(refusal.problems[0].reason) or Reason.INVALID
    message = as_sentence(cut(said, CONDITION_CHARACTERS_MAX - len(tail) - 1)) + tail
    return Assessment(Phase.STUCK, reason, message)


def _barred(case: PoolContext, pool: PyncetteWorkerPool) -> Assessment | None:
    """Return why the pool may not use its backend; None if it may."""
    name = pool.spec.backend_ref.name
    if case.around.access is Access.REFUSED:
        return Assessment(
            Phase.STUCK,
            Reason.BACKEND_NOT_ALLOWED,
            f'The backend "{name}" is not available to this namespace: name another in spec.backendRef, or have the namespace '
            f"added to this one in the operator's settings.{until_then(case)}",
        )
    if case.around.access is Access.UNKNOWN:
        return Assessment(
            Phase.STUCK,
            Reason.BACKEND_NOT_FOUND,
            f'The operator\'s settings have no backend "{name}": correct spec.backendRef, or have the backend '
            f"added.{until_then(case)}",
        )
    return None


def _elsewhere_run(case: PoolContext) -> Assessment:
    """
    Tell of workers that others start: they are well if there is one.

    If there is none, the operator cannot know whether there should be: the pool is neither stalled nor reconciling.
    """
    if case.around.members:
        return Assessment(Phase.WELL, Reason.WORKERS_REGISTERED, registered_workers(case.around.members))
    if case.around.members is None:
        return Assessment(Phase.UNKNOWN, Reason.BACKEND_UNREACHABLE, unavailable_backend(case))
    message = (
        f"No worker has registered yet: start one with the backend's URL and PYNCETTE_REALM={case.around.realm}, "
        "or look at the log of one that runs."
    )
    return Assessment(Phase.UNKNOWN, Reason.NO_WORKER, message)


def _rolled(case: PoolContext, pool: PyncetteWorkerPool) -> Assessment:
    """Assess the rollout of the Deployment."""
    scale = case.scale
    if scale is None:
        return Assessment(Phase.UNDER_WAY, Reason.ROLLING_OUT, "Its Deployment is about to be created.")
    if not rolling_out(case.around.deployment):
        return _running(case, scale)
    if scale.observed and scale.progress == DEADLINE_EXCEEDED:
        return Assessment(
            Phase.STUCK,
            Reason.PROGRESS_DEADLINE_EXCEEDED,
            f"The rollout has made no progress for {pool.spec.progress_deadline_seconds} s. {_progress(scale)} {_what_to_look_at(case)}",
        )
    if _was_complete(scale):
        return _fell_behind(case, scale, pool)
    if not scale.observed:
        return Assessment(Phase.UNDER_WAY, Reason.ROLLING_OUT, "The cluster has not started the rollout yet.")
    # While a rollout makes progress, there is nothing to check, however long it takes.
    begun = case.since(RECONCILING)
    limit = max(begun, min(scale.progressed_at or begun, case.now)) + READYING
    if case.now < limit:
        return Assessment(Phase.UNDER_WAY, Reason.ROLLING_OUT, _progress(scale), limit)
    message = f"{_progress(scale)} {_what_to_look_at(case)}"
    return Assessment(Phase.UNDER_WAY, Reason.ROLLING_OUT, message)


def _running(case: PoolContext, scale: Scale) -> Assessment:
    """Assess a pool whose workers are all ready: are they registered where the operator looks?"""
    if not scale.wanted:
        return Assessment(
            Phase.WELL, Reason.SCALED_TO_ZERO, "spec.replicas is 0: due occurrences wait for workers."
        )
    asked = case.around.access is Access.OPEN and case.around.members is not None
    if not asked or case.around.members:
        return Assessment(Phase.WELL, Reason.ROLLED_OUT, _all_ready(scale.wanted))
    limit = max(case.since(RECONCILING), case.since(AVAILABLE)) + SETTLING
    message = (
        "Workers are ready, and none has registered in the backend that the operator uses. "
        f"{_secret(case)} has to hold the URL of the same database as the operator's own Secret, and the image a "
        "release of the library that registers."
    )
    if case.now >= limit or _is_stuck(case, Reason.WORKERS_ELSEWHERE):
        return Assessment(Phase.STUCK, Reason.WORKERS_ELSEWHERE, message)
    return Assessment(Phase.UNDER_WAY, Reason.ROLLING_OUT, "Workers are ready and about to register.", limit)


def _was_complete(scale: Scale) -> bool:
    """Return whether everything was rolled out once, so that what is missing has failed since."""
    replaced = scale.updated >= scale.wanted and scale.there <= scale.updated
    return scale.observed and scale.progress == COMPLETE and replaced


def _fell_behind(case: PoolContext, scale: Scale, pool: PyncetteWorkerPool) -> Assessment:
    """Assess workers that have become unready. The deadline is ours: Kubernetes has one for rollouts alone."""
    if case.around.access is Access.DOWN:
        # Workers report unready while their backend is unavailable; the pool itself needs no fix.
        return Assessment(Phase.UNDER_WAY, Reason.BACKEND_UNREACHABLE, unavailable_backend(case))
    message = f"{_of(scale.available, scale.wanted)} ready. {_what_to_look_at(case)}"
    before = case.this_generation(RECONCILING)
    counted = before is not None and before.reason != Reason.BACKEND_UNREACHABLE.value
    since = case.since(RECONCILING) if counted else case.now
    limit = since + pool.spec.progress_deadline_seconds * SECOND
    if case.now >= limit or _is_stuck(case, Reason.WORKERS_UNAVAILABLE):
        return Assessment(Phase.STUCK, Reason.WORKERS_UNAVAILABLE, message)
    return Assessment(Phase.UNDER_WAY, Reason.WORKERS_UNAVAILABLE, message, limit)


def _is_stuck(case: PoolContext, reason: Reason) -> bool:
    """Return whether it was stuck for this reason already: then it is until something changes, not for a deadline again."""
    stalled = case.this_generation(STALLED)
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
    return f"{said} Pods cannot be made: {as_sentence(scale.trouble)}" if scale.trouble else said


def _of(number: int, wanted: int) -> str:
    """Return the start of a sentence about *number* of all *wanted* workers, which ends in an adjective or a participle."""
    if number == 0 and wanted:
        return "The worker is not" if wanted == 1 else f"None of {wanted} workers is"
    return f"{number} of {counted(wanted, 'worker')} {'is' if number == 1 else 'are'}"


def _all_ready(wanted: int) -> str:
    return "The worker is ready." if wanted == 1 else f"All {wanted} workers are ready."


def _what_to_look_at(case: PoolContext) -> str:
    """Return what to check. The operator may not read pods and Secrets itself."""
    namespace, name = case.seen.name
    return (
        f"{SEE_PODS} -n {namespace} -l {POOL_LABEL}={name}, and their logs. They need {_secret(case)}, an "
        "image that can be pulled, runs as a numbered user other than 0 and holds the module and the library, and room on a "
        f"node. The library's release must be the operator's {__version__}, or one next to it."
    )


def _secret(case: PoolContext) -> str:
    backend = case.around.backend
    if backend is None:
        return "the backend's Secret"
    return f'the key "{backend.secret_key}" of the Secret "{backend.secret_name}" in this namespace'
