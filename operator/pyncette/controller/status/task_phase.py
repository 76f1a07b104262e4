"""Decides whether a task is ready, gets ready by itself, or is stalled."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    READY,
    RECONCILING,
    STALLED,
    as_sentence,
    counted,
    cut,
    too_many_records,
)
from pyncette.controller.status.handler_condition import MISMATCHES, UNRESOLVED
from pyncette.controller.status.observed import Access, ObservedPool
from pyncette.controller.status.task_context import (
    SCHEDULED,
    SUSPENDED_BY_SPEC,
    TaskContext,
    exhausted_message,
    no_such_pool,
    until_then,
)
from pyncette.core.edits import started_of
from pyncette.core.schedule import Once
from pyncette.core.times import instant_of
from pyncette.resources.reading import Problem, Refusal
from pyncette.resources.resource import CONDITION_CHARACTERS_MAX, Condition
from pyncette.resources.task import PyncetteTask

PENDING_MAX: Final[Duration] = 600 * SECOND
"""How long a pool may take to start a worker with the handler: as long as a rollout may take by default."""

SETTLING: Final[Duration] = 30 * SECOND
"""
How long workers that are not being replaced may lack the handler. A task and the image with its handler may be changed
in one commit, the task first; and the last worker of a rollout may be ready before it is registered.
"""

OVER: Final = frozenset({Reason.COMPLETED, Reason.MISSED})

REPLACING: Final[Duration] = 30 * SECOND
"""
How long a deleted pool may be missing before its tasks are stalled. `kubectl replace --force` and a sync with replacement
delete a pool and create it again within seconds, and must not page anybody.
"""


class Phase(Enum):
    """Whether a task is ready, for those who wait for it."""

    READY = "ready"
    RECONCILING = "reconciling"
    """It may become ready by itself; if not, it is stalled in the end."""
    STALLED = "stalled"
    """A person has to fix it."""


class Assessment(NamedTuple):
    """The phase of a task, and why it is in it."""

    phase: Phase
    reason: Reason
    message: str
    until: Instant | None = None
    """When it becomes stalled, if nothing changes."""


def assess(context: TaskContext, handler: Condition) -> Assessment:
    """Assess whether a task is ready. The first obstacle found is reported."""
    task = context.task
    if context.seen.deleting:
        return _reconciling(Reason.TERMINATING, _terminating(context))
    if isinstance(task, Refusal):
        return _stalled(_reason_of(task.problems[0]), _refused(context, task))
    refused = _refused_backend(context, task)
    if refused is not None:
        return refused
    if not context.mirrored:
        return _not_mirrored(context, task)
    settled = _over(context) or _unservable(context, task, handler)
    if settled is not None:
        return settled
    if task.spec.suspend:
        return _ready(Reason.SUSPENDED, SUSPENDED_BY_SPEC)
    exhausted = exhausted_message(context)
    if exhausted is not None:
        return _stalled(Reason.RETRIES_EXHAUSTED, exhausted)
    if not context.pool.exists:
        return _without_pool(context)
    # A handler matters only to what is going to run.
    if handler.reason == Reason.HANDLER_PENDING.value or Reason.of(handler.reason) in UNRESOLVED:
        return _without_handler(context, handler)
    return _ready(Reason.SCHEDULED, _scheduled(task, context.pool))


def _refused_backend(context: TaskContext, task: PyncetteTask) -> Assessment | None:
    """Return why the task may not be written to the backend; None if it may."""
    pool = context.pool
    if context.observed.taken_by is not None:
        return _stalled(
            Reason.HANDLER_TAKEN,
            f'The handler "{task.spec.handler}" belongs to the dynamic task {context.observed.taken_by} already: '
            "give this one a handler of its own, or delete one of the two.",
        )
    if not pool.exists or pool.invalid:
        return None
    if pool.access is Access.REFUSED:
        return _stalled(
            Reason.BACKEND_NOT_ALLOWED,
            f'The backend "{pool.backend}" of the pool "{pool.name}" is not available to this namespace: name another in '
            f"the pool's backendRef, or have the namespace added to this one in the operator's settings.{until_then(context)}",
        )
    if pool.access is Access.UNKNOWN:
        return _stalled(
            Reason.BACKEND_NOT_FOUND,
            f'The operator\'s settings have no backend "{pool.backend}", which the pool "{pool.name}" names: '
            f"correct its backendRef, or have the backend added.{until_then(context)}",
        )
    return None


def _not_mirrored(context: TaskContext, task: PyncetteTask) -> Assessment:
    """Assess a valid task whose generation is not in the backend yet."""
    pool = context.pool
    if context.observed.moving:
        return _reconciling(
            Reason.MOVING,
            f'It moves to the handler "{task.spec.handler}" of the pool "{pool.name}" once its current run has ended.',
        )
    if not pool.exists:
        return _without_pool(context)
    if pool.invalid:
        return _waiting(context, f'The pool "{pool.name}" {pool.problem}.')
    if pool.access is Access.DOWN:
        return _reconciling(Reason.BACKEND_UNREACHABLE, _not_written(context))
    if pool.access is Access.OVERFULL:
        return _stalled(Reason.TOO_MANY_RECORDS, too_many_records(pool.backend))
    return _reconciling(Reason.MIRRORING, f'It is being written to the backend "{pool.backend}".')


def _unservable(context: TaskContext, task: PyncetteTask, handler: Condition) -> Assessment | None:
    """Assess a dynamic task, suspended or not; None if its instances are in the partitions that workers poll."""
    if task.spec.dynamic and Reason.of(handler.reason) in MISMATCHES:
        return _without_handler(context, handler)
    if context.observed.strays:
        return _stalled(Reason.PARTITIONS_DIFFER, _strays(context.observed.strays, task))
    return None


def _without_handler(context: TaskContext, handler: Condition) -> Assessment:
    """Wait for a worker that can run the task; after `SETTLING` the task is stalled, until one can."""
    if handler.reason == Reason.HANDLER_PENDING.value:
        return _waiting(context, handler.message)
    stalled = context.this_generation(STALLED)
    limit = max(_since(context), instant_of(handler.last_transition_time)) + SETTLING
    reason = Reason.of(handler.reason) or Reason.HANDLER_NOT_FOUND
    known = {reason.value for reason in (*UNRESOLVED, Reason.HANDLER_DEADLINE_EXCEEDED)}
    if context.now >= limit or (stalled is not None and stalled.reason in known):
        return _stalled(reason, handler.message)
    return _reconciling(reason if reason in MISMATCHES else Reason.HANDLER_PENDING, handler.message, limit)


def _without_pool(context: TaskContext) -> Assessment:
    """Wait for a pool that does not exist yet, and briefly for a deleted one, which may be about to be replaced."""
    missing = Reason.POOL_NOT_FOUND
    if not context.had_pool:
        return _waiting(context, no_such_pool(context.pool), missing, missing)
    stalled = context.this_generation(STALLED)
    limit = _since(context, missing) + REPLACING
    message = f"{no_such_pool(context.pool)} The pool was deleted."
    if context.now >= limit or (stalled is not None and stalled.reason == missing.value):
        return _stalled(missing, message)
    return _reconciling(missing, message, limit)


def _waiting(
    context: TaskContext,
    message: str,
    early: Reason = Reason.HANDLER_PENDING,
    late: Reason = Reason.HANDLER_DEADLINE_EXCEEDED,
) -> Assessment:
    """Wait for workers that may know the handler, or for the pool: *early* is the reason at first, *late* after `PENDING_MAX`."""
    stalled = context.this_generation(STALLED)
    limit = max(_since(context), _mirrored_since(context)) + PENDING_MAX
    if context.now >= limit or (stalled is not None and stalled.reason == late.value):
        return _stalled(late, f"{message} This has lasted for {PENDING_MAX // SECOND // 60} minutes.")
    return _reconciling(early, message, limit)


def _since(context: TaskContext, reason: Reason | None = None) -> Instant:
    """
    Return since when this generation is reconciling, by its stored status: a restart of the operator does not reset that.

    With a *reason*, return since when it has waited for that reason.
    """
    reconciling = context.this_generation(RECONCILING)
    if reconciling is None or (reason is not None and reconciling.reason != reason.value):
        return context.now
    return instant_of(reconciling.last_transition_time)


def _mirrored_since(context: TaskContext) -> Instant:
    """Return since when the backend holds its current generation: an outage of the backend does not count for the pool."""
    before = context.before(SCHEDULED)
    if before is None or (before.status == "True") is not context.mirrored:
        return context.now
    return instant_of(before.last_transition_time)


def _over(context: TaskContext) -> Assessment | None:
    """Assess a task without a further occurrence, whether or not it has run; None if it has one or is a template."""
    ready = context.this_generation(READY)
    record = context.record
    last = None if ready is None else Reason.of(ready.reason)
    if ready is not None and last in OVER and (record is None or record.due_at is None):
        return _ready(last, ready.message)
    if record is None or record.due_at is not None or record.spec.partitions is not None:
        return None
    if started_of(record, context.policies) is not None or context.observed.side_runs:
        return None
    schedule, summary = record.spec.schedule, record.state.summary
    if not isinstance(schedule, Once):
        return _ready(
            Reason.COMPLETED,
            "Its schedule has no further time: all its times, or all before spec.notAfter, have passed.",
        )
    dropped = summary.counts.missed + summary.counts.skipped
    if dropped and summary.last_scheduled_at != schedule.at:
        return _ready(
            Reason.MISSED,
            "spec.executeAt had passed by more than the starting deadline before it could run, so it has not run: "
            "set it to a future time, or request a run by the annotation pyncette.dev/run-requested-at.",
        )
    return _ready(
        Reason.COMPLETED,
        "Its one occurrence is over and it does not run again; see status.lastRun for the outcome.",
    )


def _ready(reason: Reason, message: str) -> Assessment:
    return Assessment(Phase.READY, reason, message)


def _reconciling(reason: Reason, message: str, until: Instant | None = None) -> Assessment:
    return Assessment(Phase.RECONCILING, reason, message, until)


def _stalled(reason: Reason, message: str) -> Assessment:
    return Assessment(Phase.STALLED, reason, message)


def _strays(numbers: Sequence[int], task: PyncetteTask) -> str:
    return (
        f"Instances in unpolled partitions ({', '.join(map(str, numbers))}) do not run: a program with a different "
        f"partition count stored them there. Update that program to {counted(task.spec.partitions, 'partition')}, "
        "and schedule the instances again. Once this task is deleted, pyncette purge removes them with all others."
    )


def _reason_of(problem: Problem) -> Reason:
    return Reason.of(problem.reason) or Reason.INVALID


def _refused(context: TaskContext, refusal: Refusal) -> str:
    said = "; ".join(map(str, refusal.problems))
    tail = until_then(context)
    return as_sentence(cut(said, CONDITION_CHARACTERS_MAX - len(tail) - 1)) + tail


def _terminating(context: TaskContext) -> str:
    stopped = context.record is None or context.record.state.withdrawn_at is not None
    return "It is being deleted, and " + (
        "it no longer runs." if stopped else "it runs until its finalizers are removed."
    )


def _not_written(context: TaskContext) -> str:
    """Explain why this generation is not in the backend yet, with the error of the backend if one is known."""
    pool = context.pool
    why = f"cannot be used: {as_sentence(pool.fault)}" if pool.fault else "does not answer."
    return f'The backend "{pool.backend}" {why} This generation is written once the backend is available.{until_then(context)}'


def _scheduled(task: PyncetteTask, pool: ObservedPool) -> str:
    if task.spec.dynamic:
        return f'Its instances are scheduled through the API, and run on workers of the pool "{pool.name}".'
    return f'It runs by its schedule on workers of the pool "{pool.name}".'
