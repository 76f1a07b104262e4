"""Decides what the status of a PyncetteTask says, from what is known of its spec, its pool and its record."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.cluster.api import Manifest
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
from pyncette.controller.status.facts import Access, PoolFacts, TaskFacts
from pyncette.coordination.members import Member
from pyncette.core.edits import started_of
from pyncette.core.record import Outcome, Record
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies
from pyncette.core.times import instant_of
from pyncette.mirror.conversion import RESUME
from pyncette.mirror.status import status_of
from pyncette.resources.modelling import whole_second
from pyncette.resources.reading import Problem, Refusal, not_dynamic, other_partitions, unknown_handler
from pyncette.resources.resource import CONDITION_CHARACTERS_MAX, Condition
from pyncette.resources.task import HandlerName, PyncetteTask, TaskStatus

SCHEDULED: Final = "Scheduled"
HANDLER_RESOLVED: Final = "HandlerResolved"
SUSPENDED: Final = "Suspended"
RUNS_HEALTHY: Final = "RunsHealthy"

CONDITIONS: Final = {
    READY: "The task is as its spec wants it: scheduled, suspended by its spec, or over.",
    RECONCILING: "It is not, and becomes so by itself.",
    STALLED: "It is not, and a person has to do something; the message says what.",
    SCHEDULED: "The backend holds this generation of the spec.",
    HANDLER_RESOLVED: "A worker of the pool has registered the handler. Without a worker to ask it keeps its last answer, or is Unknown.",
    SUSPENDED: "Nothing is started: by its spec, or since the attempts of an occurrence are spent.",
    RUNS_HEALTHY: "No occurrence has failed since one last succeeded. It has no influence on Ready.",
}
"""What each condition says when it is True; all of them, in the order in which they stand."""

PENDING_MAX: Final[Duration] = 600 * SECOND
"""So long a pool may take to bring a worker that knows the handler: as long as a rollout may take by default."""

SETTLING: Final[Duration] = 30 * SECOND
"""
So long a handler may be unknown to workers that are not being replaced. A task and the image with its handler may be
changed in one commit, the task first; and the last worker of a rollout may be ready before it is known of.
"""

OVER: Final = frozenset({Reason.COMPLETED, Reason.MISSED})

MISMATCHES: Final = frozenset({Reason.PARTITIONS_DIFFER, Reason.HANDLER_NOT_DYNAMIC})
"""Why workers that have registered the handler cannot run it."""

UNRESOLVED: Final = frozenset({Reason.HANDLER_NOT_FOUND, *MISMATCHES})
"""Why no running worker can run the handler."""

ANSWERS: Final = frozenset({Reason.HANDLER_REGISTERED, *UNRESOLVED})
"""What workers have said of the handler."""

NEVER_ASKED: Final = frozenset(
    {Reason.PENDING.value, Reason.HANDLER_PENDING.value, Reason.POOL_NOT_FOUND.value}
)

REPLACING: Final[Duration] = 30 * SECOND
"""
How long a deleted pool may be missing before its tasks are stalled. `kubectl replace --force` and a sync with replacement
delete a pool and create it again within seconds, and must not page anybody.
"""


class Stored(NamedTuple):
    """A PyncetteTask as the API server holds it, but for its spec."""

    uid: str
    generation: int
    status: TaskStatus = TaskStatus()
    """As it was written last; that of the schema if it cannot be read."""
    deleting: bool = False
    """It has a deletionTimestamp, and somebody's finalizer keeps it for now."""
    handler: str | None = None
    """The handler that its spec names, even if the spec is invalid for another reason."""
    suspend: bool = False
    """Whether `spec.suspend` is true, even if the rest of the spec is invalid."""

    @classmethod
    def of(cls, manifest: Manifest, status: TaskStatus) -> Stored:
        """Return a task as the API server stores it, with its *status* as far as that is valid."""
        meta, spec = manifest["metadata"], manifest.get("spec")
        fields = spec if isinstance(spec, dict) else {}
        return cls(
            uid=meta["uid"],
            generation=meta.get("generation", 0),
            status=status,
            deleting="deletionTimestamp" in meta,
            handler=_handler_in(fields),
            suspend=fields.get("suspend") is True,
        )


def _handler_in(spec: Manifest) -> str | None:
    try:
        return _HANDLER_NAME.validate_python(spec.get("handler"), strict=True)
    except ValidationError:
        return None


_HANDLER_NAME: Final[TypeAdapter[str]] = TypeAdapter(HandlerName)


class Told(NamedTuple):
    """What the status is to be, and when it is to be worked out again."""

    status: TaskStatus
    again_at: Instant | None = None
    """When it changes by itself, without any event; None: never."""


def status_of_task(task: PyncetteTask | Refusal, seen: Stored, pool: PoolFacts, facts: TaskFacts) -> Told:
    """
    Return what the status of *task* is to be; the same whenever the same is known.

    Reconciling and Stalled are there only while they hold: kstatus takes their absence for False, and so nobody who
    looks at a list of conditions has to know that these two are good when they do not hold. *facts* tell of the record that
    the backend holds, also where the spec is refused: then the last good generation goes on.
    """
    case = _Case(task, seen, pool, facts)
    handler = case.condition(HANDLER_RESOLVED, *_handler(case))
    outlook = _outlook(case, handler)
    scheduled = (
        _Answer("True", Reason.MIRRORED, "The backend holds this generation.")
        if case.mirrored and outlook.reason is not Reason.PARTITIONS_DIFFER
        else _Answer("False", outlook.reason, outlook.message)
    )
    conditions = (
        *_summary(case, outlook),
        case.condition(SCHEDULED, *scheduled),
        handler,
        _suspended(case),
        _runs_healthy(case),
    )
    shown = _shown(case).model_copy(update={"observed_generation": seen.generation, "conditions": conditions})
    return Told(shown, outlook.until)


def was_mirrored(status: TaskStatus) -> bool:
    """Say whether the backend held a record of the task when *status* was written, or at any time before."""
    told = condition_of(status, RUNS_HEALTHY)
    return told is not None and told.reason != Reason.PENDING.value


def is_over(status: TaskStatus, generation: int) -> bool:
    """Say whether *status* tells that this *generation* has no further occurrence, whether or not it has run."""
    ready = condition_of(status, READY)
    return ready is not None and ready.observed_generation == generation and Reason.of(ready.reason) in OVER


# --- What is known ---------------------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    """What a condition says."""

    holds: Holds
    reason: Reason
    message: str


class _Case(NamedTuple):
    """All that is known of one task, and what follows at once from it."""

    task: PyncetteTask | Refusal
    seen: Stored
    pool: PoolFacts
    facts: TaskFacts

    @property
    def record(self) -> Record | None:
        return self.facts.record

    @property
    def policies(self) -> Policies:
        return (self.record and self.record.spec.policies) or Policies()

    @property
    def now(self) -> Instant:
        """In whole seconds, as Kubernetes tells times: what is measured from a condition is then the same in each pass."""
        return whole_second(self.facts.now)

    @property
    def mirrored(self) -> bool:
        """Say whether the backend holds this generation; while it cannot be asked, whether it did."""
        record = self.record
        if self.facts.moving:
            return False
        if record is None:
            before = self.this_generation(SCHEDULED)
            cannot_be_asked = not self.pool.exists or self.pool.access is not Access.OPEN
            return cannot_be_asked and before is not None and before.status == "True"
        owner = record.state.owner
        return (
            owner is not None
            and (owner.uid, record.state.withdrawn_at) == (self.seen.uid, None)
            and owner.generation >= self.seen.generation
        )

    @property
    def had_pool(self) -> bool:
        """Whether the pool existed when the backend was last written to: if it is missing now, it was deleted."""
        record = self.record
        if record is None:
            return self.mirrored
        pool = record.key.partition.realm.rpartition("/")[2]
        return pool == self.pool.name and record.state.withdrawn_at is None

    @property
    def handler(self) -> str | None:
        """The desired handler; if the spec is refused, the handler of the record, or else the one that the spec names."""
        if not isinstance(self.task, Refusal):
            return self.task.spec.handler
        return self.seen.handler if self.record is None else self.record.key.partition.handler

    def before(self, kind: str) -> Condition | None:
        """Return a condition as it was written last."""
        return condition_of(self.seen.status, kind)

    def this_generation(self, kind: str) -> Condition | None:
        """Return a condition as it was written last, if that was of this generation."""
        before = self.before(kind)
        return before if before is not None and before.observed_generation == self.seen.generation else None

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
    """How a task stands, as those see it who wait for it."""

    WELL = "well"
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


def _outlook(case: _Case, handler: Condition) -> _Outlook:
    """Decide what stands in the way, the first thing first: all branches of the question whether a task is well."""
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
        return _well(Reason.SUSPENDED, _SUSPENDED_BY_SPEC)
    exhausted = _exhausted(case)
    if exhausted is not None:
        return _stuck(Reason.RETRIES_EXHAUSTED, exhausted)
    if not case.pool.exists:
        return _without_pool(case)
    # A handler matters only to what is going to run.
    if handler.reason == Reason.HANDLER_PENDING.value or Reason.of(handler.reason) in UNRESOLVED:
        return _without_handler(case, handler)
    return _well(Reason.SCHEDULED, _scheduled(task, case.pool))


def _barred(case: _Case, task: PyncetteTask) -> _Outlook | None:
    """Tell of what keeps the task out of the backend for good; None: nothing does."""
    pool = case.pool
    if case.facts.taken_by is not None:
        return _stuck(
            Reason.HANDLER_TAKEN,
            f'The handler "{task.spec.handler}" belongs to the dynamic task {case.facts.taken_by} already: '
            "give this one a handler of its own, or delete one of the two.",
        )
    if not pool.exists or pool.invalid:
        return None
    if pool.access is Access.REFUSED:
        return _stuck(
            Reason.BACKEND_NOT_ALLOWED,
            f'The backend "{pool.backend}" of the pool "{pool.name}" is not open to this namespace: name another in '
            f"the pool's backendRef, or have the namespace added to this one in the operator's settings.{_goes_on(case)}",
        )
    if pool.access is Access.UNKNOWN:
        return _stuck(
            Reason.BACKEND_NOT_FOUND,
            f'The operator\'s settings have no backend "{pool.backend}", which the pool "{pool.name}" names: '
            f"correct its backendRef, or have the backend added.{_goes_on(case)}",
        )
    return None


def _on_the_way(case: _Case, task: PyncetteTask) -> _Outlook:
    """Say why the backend does not hold this generation, although nothing is wrong with it."""
    pool = case.pool
    if case.facts.moving:
        return _under_way(
            Reason.MOVING,
            f'It goes to the handler "{task.spec.handler}" of the pool "{pool.name}" once what runs at the old place is over.',
        )
    if not pool.exists:
        return _without_pool(case)
    if pool.invalid:
        return _waited_for(case, f'The pool "{pool.name}" {pool.problem}.')
    if pool.access is Access.DOWN:
        return _under_way(Reason.BACKEND_UNREACHABLE, _not_written(case))
    return _under_way(Reason.MIRRORING, f'It is being written to the backend "{pool.backend}".')


def _unservable(case: _Case, task: PyncetteTask, handler: Condition) -> _Outlook | None:
    """Return the outlook of a dynamic task whose instances are not in the partitions that workers poll, suspended or not."""
    if task.spec.dynamic and Reason.of(handler.reason) in MISMATCHES:
        return _without_handler(case, handler)
    if case.facts.strays:
        return _stuck(Reason.PARTITIONS_DIFFER, _strays(case.facts.strays, task))
    return None


def _without_handler(case: _Case, handler: Condition) -> _Outlook:
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


def _without_pool(case: _Case) -> _Outlook:
    """Wait for a pool that does not exist yet, and briefly for a deleted one, which may be about to be replaced."""
    missing = Reason.POOL_NOT_FOUND
    if not case.had_pool:
        return _waited_for(case, _no_pool(case.pool), missing, missing)
    stalled = case.this_generation(STALLED)
    limit = _since(case, missing) + REPLACING
    message = f"{_no_pool(case.pool)} The pool was deleted."
    if case.now >= limit or (stalled is not None and stalled.reason == missing.value):
        return _stuck(missing, message)
    return _under_way(missing, message, limit)


def _waited_for(
    case: _Case,
    message: str,
    early: Reason = Reason.HANDLER_PENDING,
    late: Reason = Reason.HANDLER_DEADLINE_EXCEEDED,
) -> _Outlook:
    """Wait for workers that may know the handler, or for the pool: *early* is the reason at first, *late* after `PENDING_MAX`."""
    stalled = case.this_generation(STALLED)
    limit = max(_since(case), _mirrored_since(case)) + PENDING_MAX
    if case.now >= limit or (stalled is not None and stalled.reason == late.value):
        return _stuck(late, f"{message} It has been so for {PENDING_MAX // SECOND // 60} minutes.")
    return _under_way(early, message, limit)


def _since(case: _Case, reason: Reason | None = None) -> Instant:
    """
    Return since when this generation is on its way, by what is stored: an operator that restarts does not begin anew.

    With a *reason*, return since when it has waited for that reason.
    """
    reconciling = case.this_generation(RECONCILING)
    if reconciling is None or (reason is not None and reconciling.reason != reason.value):
        return case.now
    return instant_of(reconciling.last_transition_time)


def _mirrored_since(case: _Case) -> Instant:
    """Return since when the backend holds what it holds: the time that it was away is none of the pool's."""
    before = case.before(SCHEDULED)
    if before is None or (before.status == "True") is not case.mirrored:
        return case.now
    return instant_of(before.last_transition_time)


def _over(case: _Case) -> _Outlook | None:
    """Tell of a task without a further occurrence, whether or not it has run; None: there is one, or it is a template."""
    ready = case.this_generation(READY)
    record = case.record
    told = None if ready is None else Reason.of(ready.reason)
    if ready is not None and told in OVER and (record is None or record.due_at is None):
        return _well(told, ready.message)
    if record is None or record.due_at is not None or record.spec.partitions is not None:
        return None
    if started_of(record, case.policies) is not None or case.facts.beside:
        return None
    schedule, summary = record.spec.schedule, record.state.summary
    if not isinstance(schedule, Once):
        return _well(
            Reason.COMPLETED,
            "Its schedule has no further time: all that there were, or all before spec.notAfter, have passed.",
        )
    dropped = summary.counts.missed + summary.counts.skipped
    if dropped and summary.last_scheduled_at != schedule.at:
        return _well(
            Reason.MISSED,
            "spec.executeAt had passed by more than the starting deadline before it could run, so it has not run: "
            "set it to a time to come, or ask for a run by the annotation pyncette.dev/run-requested-at.",
        )
    return _well(
        Reason.COMPLETED,
        "Its one occurrence is over, and it does not run again; status.lastRun tells how it went.",
    )


def _well(reason: Reason, message: str) -> _Outlook:
    return _Outlook(_Phase.WELL, reason, message)


def _under_way(reason: Reason, message: str, until: Instant | None = None) -> _Outlook:
    return _Outlook(_Phase.UNDER_WAY, reason, message, until)


def _stuck(reason: Reason, message: str) -> _Outlook:
    return _Outlook(_Phase.STUCK, reason, message)


# --- The conditions --------------------------------------------------------------------------------------------------


def _summary(case: _Case, outlook: _Outlook) -> tuple[Condition, ...]:
    """Return Ready, and beside it Reconciling or Stalled if that is so."""
    _, reason, message, _ = outlook
    holds: Holds = "True" if outlook.phase is _Phase.WELL else "False"
    ready = case.condition(READY, holds, reason, message)
    if outlook.phase is _Phase.WELL:
        return (ready,)
    if outlook.phase is _Phase.STUCK:
        return (ready, case.condition(STALLED, "True", reason, message))
    # Reconciling is about one generation, so it begins anew with each. Time spent waiting for something else does not count
    # towards the time that a deleted pool has to return.
    before = case.this_generation(RECONCILING)
    missing = Reason.POOL_NOT_FOUND
    anew = before is None or (reason is missing and before.reason != missing.value and case.had_pool)
    return (ready, case.condition(RECONCILING, "True", reason, message, anew=anew))


def _handler(case: _Case) -> _Answer:
    """Say whether workers know the handler; a pool that changes, or has no worker, is no reason to deny it."""
    pool, name = case.pool, case.handler
    before = case.before(HANDLER_RESOLVED)
    members = pool.members or ()
    if name is None:
        return _Answer("Unknown", Reason.INVALID, "The spec has no valid handler.")
    if not pool.exists:
        return _Answer("Unknown", Reason.POOL_NOT_FOUND, _no_pool(pool))
    knowing = [member for member in members if name in member.handlers]
    if knowing:
        return _mismatch(case, name, knowing) or _Answer(
            "True", Reason.HANDLER_REGISTERED, f'Workers of the pool "{pool.name}" have registered "{name}".'
        )
    if members:
        said = unknown_handler(name, {known for member in members for known in member.handlers})
        said = as_sentence(f'In the pool "{pool.name}", {said}')
        if pool.rolling_out:
            return _Answer(
                "Unknown", Reason.HANDLER_PENDING, f"{said} A rollout is under way that may bring it."
            )
        return _Answer(
            "False",
            Reason.HANDLER_NOT_FOUND,
            f"{said} Correct spec.handler, or register it in the pool's task module and roll that out.",
        )
    last = case.this_generation(HANDLER_RESOLVED)
    answer = None if last is None else Reason.of(last.reason)
    if last is not None and answer in ANSWERS:
        return _Answer(last.status, answer, last.message)
    asked = before is not None and before.reason not in NEVER_ASKED
    if asked or pool.wanted == 0:
        return _Answer(
            "Unknown",
            Reason.NO_WORKER,
            f'The pool "{pool.name}" has no running worker that could confirm the handler.{_problem(pool)}',
        )
    return _Answer(
        "Unknown", Reason.HANDLER_PENDING, f'The pool "{pool.name}" has no worker yet.{_problem(pool)}'
    )


def _mismatch(case: _Case, name: str, knowing: Sequence[Member]) -> _Answer | None:
    """Return why no worker that has registered the handler can run it for this task; None if one can."""
    reason, message, stored = Reason.PARTITIONS_DIFFER, _refusal(case, name), _stored_count(case)
    fitting = knowing
    if isinstance(case.task, PyncetteTask) and case.task.spec.dynamic:
        wanted = case.task.spec.partitions
        # An older release does not publish its partition counts.
        fitting = [one for one in knowing if one.partitions is None or one.count_of(name) == wanted]
        counts = [count for one in knowing if (count := one.count_of(name)) is not None]
        if not fitting and counts:
            message = f"spec.partitions: {other_partitions(wanted, counts)}. {_RECREATE}"
        elif not fitting:
            reason, message = Reason.HANDLER_NOT_DYNAMIC, f"spec.handler: {not_dynamic(name)}"
    if any(
        name not in one.refused or (stored is not None and one.count_of(name) == stored) for one in fitting
    ):
        return None  # a worker whose count matches the stored one by now is about to accept the handler again
    if case.pool.rolling_out:
        return _Answer(
            "Unknown", Reason.HANDLER_PENDING, f"{message}. A rollout is under way that may change it."
        )
    return _Answer("False", reason, f"{message}.")


_RECREATE: Final = "The field is immutable: delete this task, and apply it again with that number"


def _stored_count(case: _Case) -> int | None:
    """Return the stored partition count of the template; None if it is unknown, or if this is not a template."""
    return None if case.record is None else case.record.spec.partitions


def _refusal(case: _Case, name: str) -> str:
    """Return the message for a handler that all workers refuse, since its stored partition count is not theirs."""
    stored = _stored_count(case)
    where = (
        "a number of partitions that differs from the task module"
        if stored is None
        else f"{counted(stored, 'partition')}, but the task module declares a different number"
    )
    return (
        f'Workers of the pool "{case.pool.name}" refuse the handler "{name}": its instances are stored in {where}. '
        "Roll out a module with the stored number, "
        "or move or remove the instances; workers then accept the handler without a restart"
    )


def _strays(numbers: Sequence[int], task: PyncetteTask) -> str:
    return (
        f"Instances in unpolled partitions ({', '.join(map(str, numbers))}) do not run: a program with a different "
        f"partition count stored them there. Update that program to {counted(task.spec.partitions, 'partition')}, "
        "and schedule the instances again. Once this task is deleted, pyncette purge removes them with all others."
    )


def _suspended(case: _Case) -> Condition:
    """Say what keeps the record from running; as long as it cannot be looked at, what was said last."""
    record = case.record
    if record is None:
        return case.before(SUSPENDED) or case.condition(SUSPENDED, *_NOT_SEEN)
    if case.policies.suspend:
        return case.condition(SUSPENDED, "True", Reason.SUSPENDED, _suspended_by(case, record))
    exhausted = _exhausted(case)
    if exhausted is not None:
        return case.condition(SUSPENDED, "True", Reason.RETRIES_EXHAUSTED, exhausted)
    return case.condition(SUSPENDED, "False", Reason.NOT_SUSPENDED, "")


def _suspended_by(case: _Case, record: Record) -> str:
    """Say what is suspended, and how that ends, even if only the suspension of the current spec is in effect."""
    owner = record.state.owner
    if case.mirrored or owner is None:
        return _SUSPENDED_BY_SPEC
    if case.seen.suspend:
        return (
            f"spec.suspend is true, so generation {owner.generation} is suspended. The rest of this spec is not in effect; "
            "the condition Ready says why."
        )
    return (
        f"Generation {owner.generation} is suspended by its own spec. The current spec is not in effect; "
        "the condition Ready says why."
    )


_SUSPENDED_BY_SPEC: Final = (
    "spec.suspend is true: set it to false, and it goes on with the first time after that."
)

_NOT_SEEN: Final = _Answer("Unknown", Reason.PENDING, "The backend holds nothing of it so far.")

_FAILURES: Final = {
    Outcome.LOST: Reason.RUN_LOST,
    Outcome.DEAD_LETTERED: Reason.DEAD_LETTERED,
}
"""Anything else that ended last, while occurrences have failed since the last success, leaves it at `RunFailed`."""


def _runs_healthy(case: _Case) -> Condition:
    """Say how it went last; that is what people look at, and never what makes a task unready."""
    record = case.record
    if record is None:
        return case.before(RUNS_HEALTHY) or case.condition(RUNS_HEALTHY, *_NOT_SEEN)
    summary = record.state.summary
    if summary.last_outcome is None:
        return case.condition(RUNS_HEALTHY, "Unknown", Reason.NO_RUN_YET, "No occurrence has ended yet.")
    if not summary.consecutive_failures:
        return case.condition(
            RUNS_HEALTHY, "True", Reason.RUN_SUCCEEDED, "Nothing has failed since the last success."
        )
    reason = _FAILURES.get(summary.last_outcome, Reason.RUN_FAILED)
    return case.condition(RUNS_HEALTHY, "False", reason, summary.last_message or reason.meaning)


def _shown(case: _Case) -> TaskStatus:
    """Return what the record tells of times and runs; without one that can be read, what was told last."""
    record, facts, last = case.record, case.facts, case.seen.status
    if record is None:
        return last
    try:
        return status_of(
            record,
            facts.now,
            beside=facts.beside,
            last_run_id=facts.last_run_id,
            write_interval=facts.write_interval,
            instances=facts.instances or last.instances,
        )
    except (ValueError, OverflowError):  # a schedule that today's library, or its time zones, cannot read
        return last


# --- What is said ----------------------------------------------------------------------------------------------------


def _reason_of(problem: Problem) -> Reason:
    return Reason.of(problem.reason) or Reason.INVALID


def _refused(case: _Case, refusal: Refusal) -> str:
    said = "; ".join(map(str, refusal.problems))
    tail = _goes_on(case)
    return as_sentence(cut(said, CONDITION_CHARACTERS_MAX - len(tail) - 1)) + tail


def _goes_on(case: _Case) -> str:
    """Say what runs in the meantime, as far as that is known."""
    record = case.record
    if record is None or record.state.withdrawn_at is not None or record.state.owner is None:
        return (
            ""
            if record is None and case.pool.access is not Access.OPEN
            else " Nothing of it runs until then."
        )
    does = "is suspended" if case.policies.suspend else "goes on"
    return f" Until then generation {record.state.owner.generation} {does}."


def _terminating(case: _Case) -> str:
    stopped = case.record is None or case.record.state.withdrawn_at is not None
    return "It is being deleted, and " + (
        "nothing of it runs any more." if stopped else "goes on until it is gone."
    )


def _no_pool(pool: PoolFacts) -> str:
    return f'There is no PyncetteWorkerPool "{pool.name}" in this namespace: create it, or correct spec.workerPoolRef.'


def _problem(pool: PoolFacts) -> str:
    """Return a sentence about the problem of the pool, if one is known."""
    return f" It {pool.problem}." if pool.problem else ""


def _not_written(case: _Case) -> str:
    """Say why this generation is not in the backend yet, with the error of the backend if one is known."""
    pool = case.pool
    why = f"cannot be used: {as_sentence(pool.fault)}" if pool.fault else "does not answer."
    return f'The backend "{pool.backend}" {why} This generation is written once the backend is available.{_goes_on(case)}'


def _exhausted(case: _Case) -> str | None:
    """Say how to end the suspension by exhaustion, if there is one; as long as nobody can look, what was said last."""
    if case.record is None:
        ready = case.this_generation(READY)
        return ready.message if ready and ready.reason == Reason.RETRIES_EXHAUSTED.value else None
    if not case.record.state.exhausted:
        return None
    why = case.record.state.summary.last_message
    return (
        f"The attempts of an occurrence are spent{f' ({why})' if why else ''}, and onExhausted is Suspend: "
        f"mend the cause, then set the annotation {RESUME} to any new value, or change the spec."
    )


def _scheduled(task: PyncetteTask, pool: PoolFacts) -> str:
    if task.spec.dynamic:
        return f'Its instances are scheduled through the API, and run on workers of the pool "{pool.name}".'
    return f'It runs by its schedule on workers of the pool "{pool.name}".'
