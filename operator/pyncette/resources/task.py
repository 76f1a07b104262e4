"""PyncetteTask: a handler with its schedule, its arguments and its policies, and the status that tells how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, WithJsonSchema

from pyncette.core.reading import suspect_field
from pyncette.core.schedule import Cron, Once, Schedule, check, seeded
from pyncette.core.schedule_hints import suggested_zone
from pyncette.core.spec import CONCURRENT_RUNS_MAX
from pyncette.core.times import instant_of
from pyncette.core.zone import is_portable
from pyncette.resources.arguments import Arguments
from pyncette.resources.modelling import (
    PATTERNS,
    Finding,
    Instant3339,
    Label,
    Model,
    Rule,
    Seconds,
    Transition,
    refusal,
)
from pyncette.resources.resource import (
    AGE,
    API_VERSION,
    Column,
    Resource,
    condition_column,
)
from pyncette.resources.task_status import TaskStatus

DEFAULT_ZONE: Final = "UTC"
"""Of a schedule without a zone. It is no default of the schema: then each interval would have a zone, too."""

SUCCESSFUL_RUNS_KEPT: Final = 3
FAILED_RUNS_KEPT: Final = 10
"""Of a task with a schedule of its own. They are no defaults of the schema: then each instance would keep as many, too."""

PARTITIONS_MAX: Final = 1024
"""The partitions of a dynamic task."""

HANDLER: Final = r"^[\p{L}\p{M}\p{N}\p{Pc}\x{B7}\x{387}\x{2118}\x{212E}.-]+$"
"""Whatever is an identifier of Python, in any alphabet, and dots and hyphens. Nothing that is invisible or reorders text."""

SCHEDULE: Final = "^[ -~]+$"
PATTERNS[SCHEDULE] = "a cron expression: one line of letters, digits and punctuation of ASCII, without tabs"

ZONE: Final = r"^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"


def _known_zone(name: str) -> str:
    try:
        known = is_portable(name) and bool(ZoneInfo(name).key)
    except (KeyError, ValueError, OSError):
        known = False
    if not known:
        raise refusal(no_such_zone(name), "UnknownTimeZone")
    return name


def no_such_zone(name: str) -> str:
    """Return what is told of *name*, which is not a time zone."""
    near = suggested_zone(name)
    hint = f"did you mean {near}?" if near else "write one like Europe/Dublin or UTC"
    return f'"{name}" is not a time zone of the IANA database; {hint}'


Zone = Annotated[
    str,
    Field(min_length=1, max_length=64),
    AfterValidator(_known_zone),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 64, "pattern": ZONE}),
]


HandlerName = Annotated[str, Field(min_length=1, max_length=128, pattern=HANDLER)]
WantedHandler = Annotated[str, Field(min_length=1, max_length=128)]
"""The name of a handler in a manifest. A rule replaces the pattern, which the API server would quote without explaining it."""

_HANDLER_NAME: Final[TypeAdapter[str]] = TypeAdapter(HandlerName)


def is_handler_name(name: str) -> bool:
    """Return whether a PyncetteTask can name a handler of this *name*: a module may register others."""
    try:
        _HANDLER_NAME.validate_python(name, strict=True)
    except ValidationError:
        return False
    return True


class WorkerPoolRef(Model):
    """Names a pool in the namespace of the task."""

    name: Label = "default"
    """Name of a PyncetteWorkerPool in the same namespace."""


class RetryPolicy(Model):
    """How a failed run is tried again. The delay doubles from try to try, and is spread a little."""

    max_attempts: int = Field(default=5, ge=0, le=1000)
    """Runs of one occurrence, the first included, until it has failed for good. 0 sets no limit."""
    initial_backoff_seconds: int = Field(default=5, ge=1, le=86_400)
    """Delay after the first failed run, in seconds."""
    max_backoff_seconds: int = Field(default=300, ge=1, le=604_800)
    """Delay beyond which doubling does not go, in seconds."""

    rules: ClassVar = (
        Rule(
            cel="self.initialBackoffSeconds <= self.maxBackoffSeconds",
            message="initialBackoffSeconds must not exceed maxBackoffSeconds, which is 300 unless it is set",
            holds=lambda self: self.initial_backoff_seconds <= self.max_backoff_seconds,
            blames=("initial_backoff_seconds", "max_backoff_seconds"),
        ),
    )


def _fixed_if_dynamic(field: str, name: str, cel: str) -> Transition:
    return Transition(
        cel=f"!oldSelf.dynamic || {cel}",
        message=f"{name} of a dynamic task cannot be changed, for its instances are stored under it: "
        "make a new task, and schedule the instances there",
        holds=lambda before, after: not before.dynamic or getattr(before, field) == getattr(after, field),
        blames=(field,),
    )


class TaskSpec(Model):
    """What is wanted: what runs, when, with which arguments, and what becomes of a run that is late, long or failed."""

    worker_pool_ref: WorkerPoolRef = WorkerPoolRef()
    """Pool whose workers run the handler."""
    handler: WantedHandler = Field(examples=["send_report"])
    """
    Name of a handler that the pool's task module registers. It is a name, never an import path. While no worker
    knows it, the task's condition HandlerResolved says so, and which name comes closest.
    """
    schedule: str | None = Field(
        default=None, min_length=1, max_length=512, pattern=SCHEDULE, examples=['"0 12 * * MON-FRI"']
    )
    """
    Cron expression: 5 fields (minute, hour, day of month, month, day of week), 6 with seconds last, 7 with the year
    after them, or a word such as @hourly. H stands for a value that is hashed from the task's name, so that many
    tasks do not start together. Exactly one of schedule, intervalSeconds and executeAt is given, unless dynamic.
    """
    interval_seconds: Seconds | None = Field(default=None, examples=[300])
    """Seconds from one occurrence to the next, counted from when the interval was set, whatever time the runs take."""
    execute_at: Instant3339 | None = Field(default=None, examples=["2030-01-31T09:00:00Z"])
    """
    The one instant to run at, as RFC 3339 with its offset. It runs once, ever. If it was already older than the starting
    deadline (60 seconds if none is set) when the task was created, it is missed instead.
    """
    dynamic: bool = False
    """
    Makes the task a template: programs schedule its instances through the API, each with a schedule of its own. They
    may be tens of millions, and are never Kubernetes objects. Cannot be undone.
    """
    partitions: int = Field(default=1, ge=1, le=PARTITIONS_MAX)
    """
    Parts that the instances of a dynamic task are spread over, so that more workers can claim at once. It must be the
    number in the task module. Immutable: to change it, delete the task and apply it again.
    """
    time_zone: Zone | None = Field(default=None, examples=["Europe/Dublin"])
    """Time zone of the schedule, by its name in the IANA database; UTC if it is not set. With schedule only."""
    jitter_seconds: int = Field(default=0, ge=0, le=86_400)
    """
    Upper bound of a delay that is hashed from the name, so that tasks of the same schedule do not start together. It is
    not random: for one task it is always the same.
    """
    not_before: Instant3339 | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])
    """Times of the schedule before this instant do not count."""
    not_after: Instant3339 | None = Field(default=None, examples=["2030-12-31T23:59:59Z"])
    """Times of the schedule after this instant do not count."""
    suspend: bool = False
    """
    Stops the schedule until it is false again. What has started goes on to its end. Times that pass meanwhile
    do not count: the task resumes with the next one from then on.
    """
    execution_mode: Literal["AtLeastOnce", "AtMostOnce"] = "AtLeastOnce"
    """
    What happens when a worker dies in the middle of a run. AtLeastOnce: another worker runs the occurrence again.
    AtMostOnce: it is lost, and counted so, but never runs twice.
    """
    concurrency_policy: Literal["Forbid", "Allow", "Replace"] = "Forbid"
    """
    What happens when an occurrence is due while the one before it runs. Forbid: it waits. Allow: both run. Replace: the
    running one is cancelled, and the new one takes its place.
    """
    missed_run_policy: Literal["All", "Latest", "Skip"] = "Latest"
    """
    What is made up for when several occurrences passed without a run. All: one by one, the newest maxCatchUpRuns
    of them. Latest: one run, for the latest. Skip: none that is later than startingDeadlineSeconds, or than 10 seconds
    if that is not set. The others are counted as missed.
    """
    max_concurrent_runs: int = Field(default=0, ge=0, le=CONCURRENT_RUNS_MAX)
    """
    Runs of this task at once, on all workers of the pool together: of a dynamic task those of all its instances, else those
    that overlap, are asked for, or are tried again. What finds no room waits. 0 sets no limit.
    """
    max_catch_up_runs: int = Field(default=100, ge=1, le=10_000)
    """With missedRunPolicy All, the number of missed occurrences that are made up for; those before them are not."""
    starting_deadline_seconds: Seconds | None = Field(default=None, examples=[600])
    """
    Seconds that an occurrence may start late. One that could not start within them is skipped, and counted so (with
    missedRunPolicy Skip: as missed). Further attempts may start later.
    """
    active_deadline_seconds: Seconds | None = Field(default=None, examples=[3600])
    """
    Seconds after which a run is cancelled, whether it still sends heartbeats or not. It has failed then. A plain function
    is asked to stop, and has failed once it returns.
    """
    lease_duration_seconds: int = Field(default=60, ge=1, le=86_400)
    """
    Seconds without a sign of life after which a run is taken for dead, and another worker may take over. It bounds
    how long a task stands still after a crash, not how long it may run.
    """
    heartbeat: Literal["Automatic", "Cooperative"] = "Automatic"
    """
    Who gives the signs of life. Automatic: the worker, as long as it lives. Cooperative: the handler, when it chooses;
    with AtMostOnce, and for a plain function, it is the worker all the same.
    """
    retry_policy: RetryPolicy | None = Field(default=None, examples=["{maxAttempts: 3}"])
    """
    How a failed run is tried again; 5 attempts, 5 seconds after the first and at most 300 seconds apart, if it is not
    set. A handler can also say itself that it is not to be tried again, or when. Not with AtMostOnce.
    """
    on_exhausted: Literal["Continue", "Suspend", "DeadLetter"] = "Continue"
    """
    What follows when the attempts of an occurrence are spent. Continue: the next occurrence. Suspend: nothing, until
    the task is resumed or changed. DeadLetter: the next occurrence, and this one is kept, to be tried again on request.
    """
    args: Arguments = Field(default={})
    """Arguments that the handler finds in its context: any JSON, 64 keys, 6 levels and 16 KiB in all."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """
    What becomes of the instances of a dynamic task when it is deleted. Retain: they are stopped and kept.
    Delete: they are removed.
    """
    successful_runs_history_limit: int | None = Field(default=None, ge=0, le=1000, examples=[3])
    """
    Runs that succeeded and are kept in the history of the task, in the backend. If it is not set, 3; none of the
    instances of a dynamic task, each of which has a history of its own.
    """
    failed_runs_history_limit: int | None = Field(default=None, ge=0, le=1000, examples=[10])
    """Occurrences that ended in any other way and are kept likewise. If it is not set, 10, or none of instances."""

    rules: ClassVar = (
        Rule(
            cel=f"self.handler.matches(r'{HANDLER}')",
            message="handler must be a name that the pool's task module registers, such as send_report, and not an import "
            "path: use letters, digits, '_', '.' and '-' only",
            holds=lambda self: is_handler_name(self.handler),
            blames=("handler",),
            reason="InvalidName",
        ),
        Rule(
            cel="self.dynamic || has(self.schedule) || has(self.intervalSeconds) || has(self.executeAt)",
            message="no schedule: set one of schedule, intervalSeconds and executeAt, or dynamic: true",
            holds=lambda self: self.dynamic or self.times(),
        ),
        Rule(
            cel="[has(self.schedule), has(self.intervalSeconds), has(self.executeAt)].filter(given, given).size() <= 1",
            message="schedule, intervalSeconds and executeAt are mutually exclusive: keep one of them",
            holds=lambda self: self.times() <= 1,
            blames=("interval_seconds", "execute_at", "schedule"),
        ),
        Rule(
            cel="!self.dynamic || !(has(self.schedule) || has(self.intervalSeconds) || has(self.executeAt))",
            message="a dynamic task is a template, and each instance brings its own times: "
            "remove schedule, intervalSeconds and executeAt, or remove dynamic",
            holds=lambda self: not (self.dynamic and self.times()),
            blames=("schedule", "interval_seconds", "execute_at"),
        ),
        Rule(
            cel="!has(self.timeZone) || has(self.schedule)",
            message="timeZone belongs to a schedule: an interval has no time zone, and executeAt carries its own offset",
            holds=lambda self: self.time_zone is None or self.schedule is not None,
            blames=("time_zone",),
        ),
        Rule(
            cel="!has(self.schedule) || !self.schedule.contains('TZ=')",
            message="schedule must not contain a time zone: set timeZone",
            holds=lambda self: self.schedule is None or "TZ=" not in self.schedule,
            blames=("schedule",),
        ),
        Rule(
            cel="!has(self.notBefore) || !has(self.notAfter) || self.notBefore < self.notAfter",
            message="notAfter must be later than notBefore, so that there is time between them",
            holds=lambda self: (
                self.not_before is None or self.not_after is None or self.not_before < self.not_after
            ),
            blames=("not_after",),
        ),
        Rule(
            cel="!has(self.executeAt) || ((!has(self.notBefore) || self.executeAt >= self.notBefore)"
            " && (!has(self.notAfter) || self.executeAt <= self.notAfter))",
            message="executeAt lies outside of notBefore and notAfter, so it would never run",
            holds=lambda self: (
                self.execute_at is None
                or (
                    (self.not_before is None or self.execute_at >= self.not_before)
                    and (self.not_after is None or self.execute_at <= self.not_after)
                )
            ),
            blames=("execute_at",),
        ),
        Rule(
            cel="self.executionMode != 'AtMostOnce' || !has(self.retryPolicy)",
            message="executionMode AtMostOnce never retries: remove retryPolicy, or executionMode",
            holds=lambda self: self.execution_mode != "AtMostOnce" or self.retry_policy is None,
            blames=("retry_policy",),
        ),
        Rule(
            cel="self.dynamic || self.partitions == 1",
            message="only a dynamic task has instances to be spread over partitions: remove partitions",
            holds=lambda self: self.dynamic or self.partitions == 1,
            blames=("partitions",),
        ),
        Rule(
            cel="self.dynamic || self.deletionPolicy == 'Retain'",
            message="deletionPolicy is about the instances of a dynamic task, and this one has none: remove it",
            holds=lambda self: self.dynamic or self.deletion_policy == "Retain",
            blames=("deletion_policy",),
        ),
    )
    transitions: ClassVar = (
        _fixed_if_dynamic("dynamic", "dynamic", "self.dynamic"),
        _fixed_if_dynamic("handler", "handler", "self.handler == oldSelf.handler"),
        _fixed_if_dynamic("partitions", "partitions", "self.partitions == oldSelf.partitions"),
        _fixed_if_dynamic(
            "worker_pool_ref", "workerPoolRef", "self.workerPoolRef.name == oldSelf.workerPoolRef.name"
        ),
    )
    instead: ClassVar = {
        "at": "write executeAt",
        "backoffLimit": "write retryPolicy.maxAttempts, which counts the first run too",
        "cron": "write schedule",
        "enabled": "write suspend: true to stop it",
        "failedJobsHistoryLimit": "write failedRunsHistoryLimit",
        "interval": "write intervalSeconds",
        "jobTemplate": "a task has no pod of its own: write the name of a handler, and a worker pool runs it",
        "kwargs": "write args",
        "pool": "write workerPoolRef: {name: …}",
        "retries": "write retryPolicy.maxAttempts, which counts the first run too",
        "successfulJobsHistoryLimit": "write successfulRunsHistoryLimit",
        "timeout": "write activeDeadlineSeconds",
        "workerPool": "write workerPoolRef: {name: …}",
    }

    def times(self) -> int:
        """Return how many of the three ways to say when it is due were used."""
        return sum(given is not None for given in (self.schedule, self.interval_seconds, self.execute_at))

    def findings(self) -> Iterator[Finding]:
        """Yield why a schedule can never be due; an interval always is."""
        if self.schedule is not None:
            reason = _refusal_of(seeded(Cron(self.schedule, self.time_zone or DEFAULT_ZONE), "any"))
            if reason:
                yield Finding("schedule", reason + _hint(self.schedule), "InvalidSchedule")
        if self.execute_at is not None:
            reason = _refusal_of(Once(instant_of(self.execute_at)))
            if reason:
                yield Finding("execute_at", reason, "InvalidSchedule")


def _refusal_of(schedule: Schedule) -> str:
    try:
        check(schedule)
    except ValueError as error:
        return str(error)
    return ""


def _hint(expression: str) -> str:
    suspect = suspect_field(expression)
    return f"; look at the {suspect}" if suspect else ""


class PyncetteTask(Resource):
    """
    Runs a handler of a worker pool on a schedule.

    The operator keeps its schedule in the pool's backend, where it goes on running while the operator and the API
    server are away, and shows here when it runs next and how it went.
    """

    plural: ClassVar = "pyncettetasks"
    short_name: ClassVar = "pyt"
    columns: ClassVar = (
        Column("Schedule", ".spec['schedule','intervalSeconds','executeAt']"),
        Column("Handler", ".spec.handler"),
        Column("Suspend", ".spec.suspend", "boolean"),
        condition_column("Ready", "status"),
        Column("Active", ".status.active", "integer"),
        Column("Next", ".status.nextScheduleTime"),
        Column("Last Success", ".status.lastSuccessfulTime", "date"),
        AGE,
        Column("Pool", ".spec.workerPoolRef.name", wide=True),
        Column("Time Zone", ".spec.timeZone", wide=True),
        Column("Last Failure", ".status.lastFailureTime", "date", wide=True),
        condition_column("Reason", "reason", wide=True),
    )
    selectable: ClassVar = (".spec.handler", ".spec.workerPoolRef.name")

    api_version: Literal["pyncette.dev/v1alpha1"] = API_VERSION
    """Version of the API that the object is written for."""
    kind: Literal["PyncetteTask"] = "PyncetteTask"
    """Kind of the object."""
    spec: TaskSpec
    """What is wanted: what runs, when, with which arguments, and what becomes of a run that is late, long or failed."""
    status: TaskStatus = TaskStatus()
    """What the operator saw last: in the cluster, and in the backend. Nobody else writes it."""
