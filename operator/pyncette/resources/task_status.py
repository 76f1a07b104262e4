"""The status of a PyncetteTask."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from pyncette.core.record import MESSAGE_CHARACTERS_MAX
from pyncette.resources.modelling import COUNT_MAX, Count, Instant3339, Label, Model
from pyncette.resources.resource import (
    AWAITED,
    UNOBSERVED,
    Conditions,
)

WORKER_CHARACTERS_MAX: Final = 253
"""A worker is named after its pod, by default."""


OutcomeName = Literal[
    "Succeeded", "Failed", "DeadLettered", "Missed", "Skipped", "Replaced", "Lost", "Withdrawn"
]


class LastRun(Model):
    """The occurrence that ended last."""

    id: str | None = Field(default=None, max_length=64)
    """Id of the run, as logs and the history have it."""
    scheduled_time: Instant3339 | None = None
    """When it was due."""
    start_time: Instant3339 | None = None
    """When its first attempt started; absent if none did."""
    completion_time: Instant3339 | None = None
    """When it ended."""
    outcome: OutcomeName
    """
    How it ended: Succeeded; Failed; DeadLettered (failed, and kept to be tried again); Missed (dropped by
    missedRunPolicy); Skipped (later than startingDeadlineSeconds); Replaced (by the next one); Lost (its worker died,
    AtMostOnce); Withdrawn (its task was removed).
    """
    attempts: int = Field(default=0, ge=0, le=COUNT_MAX)
    """Runs that it took."""
    worker: str = Field(default="", max_length=WORKER_CHARACTERS_MAX)
    """Worker that ran it last."""
    message: str = Field(default="", max_length=MESSAGE_CHARACTERS_MAX)
    """What went wrong, if something did; cut at 1 KiB."""


class RunCounts(Model):
    """Occurrences since the task was first seen, by how they ended."""

    succeeded: Count = 0
    """Those whose handler returned."""
    failed: Count = 0
    """Those whose attempts were spent, or whose handler said that trying again is of no use."""
    dead_lettered: Count = 0
    """Those that failed, and were kept to be tried again on request."""
    missed: Count = 0
    """Those dropped by missedRunPolicy."""
    skipped: Count = 0
    """Those that could not start within startingDeadlineSeconds."""
    replaced: Count = 0
    """Those cancelled because the next one was due."""
    lost: Count = 0
    """Those whose worker died in the middle, with AtMostOnce."""
    withdrawn: Count = 0
    """Those cancelled because the task was removed, or edited before they started."""


class Instances(Model):
    """How many instances a dynamic task has."""

    total: Count | None = None
    """All of them, counted now and then; absent where the backend cannot count cheaply."""
    due: Count | None = None
    """Those that wait for a worker, counted up to 10,000."""
    leased: Count | None = None
    """Those that run, counted up to 10,000."""


class Location(Model):
    """Where the record of a task is."""

    backend: Label
    """Name of the backend in the operator's settings."""
    realm: str = Field(min_length=1, max_length=512)
    """Realm of the pool."""


UPCOMING_MAX: Final = 5

LOCATIONS_MAX: Final = 4
"""A record moves from one to another; an interrupted move may be followed by a second one."""

REQUEST_CHARACTERS_MAX: Final = 256
"""A request is compared, and echoed, up to this length."""


Request = Annotated[str, Field(max_length=REQUEST_CHARACTERS_MAX)]


class TaskStatus(Model):
    """What the operator saw last: in the cluster, and in the backend."""

    observed_generation: int = Field(default=UNOBSERVED, ge=UNOBSERVED, le=COUNT_MAX)
    """Generation of the spec that this status is about; -1 before the operator looked for the first time."""
    conditions: Conditions = (AWAITED,)
    """Ready, Reconciling and Stalled as Flux and Argo CD read them; Scheduled, HandlerResolved, Suspended, RunsHealthy."""
    next_schedule_time: Instant3339 | None = None
    """
    The next occurrence that has not started; absent if there is none. For a task that is due more often than every
    minute, it is the first one after this status can be written again. A time in the past means that no worker has claimed
    it yet.
    """
    upcoming_schedule_times: Annotated[
        tuple[Instant3339, ...],
        Field(max_length=UPCOMING_MAX, strict=False, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """The next times that the schedule names, five at most."""
    last_schedule_time: Instant3339 | None = None
    """When the occurrence was due that runs now, or ran last."""
    last_successful_time: Instant3339 | None = None
    """When an occurrence last succeeded."""
    last_failure_time: Instant3339 | None = None
    """When an occurrence last failed."""
    last_run: LastRun | None = None
    """The occurrence that ended last, with its times to the microsecond; all others are whole seconds."""
    active: Count = 0
    """Runs under way."""
    consecutive_failures: Count = 0
    """Occurrences that failed since one last succeeded."""
    run_counts: RunCounts = RunCounts()
    """Occurrences so far, by how they ended."""
    instances: Instances | None = None
    """Instances of a dynamic task."""
    locations: Annotated[
        tuple[Location, ...],
        Field(max_length=LOCATIONS_MAX, strict=False, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ] = ()
    """
    Where the record of the task is, and while it moves, where it goes. A record that another database holds in its name
    does not count.
    """
    last_handled_run_request: Request | None = None
    """Value of the annotation pyncette.dev/run-requested-at that was last acted upon."""
    last_handled_resume_request: Request | None = None
    """Value of the annotation pyncette.dev/resume-requested-at that was last acted upon."""
    last_handled_redrive_request: Request | None = None
    """Value of the annotation pyncette.dev/redrive-requested-at that was last acted upon."""
