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
"""So long a pool may take to bring a worker that knows the handler: as long as a rollout may take by default."""


SETTLING: Final[Duration] = 30 * SECOND
"""
So long a handler may be unknown to workers that are not being replaced. A task and the image with its handler may be
changed in one commit, the task first; and the last worker of a rollout may be ready before it is known of.
"""


OVER: Final = frozenset({Reason.COMPLETED, Reason.MISSED})


REPLACING: Final[Duration] = 30 * SECOND
"""
How long a deleted pool may be missing before its tasks are stalled. `kubectl replace --force` and a sync with replacement
delete a pool and create it again within seconds, and must not page anybody.
"""


class Phase(Enum):
    """Whether a task is ready, for those who wait for it."""

    WELL = "well"
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


def assess(case: TaskContext, handler: Condition) -> Assessment:
    """Assess whether a task is ready. The first obstacle found is reported."""
    task = case.task
    if case.seen.deleting:
        return _under_way(Reason.TERMINATING, _terminating(case))
    if isinstance(task, Refusal):
        return _stuck(_reason_of(task.problems[0]), _refused(case, task))
    barred = _barred(case, task)
    if barred is not None:
        return barred
    if not case.mirrored:
        return _on_the_way(case, task)
    settled = _over(case) or _unservable(case, task, handler)
    if settled is not None:
        return settled
    if task.spec.suspend:
        return _well(Reason.SUSPENDED, SUSPENDED_BY_SPEC)
    exhausted = exhausted_message(case)
    if exhausted is not None:
        return _stuck(Reason.RETRIES_EXHAUSTED, exhausted)
    if not case.pool.exists:
        return _without_pool(case)
    # A handler matters only to what is going to run.
    if handler.reason == Reason.HANDLER_PENDING.value or Reason.of(handler.reason) in UNRESOLVED:
        return _without_handler(case, handler)
    return _well(Reason.SCHEDULED, _scheduled(task, case.pool))


def _barred(case: TaskContext, task: PyncetteTask) -> Assessment | None:
    """Return why the task may not be written to the backend; None if it may."""
    pool = case.pool
    if case.observed.taken_by is not None:
        return _stuck(
            Reason.HANDLER_TAKEN,
            f'The handler "{task.spec.handler}" belongs to the dynamic task {case.observed.taken_by} already: '
            "give this one a handler of its own, or delete one of the two.",
        )
    if not pool.exists or pool.invalid:
        return None
    if pool.access is Access.REFUSED:
        return _stuck(
            Reason.BACKEND_NOT_ALLOWED,
            f'The backend "{pool.backend}" of the pool "{pool.name}" is not available to this namespace: name another in '
            f"the pool's backendRef, or have the namespace added to this one in the operator's settings.{until_then(case)}",
        )
    if pool.access is Access.UNKNOWN:
        return _stuck(
            Reason.BACKEND_NOT_FOUND,
            f'The operator\'s settings have no backend "{pool.backend}", which the pool "{pool.name}" names: '
            f"correct its backendRef, or have the backend added.{until_then(case)}",
        )
    return None


def _on_the_way(case: TaskContext, task: PyncetteTask) -> Assessment:
    """Explain why the backend does not hold this generation, although nothing is wrong with it."""
    pool = case.pool
    if case.observed.moving:
        return _under_way(
            Reason.MOVING,
            f'It moves to the handler "{task.spec.handler}" of the pool "{pool.name}" once its current run has ended.',
        )
    if not pool.exists:
        return _without_pool(case)
    if pool.invalid:
        return _waited_for(case, f'The pool "{pool.name}" {pool.problem}.')
    if pool.access is Access.DOWN:
        return _under_way(Reason.BACKEND_UNREACHABLE, _not_written(case))
    return _under_way(Reason.MIRRORING, f'It is being written to the backend "{pool.backend}".')


def _unservable(case: TaskContext, task: PyncetteTask, handler: Condition) -> Assessment | None:
    """Return the outlook of a dynamic task whose instances are not in the partitions that workers poll, suspended or not."""
    if task.spec.dynamic and Reason.of(handler.reason) in MISMATCHES:
        return _without_handler(case, handler)
    if case.observed.strays:
        return _stuck(Reason.PARTITIONS_DIFFER, _strays(case.observed.strays, task))
    return None


def _without_handler(case: TaskContext, handler: Condition) -> Assessment:
    """A task that no worker can run is waited for for a while, then it is stuck; it becomes well whenever one can."""
    if handler.reason == Reason.HANDLER_PENDING.value:
        return _waited_for(case, handler.message)
    stalled = case.this_generation(STALLED)
    limit = max(_since(case), instant_of(handler.last_transition_time)) + SETTLING
    reason = Reason.of(handler.reason) or Reason.HANDLER_NOT_FOUND
    known = {reason.value for reason in (*UNRESOLVED, Reason.HANDLER_DEADLINE_EXCEEDED)}
    if case.now >= limit or (stalled is not None and stalled.reason in known):
        return _stuck(reason, handler.message)
    return _under_way(reason if reason in MISMATCHES else Reason.HANDLER_PENDING, handler.message, limit)


def _without_pool(case: TaskContext) -> Assessment:
    """Wait for a pool that does not exist yet, and briefly for a deleted one, which may be about to be replaced."""
    missing = Reason.POOL_NOT_FOUND
    if not case.had_pool:
        return _waited_for(case, no_such_pool(case.pool), missing, missing)
    stalled = case.this_generation(STALLED)
    limit = _since(case, missing) + REPLACING
    message = f"{no_such_pool(case.pool)} The pool was deleted."
    if case.now >= limit or (stalled is not None and stalled.reason == missing.value):
        return _stuck(missing, message)
    return _under_way(missing, message, limit)


def _waited_for(
    case: TaskContext,
    message: str,
    early: Reason = Reason.HANDLER_PENDING,
    late: Reason = Reason.HANDLER_DEADLINE_EXCEEDED,
) -> Assessment:
    """Wait for workers that may know the handler, or for the pool: *early* is the reason at first, *late* after `PENDING_MAX`."""
    stalled = case.this_generation(STALLED)
    limit = max(_since(case), _mirrored_since(case)) + PENDING_MAX
    if case.now >= limit or (stalled is not None and stalled.reason == late.value):
        return _stuck(late, f"{message} This has lasted for {PENDING_MAX // SECOND // 60} minutes.")
    return _under_way(early, message, limit)


def _since(case: TaskContext, reason: Reason | None = None) -> Instant:
    """
    Return since when this generation is reconciling, by its stored status: a restart of the operator does not reset that.

    With a *reason*, return since when it has waited for that reason.
    """
    reconciling = case.this_generation(RECONCILING)
    if reconciling is None or (reason is not None and reconciling.reason != reason.value):
        return case.now
    return instant_of(reconciling.last_transition_time)


def _mirrored_since(case: TaskContext) -> Instant:
    """Return since when the backend holds what it holds: the time that it was away is none of the pool's."""
    before = case.before(SCHEDULED)
    if before is None or (before.status == "True") is not case.mirrored:
        return case.now
    return instant_of(before.last_transition_time)


def _over(case: TaskContext) -> Assessment | None:
    """Assess a task without a further occurrence, whether or not it has run; None if it has one or is a template."""
    ready = case.this_generation(READY)
    record = case.record
    told = None if ready is None else Reason.of(ready.reason)
    if ready is not None and told in OVER and (record is None or record.due_at is None):
        return _well(told, ready.message)
    if record is None or record.due_at is not None or record.spec.partitions is not None:
        return None
    if started_of(record, case.policies) is not None or case.observed.beside:
        return None
    schedule, summary = record.spec.schedule, record.state.summary
    if not isinstance(schedule, Once):
        return _well(
            Reason.COMPLETED,
            "Its schedule has no further time: all its times, or all before spec.notAfter, have passed.",
        )
    dropped = summary.counts.missed + summary.counts.skipped
    if dropped and summary.last_scheduled_at != schedule.at:
        return _well(
            Reason.MISSED,
            "spec.executeAt had passed by more than the starting deadline before it could run, so it has not run: "
            "set it to a future time, or request a run by the annotation pyncette.dev/run-requested-at.",
        )
    return _well(
        Reason.COMPLETED,
        "Its one occurrence is over and it does not run again; see status.lastRun for the outcome.",
    )


def _well(reason: Reason, message: str) -> Assessment:
    return Assessment(Phase.WELL, reason, message)


def _under_way(reason: Reason, message: str, until: Instant | None = None) -> Assessment:
    return Assessment(Phase.UNDER_WAY, reason, message, until)


def _stuck(reason: Reason, message: str) -> Assessment:
    return Assessment(Phase.STUCK, reason, message)


def _strays(numbers: Sequence[int], task: PyncetteTask) -> str:
    return (
        f"Instances in unpolled partitions ({', '.join(map(str, numbers))}) do not run: a program with a different "
        f"partition count stored them there. Update that program to {counted(task.spec.partitions, 'partition')}, "
        "and schedule the instances again. Once this task is deleted, pyncette purge removes them with all others."
    )


def _reason_of(problem: Problem) -> Reason:
    return Reason.of(problem.reason) or Reason.INVALID


def _refused(case: TaskContext, refusal: Refusal) -> str:
    said = "; ".join(map(str, refusal.problems))
    tail = until_then(case)
    return as_sentence(cut(said, CONDITION_CHARACTERS_MAX - len(tail) - 1)) + tail


def _terminating(case: TaskContext) -> str:
    stopped = case.record is None or case.record.state.withdrawn_at is not None
    return "It is being deleted, and " + ("it runs no more." if stopped else "it keeps running until then.")


def _not_written(case: TaskContext) -> str:
    """Explain why this generation is not in the backend yet, with the error of the backend if one is known."""
    pool = case.pool
    why = f"cannot be used: {as_sentence(pool.fault)}" if pool.fault else "does not answer."
    return f'The backend "{pool.backend}" {why} This generation is written once the backend is available.{until_then(case)}'


def _scheduled(task: PyncetteTask, pool: ObservedPool) -> str:
    if task.spec.dynamic:
        return f'Its instances are scheduled through the API, and run on workers of the pool "{pool.name}".'
    return f'It runs by its schedule on workers of the pool "{pool.name}".'
