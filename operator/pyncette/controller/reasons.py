"""Every reason that a condition or an Event gives, with what it means."""

from __future__ import annotations

from enum import Enum
from typing import Literal, Self, TypeAlias

EventType: TypeAlias = Literal["Normal", "Warning"]


class Reason(Enum):
    """
    Why a condition is as it is, and what an Event tells of: one word for programs, and its meaning for people.

    What an Event is worth stands beside it: Normal, Warning, or None for what is told by the condition alone.
    """

    meaning: str
    event: EventType | None

    def __new__(cls, word: str, meaning: str, event: EventType | None = None) -> Self:
        """Make the word the value, and keep the rest beside it."""
        reason = object.__new__(cls)
        reason._value_ = word
        reason.meaning = meaning
        reason.event = event
        return reason

    @classmethod
    def of(cls, word: str) -> Reason | None:
        """Return the reason that is written as *word*; None: this release has none of that name."""
        return next((reason for reason in cls if reason.value == word), None)

    # Of what is on its way.
    PENDING = ("Pending", "The operator has not looked at this object yet.")
    MIRRORING = ("Mirroring", "This generation is about to be written to the backend.")
    MOVING = (
        "Moving",
        "The task goes to another pool or handler once the run under way at the old one is over.",
        "Normal",
    )
    TERMINATING = ("Terminating", "The object is being deleted.", "Normal")
    BACKEND_UNREACHABLE = (
        "BackendUnreachable",
        "The backend does not answer: a task is not in it as it is now, or a pool's workers cannot be seen there.",
        "Warning",
    )
    HANDLER_PENDING = (
        "HandlerPending",
        "No worker knows the handler so far, but workers that do may be about to come; waited for up to 10 minutes.",
        "Normal",
    )

    # Of the operator itself.
    REMOVALS_HELD_BACK = (
        "RemovalsHeldBack",
        "So many tasks are gone at once that they go on running, until their number is confirmed by `pyncette sweep`.",
        "Warning",
    )

    # Of what needs a person.
    INVALID = (
        "Invalid",
        "The spec is not acceptable; the message says where, and how to mend it.",
        "Warning",
    )
    UNKNOWN_FIELD = ("UnknownField", "The spec has a field that this release does not know.", "Warning")
    INVALID_SCHEDULE = ("InvalidSchedule", "The schedule cannot be read, or can never be due.", "Warning")
    UNKNOWN_TIME_ZONE = ("UnknownTimeZone", "The time zone is not one of the IANA database.", "Warning")
    ARGUMENTS_TOO_LARGE = ("ArgumentsTooLarge", "The arguments take more than 16 KiB as JSON.", "Warning")
    BACKEND_NOT_ALLOWED = (
        "BackendNotAllowed",
        "The operator's settings do not let this namespace use the backend of the pool.",
        "Warning",
    )
    BACKEND_NOT_FOUND = ("BackendNotFound", "The operator's settings have no such backend.", "Warning")
    HANDLER_TAKEN = (
        "HandlerTaken",
        "The handler belongs to another dynamic task of the pool already.",
        "Warning",
    )
    POOL_NOT_FOUND = (
        "PoolNotFound",
        "The namespace has no such pool. The operator waits up to 10 minutes for a new one, and 30 seconds for a deleted one.",
        "Warning",
    )
    HANDLER_NOT_FOUND = (
        "HandlerNotFound",
        "The workers of the pool run, nothing is being rolled out, and none of them has registered the handler.",
        "Warning",
    )
    HANDLER_DEADLINE_EXCEEDED = (
        "HandlerDeadlineExceeded",
        "For 10 minutes no worker came that has registered the handler.",
        "Warning",
    )
    PARTITIONS_DIFFER = (
        "PartitionsDiffer",
        "The number of partitions of the dynamic task differs from the pool's task module, or from that of its stored instances.",
        "Warning",
    )
    HANDLER_NOT_DYNAMIC = (
        "HandlerNotDynamic",
        "The task is dynamic, but the pool's task module does not declare its handler as a dynamic task.",
        "Warning",
    )
    RETRIES_EXHAUSTED = (
        "RetriesExhausted",
        "The attempts of an occurrence are spent, and onExhausted says to suspend the task then.",
        "Warning",
    )

    # Of what is well.
    SCHEDULED = ("Scheduled", "The backend holds this generation, and what is due is run.", "Normal")
    SUSPENDED = ("Suspended", "The spec suspends the task.", "Normal")
    COMPLETED = ("Completed", "There is no further time: it has run, or its window is over.", "Normal")
    MISSED = ("Missed", "Its one time had passed before it could be run.", "Warning")
    MIRRORED = ("Mirrored", "The backend holds this generation.")
    HANDLER_REGISTERED = ("HandlerRegistered", "A running worker of the pool has registered the handler.")
    NO_WORKER = ("NoWorker", "The pool has no running worker that could confirm the handler.")
    NOT_SUSPENDED = ("NotSuspended", "Neither the spec nor spent attempts keep the task from running.")

    # Of its runs.
    NO_RUN_YET = ("NoRunYet", "No occurrence has ended with a run so far.")
    RUN_SUCCEEDED = ("RunSucceeded", "No occurrence has failed since one last succeeded.", "Normal")
    RUN_FAILED = ("RunFailed", "Occurrences have failed since one last succeeded.", "Warning")
    RUN_LOST = ("RunLost", "The worker died in the middle of a run, with AtMostOnce.", "Warning")
    DEAD_LETTERED = ("DeadLettered", "An occurrence failed, and was kept to be tried again.", "Warning")

    # Of what was asked for.
    RUN_REQUESTED = ("RunRequested", "An extra run was asked for by annotation.", "Normal")
    RESUME_REQUESTED = ("ResumeRequested", "The end of a suspension was asked for by annotation.", "Normal")
    REDRIVE_REQUESTED = (
        "RedriveRequested",
        "Dead letters were asked by annotation to be tried again.",
        "Normal",
    )

    # Of pools.
    TEMPLATE_REFUSED = (
        "TemplateRefused",
        "The template cannot be merged, changes what is the operator's, or is below the restricted Pod Security Standard.",
        "Warning",
    )
    NAME_TAKEN = (
        "NameTaken",
        "An object of the name that the pool's would have is somebody else's, and is left alone.",
        "Warning",
    )
    APPLY_REFUSED = (
        "ApplyRefused",
        "The API server, or an admission policy of the cluster, does not accept an object of the pool; the message is theirs.",
        "Warning",
    )
    PODS_NOT_READY = (
        "PodsNotReady",
        "Pods of a rollout have not been ready for half a minute; the message says what to check.",
        "Warning",
    )
    ROLLING_OUT = (
        "RollingOut",
        "Workers are being started, replaced or stopped, so that all are as the pool says.",
    )
    PROGRESS_DEADLINE_EXCEEDED = (
        "ProgressDeadlineExceeded",
        "The rollout has not come on for progressDeadlineSeconds: pods cannot be made, do not start, or are not ready.",
        "Warning",
    )
    WORKERS_UNAVAILABLE = (
        "WorkersUnavailable",
        "All was rolled out, and workers are not ready since then.",
        "Warning",
    )
    WORKERS_ELSEWHERE = (
        "WorkersElsewhere",
        "Workers are ready, and none is registered in the operator's backend: their Secret points to another one.",
        "Warning",
    )
    ROLLED_OUT = ("RolledOut", "All workers are as the pool says, and ready.", "Normal")
    SCALED_TO_ZERO = (
        "ScaledToZero",
        "No workers are wanted, and there are none; what is due waits.",
        "Normal",
    )
    WORKERS_REGISTERED = (
        "WorkersRegistered",
        "Running workers of the pool are registered in the backend.",
        "Normal",
    )
    WORKERS_READY = ("WorkersReady", "At least one worker is ready to run what is due.")
    NO_WORKER_READY = ("NoWorkerReady", "No worker is ready to run what is due.")
