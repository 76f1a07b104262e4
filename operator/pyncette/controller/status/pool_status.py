"""Decides what the status of a PyncetteWorkerPool says, from its Deployment and from the workers that the backend knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from pyncette._version import __version__
from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.cluster.api import Manifest, ObjectName
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    READY,
    RECONCILING,
    STALLED,
    Holds,
    as_sentence,
    condition,
    condition_of,
    counted,
    cut,
)
from pyncette.controller.status.facts import Access
from pyncette.controller.workloads.pod_template import POOL_LABEL, PoolBackend
from pyncette.coordination.members import Member
from pyncette.core.times import instant_of
from pyncette.resources.modelling import whole_second
from pyncette.resources.pool import HANDLERS_MAX, PoolStatus, PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from pyncette.resources.resource import CONDITION_CHARACTERS_MAX, Condition
from pyncette.resources.task import HandlerName

AVAILABLE: Final = "Available"
BACKEND_REACHABLE: Final = "BackendReachable"

CONDITIONS: Final = {
    READY: "All workers are as the pool says, ready, and registered; or none are wanted, and there are none.",
    RECONCILING: "It is not so, and becomes so by itself.",
    STALLED: "It is not so, and a person has to do something; the message says what.",
    AVAILABLE: "At least one worker is ready to run what is due.",
    BACKEND_REACHABLE: "A worker is registered in the backend that the operator uses: both use the same one, and reach it.",
}
"""What each condition says when it is True; all of them, in the order in which they stand."""

SETTLING: Final[Duration] = 60 * SECOND
"""So long a worker that is ready may take to be registered where the operator sees it, on a backend that is slow."""

READYING: Final[Duration] = 30 * SECOND
"""How long pods of a rollout may take to be ready before the message says what to check."""

LOOK_AGAIN: Final[Duration] = 10 * SECOND
"""Nothing tells the operator that a worker has registered, or is gone. While it knows of too few or too many, it asks."""

SEE_PODS: Final = "See kubectl describe pods"
"""The start of the sentence that points to the pods."""

RELEASES_TOLD_MAX: Final = 3
"""Releases of the library that are named in a sentence; of a pool there are two in the midst of a rollout."""

RELEASE_CHARACTERS_MAX: Final = 40
"""Workers say of which release they are, and a row can say anything."""


class StoredPool(NamedTuple):
    """A PyncetteWorkerPool as the API server holds it, but for its spec."""

    name: ObjectName
    generation: int
    status: PoolStatus = PoolStatus()
    """As it was written last; that of the schema if it cannot be read."""
    deleting: bool = False
    """It has a deletionTimestamp, and somebody's finalizer keeps it for now."""


class PoolSurroundings(NamedTuple):
    """What is known of a pool beside its spec."""

    now: Instant
    access: Access = Access.OPEN
    fault: str = ""
    """Why the backend is not reachable, as in the log, without secrets; empty if it is reachable, or if that is unknown."""
    backend: PoolBackend | None = None
    """The one that it names; None: the settings have none of that name."""
    realm: str | None = None
    deployment: Manifest | None = None
    """As it is after it was applied; None: there is none, or it is none of ours."""
    refused: str | None = None
    """What the API server said when it refused an object of this generation."""
    members: Sequence[Member] | None = None
    """Workers that run now, as the backend knows them; None: it could not be asked."""
    tasks: int = 0
    due: int | None = None


class ToldOfPool(NamedTuple):
    """What the status is to be, and when it is to be worked out again."""

    status: PoolStatus
    again_at: Instant | None = None
    """When it may change without any event; None: never."""


def status_of_pool(
    pool: PyncetteWorkerPool | Refusal, seen: StoredPool, around: PoolSurroundings
) -> ToldOfPool:
    """
    Return what the status of *pool* is to be; the same whenever the same is known.

    A Refusal is that of its spec, or of its template: the workers of the last good generation go on then. Reconciling
    and Stalled are there only while they hold.
    """
    case = _Case(pool, seen, around)
    outlook = _outlook(case)
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
    return ToldOfPool(status, _again_at(case, outlook))


def rolling_out(deployment: Manifest | None) -> bool:
    """
    Say whether workers of a pool are being started, replaced or stopped, or are not available yet.

    These are the questions of `kubectl rollout status`, which waits for as long. None: the Deployment is about to be made.
    """
    if deployment is None:
        return True
    scale = Scale.of(deployment)
    return (
        not scale.observed
        or scale.progress == DEADLINE_EXCEEDED
        or scale.updated < scale.wanted
        or scale.there > scale.updated
        or scale.available < scale.updated
    )


def points_to_pods(status: PoolStatus) -> bool:
    """Say whether *status* is of a pool that is not ready, and its message points to the pods."""
    ready = condition_of(status, READY)
    return ready is not None and ready.status != "True" and SEE_PODS in ready.message


# --- A Deployment ----------------------------------------------------------------------------------------------------

DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"
COMPLETE: Final = "NewReplicaSetAvailable"


class Scale(NamedTuple):
    """What a Deployment says of its pods."""

    wanted: int
    there: int
    """Of any template; those that are being stopped do not count."""
    updated: int
    """Of this template."""
    ready: int
    available: int
    observed: bool
    """Whether all this is said of the newest spec."""
    progress: str
    """Reason of its condition Progressing; empty if it has none."""
    progressed_at: Instant | None
    """When the rollout last made progress, by the API server's clock; None if that is unknown."""
    trouble: str
    """Why pods cannot be made, such as a quota; empty if they can."""

    @classmethod
    def of(cls, deployment: Manifest) -> Scale:
        status = _mapping(deployment.get("status"))
        wanted = _mapping(deployment.get("spec")).get("replicas")
        generation = _number(_mapping(deployment.get("metadata")), "generation")
        conditions = {item.get("type"): item for item in _mappings(status.get("conditions"))}
        failure = conditions.get("ReplicaFailure", {})
        return cls(
            wanted=wanted if isinstance(wanted, int) else 1,
            there=_number(status, "replicas"),
            updated=_number(status, "updatedReplicas"),
            ready=_number(status, "readyReplicas"),
            available=_number(status, "availableReplicas"),
            observed=generation <= _number(status, "observedGeneration"),
            progress=str(conditions.get("Progressing", {}).get("reason", "")),
            progressed_at=_instant(conditions.get("Progressing", {}).get("lastUpdateTime")),
            trouble=str(failure.get("message", "")) if failure.get("status") == "True" else "",
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (item for item in (value or ()) if isinstance(item, Mapping))


def _instant(value: Any) -> Instant | None:
    try:
        return instant_of(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return None


def _number(fields: Mapping[str, Any], name: str) -> int:
    """Return a count, which the API server leaves out when it is 0."""
    value = fields.get(name)
    return value if isinstance(value, int) else 0


# --- What is known ---------------------------------------------------------------------------------------------------


class _Case(NamedTuple):
    """All that is known of one pool, and what follows at once from it."""

    pool: PyncetteWorkerPool | Refusal
    seen: StoredPool
    around: PoolSurroundings

    @property
    def external(self) -> bool:
        return not isinstance(self.pool, Refusal) and self.pool.spec.external

    @property
    def scale(self) -> Scale | None:
        deployment = self.around.deployment
        return None if self.external or deployment is None else Scale.of(deployment)

    @property
    def ready(self) -> int:
        """Workers that can run something, as far as that is known."""
        if self.external:
            return len(self.around.members or ())
        return 0 if self.scale is None else self.scale.ready

    @property
    def now(self) -> Instant:
        """In whole seconds, as Kubernetes tells times: what is measured from a condition is then the same in each pass."""
        return whole_second(self.around.now)

    def before(self, kind: str) -> Condition | None:
        """Return a condition as the operator wrote it last."""
        return condition_of(self.seen.status, kind)

    def this_generation(self, kind: str) -> Condition | None:
        """Return a condition as it was written last, if that was of this generation."""
        before = self.before(kind)
        return before if before is not None and before.observed_generation == self.seen.generation else None

    def since(self, kind: str) -> Instant:
        """Return since when a condition of this generation holds; now, if it did not when this was written last."""
        before = self.this_generation(kind)
        if before is None or before.status != "True":
            return self.now
        return instant_of(before.last_transition_time)

    def condition(
        self, kind: str, holds: Holds, reason: Reason, message: str, *, anew: bool = False
    ) -> Condition:
        """Return a condition that keeps the time of its last transition while its status stays, unless it is *anew*."""
        return condition(
            self.before(kind),
            kind,
            holds,
            reason,
            message,
            generation=self.seen.generation,
            now=self.now,
            anew=anew,
        )


# --- Whether all is well ---------------------------------------------------------------------------------------------


class _Phase(Enum):
    """How a pool stands, as those see it who wait for it."""

    WELL = "well"
    UNKNOWN = "unknown"
    """The operator can neither see nor change it."""
    UNDER_WAY = "under way"
    """It becomes well by itself, or does not: then it is stuck in the end."""
    STUCK = "stuck"
    """A person has to do something."""


class _Outlook(NamedTuple):
    phase: _Phase
    reason: Reason
    message: str
    until: Instant | None = None
    """When it is stuck, if nothing happens."""


def _outlook(case: _Case) -> _Outlook:
    """Decide what stands in the way, the first thing first: all branches of the question whether a pool is well."""
    pool = case.pool
    if case.seen.deleting:
        return _Outlook(
            _Phase.UNDER_WAY, Reason.TERMINATING, "It is being deleted, and its workers stop with it."
        )
    if isinstance(pool, Refusal):
        return _refused(case, pool)
    barred = _barred(case, pool)
    if barred is not None:
        return barred
    if pool.spec.external:
        return _elsewhere_run(case)
    if case.around.refused is not None:
        message = f"The API server does not accept what the pool is made of: {case.around.refused}"
        return _Outlook(_Phase.STUCK, Reason.APPLY_REFUSED, message + _goes_on(case))
    return _rolled(case, pool)


def _refused(case: _Case, refusal: Refusal) -> _Outlook:
    said = "; ".join(map(str, refusal.problems))
    tail = _goes_on(case)
    reason = Reason.of(refusal.problems[0].reason) or Reason.INVALID
    message = as_sentence(cut(said, CONDITION_CHARACTERS_MAX - len(tail) - 1)) + tail
    return _Outlook(_Phase.STUCK, reason, message)


def _barred(case: _Case, pool: PyncetteWorkerPool) -> _Outlook | None:
    """Tell of a backend that the pool will not get; None: it may have the one that it names."""
    name = pool.spec.backend_ref.name
    if case.around.access is Access.REFUSED:
        return _Outlook(
            _Phase.STUCK,
            Reason.BACKEND_NOT_ALLOWED,
            f'The backend "{name}" is not open to this namespace: name another in spec.backendRef, or have the namespace '
            f"added to this one in the operator's settings.{_goes_on(case)}",
        )
    if case.around.access is Access.UNKNOWN:
        return _Outlook(
            _Phase.STUCK,
            Reason.BACKEND_NOT_FOUND,
            f'The operator\'s settings have no backend "{name}": correct spec.backendRef, or have the backend '
            f"added.{_goes_on(case)}",
        )
    return None


def _elsewhere_run(case: _Case) -> _Outlook:
    """
    Tell of workers that others start: they are well if there is one.

    If there is none, nobody here knows whether there should be. It is neither stuck, then, nor on its way.
    """
    if case.around.members:
        return _Outlook(_Phase.WELL, Reason.WORKERS_REGISTERED, _registered(case.around.members))
    if case.around.members is None:
        return _Outlook(_Phase.UNKNOWN, Reason.BACKEND_UNREACHABLE, _away(case))
    message = (
        f"No worker has registered so far: start one with the backend's URL and PYNCETTE_REALM={case.around.realm}, "
        "or look at the log of one that runs."
    )
    return _Outlook(_Phase.UNKNOWN, Reason.NO_WORKER, message)


def _rolled(case: _Case, pool: PyncetteWorkerPool) -> _Outlook:
    """Tell how far the Deployment is."""
    scale = case.scale
    if scale is None:
        return _Outlook(_Phase.UNDER_WAY, Reason.ROLLING_OUT, "Its Deployment is about to be made.")
    if not rolling_out(case.around.deployment):
        return _running(case, scale)
    if scale.observed and scale.progress == DEADLINE_EXCEEDED:
        return _Outlook(
            _Phase.STUCK,
            Reason.PROGRESS_DEADLINE_EXCEEDED,
            f"The rollout has not come on for {pool.spec.progress_deadline_seconds} s. {_progress(scale)} {_what_to_look_at(case)}",
        )
    if _was_complete(scale):
        return _fell_behind(case, scale, pool)
    if not scale.observed:
        return _Outlook(_Phase.UNDER_WAY, Reason.ROLLING_OUT, "The cluster has not begun with it.")
    # While a rollout makes progress, there is nothing to check, however long it takes.
    begun = case.since(RECONCILING)
    limit = max(begun, min(scale.progressed_at or begun, case.now)) + READYING
    if case.now < limit:
        return _Outlook(_Phase.UNDER_WAY, Reason.ROLLING_OUT, _progress(scale), limit)
    message = f"{_progress(scale)} {_what_to_look_at(case)}"
    return _Outlook(_Phase.UNDER_WAY, Reason.ROLLING_OUT, message)


def _running(case: _Case, scale: Scale) -> _Outlook:
    """Tell of a pool whose workers are all there and ready: do they work where the operator looks?"""
    if not scale.wanted:
        return _Outlook(
            _Phase.WELL, Reason.SCALED_TO_ZERO, "spec.replicas is 0: what is due waits for workers."
        )
    asked = case.around.access is Access.OPEN and case.around.members is not None
    if not asked or case.around.members:
        return _Outlook(_Phase.WELL, Reason.ROLLED_OUT, _all_ready(scale.wanted))
    limit = max(case.since(RECONCILING), case.since(AVAILABLE)) + SETTLING
    message = (
        "Workers are ready, and none has registered in the backend that the operator uses. "
        f"{_secret(case)} has to hold the URL of the same database as the operator's own Secret, and the image a "
        "release of the library that registers."
    )
    if case.now >= limit or _is_stuck(case, Reason.WORKERS_ELSEWHERE):
        return _Outlook(_Phase.STUCK, Reason.WORKERS_ELSEWHERE, message)
    return _Outlook(_Phase.UNDER_WAY, Reason.ROLLING_OUT, "Workers are ready, and about to register.", limit)


def _was_complete(scale: Scale) -> bool:
    """Say whether everything was rolled out once, so that what is missing has failed since."""
    replaced = scale.updated >= scale.wanted and scale.there <= scale.updated
    return scale.observed and scale.progress == COMPLETE and replaced


def _fell_behind(case: _Case, scale: Scale, pool: PyncetteWorkerPool) -> _Outlook:
    """Tell of workers that were ready and are no longer. Its deadline is ours: Kubernetes has one for rollouts alone."""
    if case.around.access is Access.DOWN:
        # Workers say that they are not ready while their backend is away; and nobody mends the pool because of that.
        return _Outlook(_Phase.UNDER_WAY, Reason.BACKEND_UNREACHABLE, _away(case))
    message = f"{_of(scale.available, scale.wanted)} ready. {_what_to_look_at(case)}"
    before = case.this_generation(RECONCILING)
    counted = before is not None and before.reason != Reason.BACKEND_UNREACHABLE.value
    since = case.since(RECONCILING) if counted else case.now
    limit = since + pool.spec.progress_deadline_seconds * SECOND
    if case.now >= limit or _is_stuck(case, Reason.WORKERS_UNAVAILABLE):
        return _Outlook(_Phase.STUCK, Reason.WORKERS_UNAVAILABLE, message)
    return _Outlook(_Phase.UNDER_WAY, Reason.WORKERS_UNAVAILABLE, message, limit)


def _is_stuck(case: _Case, reason: Reason) -> bool:
    """Say whether it was stuck for this reason already: then it is until something changes, not for a deadline again."""
    stalled = case.this_generation(STALLED)
    return stalled is not None and stalled.reason == reason.value


# --- The conditions --------------------------------------------------------------------------------------------------

_READY: Final[Mapping[_Phase, Holds]] = {_Phase.WELL: "True", _Phase.UNKNOWN: "Unknown"}


def _summary(case: _Case, outlook: _Outlook) -> tuple[Condition, ...]:
    """Return Ready, and beside it Reconciling or Stalled if that is so."""
    phase, reason, message, _ = outlook
    ready = case.condition(READY, _READY.get(phase, "False"), reason, message)
    if phase is _Phase.STUCK:
        return (ready, case.condition(STALLED, "True", reason, message))
    if phase is _Phase.UNDER_WAY:
        return (ready, case.condition(RECONCILING, "True", reason, message, anew=_begins_anew(case, reason)))
    return (ready,)


def _begins_anew(case: _Case, reason: Reason) -> bool:
    """It is about one generation; and the time that a backend was away is none of the time that workers have."""
    before = case.this_generation(RECONCILING)
    away = Reason.BACKEND_UNREACHABLE
    return before is None or (before.reason == away.value and reason is not away)


def _available(case: _Case) -> Condition:
    """Say whether anybody would run what is due."""
    if case.external and case.around.members is None:
        return case.condition(AVAILABLE, "Unknown", Reason.BACKEND_UNREACHABLE, _away(case))
    if case.ready:
        are = "is" if case.ready == 1 else "are"
        message = f"{counted(case.ready, 'worker')} {are} ready."
        return case.condition(AVAILABLE, "True", Reason.WORKERS_READY, message)
    if case.scale is not None and not case.scale.wanted:
        return case.condition(AVAILABLE, "False", Reason.SCALED_TO_ZERO, "spec.replicas is 0.")
    return case.condition(
        AVAILABLE, "False", Reason.NO_WORKER_READY, "No worker is ready; what is due waits."
    )


def _backend_reachable(case: _Case, outlook: _Outlook) -> Condition:
    """Say whether operator and workers meet: only a worker that is registered where the operator looks shows that."""
    around = case.around
    if outlook.reason in {Reason.BACKEND_NOT_ALLOWED, Reason.BACKEND_NOT_FOUND}:
        return case.condition(BACKEND_REACHABLE, "False", outlook.reason, outlook.message)
    if around.access is Access.DOWN:
        return case.condition(BACKEND_REACHABLE, "False", Reason.BACKEND_UNREACHABLE, _away(case))
    if around.members:
        return case.condition(
            BACKEND_REACHABLE, "True", Reason.WORKERS_REGISTERED, _registered(around.members)
        )
    if outlook.reason is Reason.WORKERS_ELSEWHERE:
        return case.condition(BACKEND_REACHABLE, "False", outlook.reason, outlook.message)
    message = (
        "No worker is registered in the backend, which would show that workers and operator use the same one."
    )
    return case.condition(BACKEND_REACHABLE, "Unknown", Reason.NO_WORKER, message)


# --- The rest --------------------------------------------------------------------------------------------------------

_HANDLER_NAME: Final[TypeAdapter[str]] = TypeAdapter(HandlerName)


def _count(case: _Case, name: str) -> int | None:
    """Return a number of workers; of those that others start, all that are registered are ready."""
    if case.external:
        members = case.around.members
        return getattr(case.seen.status, _FIELDS[name]) if members is None else len(members)
    deployment = case.around.deployment
    return 0 if deployment is None else _number(_mapping(deployment.get("status")), name)


_FIELDS: Final = {"replicas": "replicas", "readyReplicas": "ready_replicas"}


def _selector(case: _Case) -> str | None:
    return None if case.external else f"{POOL_LABEL}={case.seen.name.name}"


def _handlers(case: _Case) -> tuple[str, ...]:
    """Return what running workers have registered; while nobody can look, what they had."""
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


def _again_at(case: _Case, outlook: _Outlook) -> Instant | None:
    """Return when to look again although nothing happened in the cluster."""
    times = [] if outlook.until is None else [outlook.until]
    members = case.around.members
    wanted = 1 if case.external else case.ready
    if members is not None and (len(members) < wanted if case.external else len(members) != wanted):
        times.append(case.now + LOOK_AGAIN)
    return min(times, default=None)


# --- What is said ----------------------------------------------------------------------------------------------------


def _progress(scale: Scale) -> str:
    """Say how many workers are ready, and how far the rollout is."""
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


def _what_to_look_at(case: _Case) -> str:
    """Say what the operator would look at, if it were allowed to see pods and Secrets."""
    namespace, name = case.seen.name
    return (
        f"{SEE_PODS} -n {namespace} -l {POOL_LABEL}={name}, and their logs. They need {_secret(case)}, an "
        "image that can be pulled, runs as a numbered user other than 0 and holds the module and the library, and room on a "
        f"node. The library's release must be the operator's {__version__}, or one next to it."
    )


def _secret(case: _Case) -> str:
    backend = case.around.backend
    if backend is None:
        return "the backend's Secret"
    return f'the key "{backend.secret_key}" of the Secret "{backend.secret_name}" in this namespace'


def _goes_on(case: _Case) -> str:
    there = 0 if case.around.deployment is None else Scale.of(case.around.deployment).there
    return " Until then workers go on as they are." if there else " Until then there are no workers."


def _registered(members: Sequence[Member]) -> str:
    return f"Workers that are registered: {len(members)}.{_of_other_releases(members)}"


def _of_other_releases(members: Sequence[Member]) -> str:
    """Tell of workers that work as they are, and may be refused after the next upgrade; empty if there are none."""
    releases = Counter(member.version for member in members if member.version != __version__)
    if not releases:
        return ""
    named = [
        f"{count} of {cut(release, RELEASE_CHARACTERS_MAX)}"
        for release, count in sorted(releases.items())[:RELEASES_TOLD_MAX]
    ]
    more = ", …" if len(releases) > len(named) else ""
    return (
        f" Of another release of the library than the operator's {__version__}: {', '.join(named)}{more}. Releases next to "
        "each other work together: rebuild the image before the next upgrade of the operator, or upgrade the operator if "
        "it is the older one."
    )


def _away(case: _Case) -> str:
    name = "" if case.around.backend is None else f' "{case.around.backend.name}"'
    fault = case.around.fault
    why = (
        f"cannot be used by the operator: {as_sentence(fault)}" if fault else "does not answer the operator."
    )
    return f"The backend{name} {why} Workers that can reach it keep running."
