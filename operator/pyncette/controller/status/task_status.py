"""Decides what the status of a PyncetteTask says, from what is known of its spec, its pool and its record."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    READY,
    RECONCILING,
    STALLED,
    Holds,
    condition_of,
)
from pyncette.controller.status.handler_condition import handler_condition
from pyncette.controller.status.observed import ObservedPool, ObservedTask
from pyncette.controller.status.task_context import (
    HANDLER_RESOLVED,
    RUNS_HEALTHY,
    SCHEDULED,
    SUSPENDED,
    SUSPENDED_BY_SPEC,
    Answer,
    StoredTask,
    TaskContext,
    exhausted_message,
)
from pyncette.controller.status.task_phase import OVER, Assessment, Phase, assess
from pyncette.core.record import Outcome, Record
from pyncette.mirror.status import status_of
from pyncette.resources.reading import Refusal
from pyncette.resources.resource import Condition
from pyncette.resources.task import PyncetteTask
from pyncette.resources.task_status import TaskStatus

CONDITIONS: Final = {
    READY: "The task is as its spec wants it: scheduled, suspended by its spec, or over.",
    RECONCILING: "It is not, and becomes so by itself.",
    STALLED: "It is not, and a person has to do something; the message says what.",
    SCHEDULED: "The backend holds this generation of the spec.",
    HANDLER_RESOLVED: "A worker of the pool has registered the handler. Without a worker to ask it keeps its last answer, or is Unknown.",
    SUSPENDED: "Nothing is started: by its spec, or since the attempts of an occurrence are spent.",
    RUNS_HEALTHY: "No occurrence has failed since one last succeeded. It has no influence on Ready.",
}
"""The meaning of each condition when it is True, in the order of the status."""


class TaskReport(NamedTuple):
    """The new status, and when to work it out again."""

    status: TaskStatus
    again_at: Instant | None = None
    """When it changes by itself, without any event; None: never."""


def status_of_task(
    task: PyncetteTask | Refusal, seen: StoredTask, pool: ObservedPool, observed: ObservedTask
) -> TaskReport:
    """
    Return what the status of *task* is to be; the same whenever the same is known.

    Reconciling and Stalled exist only while they are True: kstatus takes their absence for False, so readers need not know
    that False is good for these two. *observed* has the stored record even if the spec is refused: then the last valid
    generation stays in effect.
    """
    context = TaskContext(task, seen, pool, observed)
    handler = context.condition(HANDLER_RESOLVED, *handler_condition(context))
    assessment = assess(context, handler)
    scheduled = (
        Answer("True", Reason.MIRRORED, "The backend holds this generation.")
        if context.mirrored and assessment.reason is not Reason.PARTITIONS_DIFFER
        else Answer("False", assessment.reason, assessment.message)
    )
    conditions = (
        *_summary(context, assessment),
        context.condition(SCHEDULED, *scheduled),
        handler,
        _suspended(context),
        _runs_healthy(context),
    )
    shown = _shown(context).model_copy(
        update={
            "observed_generation": seen.generation,
            "conditions": conditions,
            "locations": observed.locations or seen.status.locations,
        }
    )
    return TaskReport(shown, assessment.until)


def was_mirrored(status: TaskStatus) -> bool:
    """Return whether the backend held a record of the task when *status* was written, or at any time before."""
    healthy = condition_of(status, RUNS_HEALTHY)
    return healthy is not None and healthy.reason != Reason.PENDING.value


def is_over(status: TaskStatus, generation: int) -> bool:
    """Return whether *status* reports that this *generation* has no further occurrence, whether or not it has run."""
    ready = condition_of(status, READY)
    return ready is not None and ready.observed_generation == generation and Reason.of(ready.reason) in OVER


# --- The conditions --------------------------------------------------------------------------------------------------


def _summary(context: TaskContext, assessment: Assessment) -> tuple[Condition, ...]:
    """Return Ready, and Reconciling or Stalled where one is True."""
    _, reason, message, _ = assessment
    holds: Holds = "True" if assessment.phase is Phase.READY else "False"
    ready = context.condition(READY, holds, reason, message)
    if assessment.phase is Phase.READY:
        return (ready,)
    if assessment.phase is Phase.STALLED:
        return (ready, context.condition(STALLED, "True", reason, message))
    # Reconciling is about one generation, so it restarts with each. Time spent waiting for something else does not count
    # towards the time that a deleted pool has to return.
    before = context.this_generation(RECONCILING)
    missing = Reason.POOL_NOT_FOUND
    anew = before is None or (reason is missing and before.reason != missing.value and context.had_pool)
    return (ready, context.condition(RECONCILING, "True", reason, message, anew=anew))


def _suspended(context: TaskContext) -> Condition:
    """Return the condition Suspended; its last value while the record cannot be read."""
    record = context.record
    if record is None:
        return context.before(SUSPENDED) or context.condition(SUSPENDED, *_NOT_SEEN)
    if context.policies.suspend:
        return context.condition(SUSPENDED, "True", Reason.SUSPENDED, _suspended_by(context, record))
    exhausted = exhausted_message(context)
    if exhausted is not None:
        return context.condition(SUSPENDED, "True", Reason.RETRIES_EXHAUSTED, exhausted)
    return context.condition(SUSPENDED, "False", Reason.NOT_SUSPENDED, "")


def _suspended_by(context: TaskContext, record: Record) -> str:
    """Say which generation is suspended, and how that ends."""
    owner = record.state.owner
    if context.mirrored or owner is None:
        return SUSPENDED_BY_SPEC
    if context.seen.suspend:
        return (
            f"spec.suspend is true, so generation {owner.generation} is suspended. The rest of this spec is not in effect; "
            "the condition Ready says why."
        )
    return (
        f"Generation {owner.generation} is suspended by its own spec. The current spec is not in effect; "
        "the condition Ready says why."
    )


_NOT_SEEN: Final = Answer("Unknown", Reason.PENDING, "The backend has no record of it yet.")

_FAILURES: Final = {
    Outcome.LOST: Reason.RUN_LOST,
    Outcome.DEAD_LETTERED: Reason.DEAD_LETTERED,
}
"""Anything else that ended last, while occurrences have failed since the last success, leaves it at `RunFailed`."""


def _runs_healthy(context: TaskContext) -> Condition:
    """Return the condition RunsHealthy, about the last outcomes. It never makes a task unready."""
    record = context.record
    if record is None:
        return context.before(RUNS_HEALTHY) or context.condition(RUNS_HEALTHY, *_NOT_SEEN)
    summary = record.state.summary
    if summary.last_outcome is None:
        return context.condition(RUNS_HEALTHY, "Unknown", Reason.NO_RUN_YET, "No occurrence has ended yet.")
    if not summary.consecutive_failures:
        return context.condition(
            RUNS_HEALTHY, "True", Reason.RUN_SUCCEEDED, "No occurrence has failed since the last success."
        )
    reason = _FAILURES.get(summary.last_outcome, Reason.RUN_FAILED)
    return context.condition(RUNS_HEALTHY, "False", reason, summary.last_message or reason.meaning)


def _shown(context: TaskContext) -> TaskStatus:
    """Return the times and runs of the record; their last values if it cannot be read."""
    record, observed, last = context.record, context.observed, context.seen.status
    if record is None:
        return last
    try:
        return status_of(
            record,
            observed.now,
            side_runs=observed.side_runs,
            last_run_id=observed.last_run_id,
            write_interval=observed.write_interval,
            instances=observed.instances or last.instances,
        )
    except (ValueError, OverflowError):  # a schedule that today's library, or its time zones, cannot read
        return last
