"""Every reason that a condition or an Event gives, with what it means."""

from __future__ import annotations

from enum import Enum
from typing import Literal, Self, TypeAlias

EventType: TypeAlias = Literal["Normal", "Warning"]


class Reason(Enum):
    """
    The reason of a condition or an Event: one word for programs, and its meaning for people.

    The type of its Event stands beside it: Normal, Warning, or None if the condition alone reports it.
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

    # Of progress.
    PENDING = ("Pending", "The operator has not looked at this object yet.")
    MIRRORING = ("Mirroring", "This generation is about to be written to the backend.")
    MOVING = (
        "Moving",
        "The task moves to another pool or handler once its current run has ended.",
        "Normal",
    )
    TERMINATING = ("Terminating", "The object is being deleted.", "Normal")
    BACKEND_UNREACHABLE = (
        "BackendUnreachable",
        "The backend does not answer: the current spec of a task is not written, or the workers of a pool cannot be read.",
        "Warning",
    )
    HANDLER_PENDING = (
        "HandlerPending",
        "No worker knows the handler so far, but such workers may be about to start. The operator waits up to 10 minutes.",
        "Normal",
    )

    # Of the operator itself.
    REMOVALS_HELD_BACK = (
        "RemovalsHeldBack",
        "Too many tasks of the namespace were deleted at once. They keep running until `pyncette sweep --confirm` confirms their number.",
        "Warning",
    )

    # Of records on a database that others may write to.
    NOT_CARRIED_OVER = (
        "NotCarriedOver",
        "A record of the task on another database was not carried over: the status does not list that database, or the record is not valid.",
        "Warning",
    )

    # Of problems that a person has to fix.
    INVALID = (
        "Invalid",
        "The spec is invalid; the message says where, and how to fix it.",
        "Warning",
    )
    UNKNOWN_FIELD = ("UnknownField", "The spec has a field that this release does not know.", "Warning")
    INVALID_NAME = (
        "InvalidName",
        "The name of the handler has invalid characters.",
        "Warning",
    )
    INVALID_SCHEDULE = ("InvalidSchedule", "The schedule cannot be read, or can never be due.", "Warning")
    UNKNOWN_TIME_ZONE = ("UnknownTimeZone", "The time zone is not one of the IANA database.", "Warning")
    ARGUMENTS_TOO_LARGE = ("ArgumentsTooLarge", "The arguments take more than 16 KiB as JSON.", "Warning")
    TOO_LARGE = (
        "TooLarge",
        "A part of the spec is too large, or nested too deeply. The message has the limit.",
        "Warning",
    )
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
        "No worker registered the handler within 10 minutes.",
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
    ARGUMENTS_INVALID = (
        "ArgumentsInvalid",
        "The arguments of the task do not fit those that its handler takes in the pool's task module.",
        "Warning",
    )
    RETRIES_EXHAUSTED = (
        "RetriesExhausted",
        "The attempts of an occurrence are exhausted, and onExhausted is Suspend.",
        "Warning",
    )

    # Of tasks that are ready.
    SCHEDULED = ("Scheduled", "The backend holds this generation, and due occurrences run.", "Normal")
    SUSPENDED = ("Suspended", "The spec suspends the task.", "Normal")
    COMPLETED = ("Completed", "It has no further time: it has run, or its window has ended.", "Normal")
    MISSED = ("Missed", "Its only time had passed before it could run.", "Warning")
    MIRRORED = ("Mirrored", "The backend holds this generation.")
    HANDLER_REGISTERED = ("HandlerRegistered", "A running worker of the pool has registered the handler.")
    NO_WORKER = ("NoWorker", "The pool has no running worker that could confirm the handler.")
    NOT_SUSPENDED = ("NotSuspended", "Neither the spec nor exhausted attempts suspend the task.")

    # Of its runs.
    NO_RUN_YET = ("NoRunYet", "No occurrence has ended yet.")
    RUN_SUCCEEDED = ("RunSucceeded", "No occurrence has failed since one last succeeded.", "Normal")
    RUN_FAILED = ("RunFailed", "Occurrences have failed since one last succeeded.", "Warning")
    RUN_LOST = ("RunLost", "The worker died in the middle of a run, with AtMostOnce.", "Warning")
    DEAD_LETTERED = ("DeadLettered", "An occurrence failed, and was kept to be tried again.", "Warning")

    # Of requests.
    RUN_REQUESTED = ("RunRequested", "An extra run was requested by annotation.", "Normal")
    RESUME_REQUESTED = ("ResumeRequested", "The end of a suspension was requested by annotation.", "Normal")
    REDRIVE_REQUESTED = (
        "RedriveRequested",
        "A redrive of dead letters was requested by annotation.",
        "Normal",
    )

    # Of pools.
    TEMPLATE_REFUSED = (
        "TemplateRefused",
        "The template cannot be merged, changes what is the operator's, or is below the restricted Pod Security Standard.",
        "Warning",
    )
    NAMESPACE_REFUSED = (
        "NamespaceRefused",
        "The pool is in the namespace of the operator, and would use its ServiceAccount or its Secrets, or is not allowed there.",
        "Warning",
    )
    NAME_TAKEN = (
        "NameTaken",
        "An object that the pool needs exists already and belongs to someone else. It is left alone.",
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
        "Workers are being started, replaced or stopped to match the spec.",
    )
    PROGRESS_DEADLINE_EXCEEDED = (
        "ProgressDeadlineExceeded",
        "The rollout has made no progress for progressDeadlineSeconds: pods cannot be created, do not start, or are not ready.",
        "Warning",
    )
    TOO_MANY_RECORDS = (
        "TooManyRecords",
        "The namespace has more records on its backend than fit into the operator's memory. Its tasks run, but are not reconciled.",
        "Warning",
    )
    DATABASE_COPIED = (
        "DatabaseCopied",
        "The database of the pool's backend has the identity of another one: one of them is a copy. The operator uses both, separately.",
        "Warning",
    )
    WORKERS_UNAVAILABLE = (
        "WorkersUnavailable",
        "The rollout was complete, but workers have become unready since.",
        "Warning",
    )
    WORKERS_ELSEWHERE = (
        "WorkersElsewhere",
        "Workers are ready, but none is registered in the operator's backend: their Secret points to another one.",
        "Warning",
    )
    ROLLED_OUT = ("RolledOut", "All workers match the spec and are ready.", "Normal")
    SCALED_TO_ZERO = (
        "ScaledToZero",
        "The pool has no workers, as its spec says; due occurrences wait.",
        "Normal",
    )
    WORKERS_REGISTERED = (
        "WorkersRegistered",
        "Running workers of the pool are registered in the backend.",
        "Normal",
    )
    WORKERS_READY = ("WorkersReady", "At least one worker is ready to run due occurrences.")
    NO_WORKER_READY = ("NoWorkerReady", "No worker is ready to run due occurrences.")
