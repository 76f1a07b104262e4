"""The input of the status of a PyncetteTask: its spec, its last status, its pool and its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.controller.cluster.api import Manifest
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    READY,
    Holds,
    StatusContext,
)
from pyncette.controller.status.observed import Access, ObservedPool, ObservedTask
from pyncette.core.record import Record
from pyncette.core.spec import Policies
from pyncette.mirror.conversion import RESUME
from pyncette.resources.modelling import whole_second
from pyncette.resources.reading import Refusal
from pyncette.resources.task import PyncetteTask, is_handler_name
from pyncette.resources.task_status import TaskStatus

SCHEDULED: Final = "Scheduled"
HANDLER_RESOLVED: Final = "HandlerResolved"
SUSPENDED: Final = "Suspended"
RUNS_HEALTHY: Final = "RunsHealthy"


class StoredTask(NamedTuple):
    """A PyncetteTask as the API server stores it, without its spec."""

    uid: str
    generation: int
    status: TaskStatus = TaskStatus()
    """The last written status; the initial one if that cannot be read."""
    deleting: bool = False
    """It has a deletionTimestamp, and a finalizer of another controller keeps it."""
    handler: str | None = None
    """The handler that its spec names, even if the spec is invalid for another reason."""
    suspend: bool = False
    """Whether `spec.suspend` is true, even if the rest of the spec is invalid."""

    @classmethod
    def of(cls, manifest: Manifest, status: TaskStatus) -> StoredTask:
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
    name = spec.get("handler")
    return name if isinstance(name, str) and is_handler_name(name) else None


class Answer(NamedTuple):
    """The status, reason and message of a condition."""

    holds: Holds
    reason: Reason
    message: str


@dataclass(frozen=True)
class TaskContext(StatusContext):
    """The input of a task's status, and what follows directly from it."""

    task: PyncetteTask | Refusal
    seen: StoredTask
    pool: ObservedPool
    observed: ObservedTask

    @property
    def record(self) -> Record | None:
        return self.observed.record

    @property
    def policies(self) -> Policies:
        return (self.record and self.record.spec.policies) or Policies()

    @property
    def now(self) -> Instant:
        """The time in whole seconds, as in Kubernetes: what is measured from a condition is then equal in each pass."""
        return whole_second(self.observed.now)

    @property
    def mirrored(self) -> bool:
        """True if the backend holds this generation; while it is unavailable, if it did."""
        record = self.record
        if self.observed.moving:
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
        """True if the pool existed at the last write to the backend: if it is missing now, it was deleted."""
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


SUSPENDED_BY_SPEC: Final = (
    "spec.suspend is true: set it to false, and it continues with its next scheduled time."
)


def until_then(context: TaskContext) -> str:
    """Return a sentence about what runs in the meantime, if that is known."""
    record = context.record
    if record is None or record.state.withdrawn_at is not None or record.state.owner is None:
        return (
            ""
            if record is None and context.pool.access is not Access.OPEN
            else " It does not run until then."
        )
    state = "is suspended" if context.policies.suspend else "stays in effect"
    return f" Until then generation {record.state.owner.generation} {state}."


def no_such_pool(pool: ObservedPool) -> str:
    return f'There is no PyncetteWorkerPool "{pool.name}" in this namespace: create it, or correct spec.workerPoolRef.'


def problem_of(pool: ObservedPool) -> str:
    """Return a sentence about the problem of the pool, if one is known."""
    return f" It {pool.problem}." if pool.problem else ""


def exhausted_message(context: TaskContext) -> str | None:
    """Return how to end the suspension by exhaustion, if there is one; the last message while the record cannot be read."""
    if context.record is None:
        ready = context.this_generation(READY)
        return ready.message if ready and ready.reason == Reason.RETRIES_EXHAUSTED.value else None
    if not context.record.state.exhausted:
        return None
    why = context.record.state.summary.last_message
    return (
        f"The attempts of an occurrence are exhausted{f' ({why})' if why else ''}, and onExhausted is Suspend: "
        f"fix the cause, then set the annotation {RESUME} to any new value, or change the spec."
    )
