"""Reads the tasks in a store: their schedules, next due times and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.cli import formatting
from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.accounting import is_shard
from pyncette.core.policies import jitter_of
from pyncette.core.record import BEYOND, Counts, Key, Partition, Record, Run, Summary, is_dead_letter, replace
from pyncette.core.schedule import Cron, Interval, Once, Schedule
from pyncette.core.spec import Policies
from pyncette.mirror.counting import counted_in
from pyncette.mirror.status import next_occurrence
from pyncette.store.base import Counted, Store
from pyncette.store.scanning import side_records

PAGE: Final = 200

NO_INSTANCES: Final = Counted(due=0, leased=0, is_exact=True, total=0)


class Phase(Enum):
    """The phase of a task."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    RETRYING = "retrying"
    SUSPENDED = "suspended"
    EXHAUSTED = "exhausted"
    """Suspended after its last attempt failed."""
    STOPPED = "stopped"
    """Its manifest was removed; its record follows after a grace period."""
    FINISHED = "finished"
    """It has no further occurrence."""
    TEMPLATE = "template"
    """A dynamic task, whose instances have the schedules."""


@dataclass(slots=True)
class StoredTask:
    """The records of one task."""

    name: str
    handler: str
    homes: list[Record] = field(default_factory=list)
    side_records: list[Record] = field(default_factory=list)
    """The records of its side runs and dead letters, and its counter shards."""
    partitions: list[Partition] = field(default_factory=list)
    """The partitions with instances of it."""
    counted: Counted | None = None
    """The number of its instances; None: none, or not counted."""


class View(NamedTuple):
    """The state of a task, for people and programs."""

    name: str
    handler: str
    schedule: Schedule | None
    phase: Phase
    next_at: Instant | None
    """The next occurrence; None: no further one."""
    retry_at: Instant | None
    """The time of the next attempt of the occurrence in progress."""
    attempt: int
    running: int
    dead_letters: int
    summary: Summary
    late: Duration | None
    """The time from when the last run was claimable to its start."""
    instances: Counted | None
    """Only of a template."""
    args: msgspec.Raw


async def survey(store: Store, realm: str, now: Instant) -> list[StoredTask]:
    """Return the tasks of *realm*, by name. The instances of a template are counted, not read."""
    found: dict[tuple[str, str], StoredTask] = {}
    for partition in sorted(await store.partitions(realm)):
        await _survey_partition(store, partition, found)
    for one in found.values():
        await _count(store, one, now)
    return [found[name] for name in sorted(found)]


async def find(store: Store, realm: str, name: str) -> list[Record]:
    """
    Return the records of the task NAME, or of the instance TASK/INSTANCE, one of each handler in *realm*.

    A dynamic task is also found by the name of its resource, since its record has the name of its handler.
    """
    partitions = sorted(await store.partitions(realm))
    task, _, instance = name.partition("/")
    keys = [Key(partition, name) for partition in partitions]
    if instance:
        keys += [Key(partition, task, instance) for partition in partitions]
    templates = [Key(partition, partition.handler) for partition in partitions if not partition.number]
    owned = [
        record.key
        for record in (await store.load(templates) if templates else ())
        if record is not None and record.state.owner is not None and record.state.owner.name == task
    ]
    handlers = {key.partition.handler for key in owned}
    keys += (
        [Key(each, each.handler, instance) for each in partitions if each.handler in handlers]
        if instance
        else owned
    )
    found: dict[tuple[str, str, str], Record] = {}
    for record in await store.load(keys) if keys else ():
        if record is not None:
            # The record of a template is the one in its first partition; the others hold counters.
            key = record.key
            found.setdefault((key.partition.handler, key.task, key.instance), record)
    return list(found.values())


async def read_task(store: Store, record: Record, now: Instant) -> StoredTask:
    """Return the records of the task or instance of *record*, with its side runs."""
    key = record.key
    if key.instance:
        found = StoredTask(f"{key.task}/{key.instance}", key.partition.handler, [record])
        async for page in side_records(store, key):
            found.side_records += page
        return found
    whole: dict[tuple[str, str], StoredTask] = {}
    for partition in sorted(await store.partitions(key.partition.realm)):
        if partition.handler == key.partition.handler:
            await _survey_partition(store, partition, whole, task=key.task)
    found = next(
        iter(whole.values()), StoredTask(key.task, key.partition.handler, [record])
    )  # or removed meanwhile
    await _count(store, found, now)
    return found


async def _survey_partition(
    store: Store, partition: Partition, found: dict[tuple[str, str], StoredTask], task: str | None = None
) -> None:
    """Add the records of *partition* to *found*. Skip instances, of which there may be millions."""
    after: Key | None = None
    while page := await store.scan(partition, task, after, PAGE):
        for record in page:
            key = record.key
            of = found.setdefault((key.task, partition.handler), StoredTask(key.task, partition.handler))
            if not key.instance:
                (of.side_records if key.occurrence else of.homes).append(record)
            elif partition not in of.partitions:
                of.partitions.append(partition)
        after = page[-1].key
        if after.instance:
            after = after._replace(instance=BEYOND, occurrence="")


async def _count(store: Store, found: StoredTask, now: Instant) -> None:
    if found.partitions:
        policies = [home.spec.policies for home in found.homes if home.spec.policies is not None]
        lease = max((one.lease for one in policies), default=Policies().lease)
        found.counted = await counted_in(store, found.partitions, found.name, now, lease)


# --- Views ----------------------------------------------------------------------------------------------------------


def describe(found: StoredTask, now: Instant) -> View:
    """Return the view of *found* at *now*."""
    home = found.homes[0] if found.homes else None
    side_runs = [record for record in found.side_records if not is_dead_letter(record.key)]
    running = sum(record.is_leased(now) for record in (*found.homes, *side_runs))
    running += found.counted.leased if found.counted else 0
    policies = Policies() if home is None else home.spec.policies or Policies()
    is_template = home is None or (home.spec.schedule is None and not home.key.instance)
    counting = [*found.homes, *(record for record in found.side_records if is_shard(record.key))]
    summary = _merged([record.state.summary for record in counting])
    return View(
        name=_resource_name(home) or found.name,
        handler=found.handler,
        schedule=None if home is None else home.spec.schedule,
        phase=Phase.TEMPLATE if home is None else _phase(home, policies, running, is_template=is_template),
        next_at=None if home is None else _next_at(home, policies),
        retry_at=None if home is None or home.lease or not home.state.started else home.claimable_at,
        attempt=0 if home is None else home.attempt,
        running=running,
        dead_letters=len(found.side_records) - len(side_runs),
        summary=summary,
        late=None if home is None else late(home, summary.last_scheduled_at, summary.last_started_at),
        instances=found.counted or (NO_INSTANCES if is_template else None),
        args=msgspec.Raw(b"{}") if home is None else home.spec.args,
    )


def _resource_name(home: Record | None) -> str:
    """Return the name of the resource that owns *home*, or an empty string."""
    owner = None if home is None or home.key.instance else home.state.owner
    return "" if owner is None else owner.name


def _next_at(home: Record, policies: Policies) -> Instant | None:
    try:
        return next_occurrence(home, policies)
    except ValueError:  # the stored schedule cannot be read any more
        return None


def late(home: Record, scheduled_at: Instant | None, started_at: Instant | None) -> Duration | None:
    """Return how late a run of *home* started, compared to when it was claimable for the first time; never negative."""
    if started_at is None or scheduled_at is None:
        return None
    # If the schedule was edited after that run, its time does not say since when the run was claimable.
    since = home.schedule_since if home.schedule_since <= started_at else scheduled_at
    policies = home.spec.policies or Policies()
    return max(0, started_at - claimable_since(home.key, policies, scheduled_at, since))


def claimable_since(key: Key, policies: Policies, due_at: Instant, schedule_since: Instant) -> Instant:
    """
    Return when an occurrence was claimable for the first time: when it was due, jitter included.

    A one-off whose time had passed when it was scheduled was claimable from then on.
    """
    return max(due_at + jitter_of(key, policies), schedule_since)


def _phase(home: Record, policies: Policies, running: int, *, is_template: bool) -> Phase:
    state = home.state
    if state.withdrawn_at is not None:
        return Phase.STOPPED
    if is_template:
        return Phase.SUSPENDED if policies.suspend else Phase.TEMPLATE
    if running:
        return Phase.RUNNING
    if state.started is not None:
        return Phase.RETRYING
    if policies.suspend:
        return Phase.SUSPENDED
    if state.exhausted:
        return Phase.EXHAUSTED
    return Phase.FINISHED if home.due_at is None else Phase.SCHEDULED


def _merged(summaries: Sequence[Summary]) -> Summary:
    """Merge the summaries of the partitions of a template: the latest one, with the sums of all counts."""
    if len(summaries) <= 1:
        return summaries[0] if summaries else Summary()
    latest = max(summaries, key=lambda summary: summary.last_ended_at or 0)
    counts = [msgspec.structs.astuple(summary.counts) for summary in summaries]
    return replace(
        latest, counts=Counts(*map(sum, zip(*counts, strict=True))), exact=all(s.exact for s in summaries)
    )


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_json(view: View) -> dict[str, Any]:
    """Return *view* with the field names of the status of a PyncetteTask."""
    summary = view.summary
    fields: dict[str, Any] = {
        "name": view.name,
        "handler": view.handler,
        **_times(view.schedule),
        "phase": view.phase.value,
        "nextScheduleTime": formatting.rfc3339(view.next_at),
        "retryTime": formatting.rfc3339(view.retry_at),
        "active": view.running,
        "deadLetters": view.dead_letters,
        "lastRun": _last_run(summary),
        "lastSuccessfulTime": formatting.rfc3339(summary.last_success_at),
        "lastFailureTime": formatting.rfc3339(summary.last_failure_at),
        "consecutiveFailures": summary.consecutive_failures,
        "runCounts": _run_counts(summary.counts),
        "runCountsExact": summary.exact,
        "args": msgspec.json.decode(view.args),
    }
    if view.instances is not None:
        counted = view.instances
        fields["instances"] = {
            "total": counted.total,
            "due": counted.due,
            "leased": counted.leased,
            "exact": counted.is_exact,
        }
    return fields


def _times(schedule: Schedule | None) -> dict[str, Any]:
    return {
        "schedule": schedule.expression if isinstance(schedule, Cron) else None,
        "timeZone": schedule.zone if isinstance(schedule, Cron) else None,
        "intervalSeconds": schedule.length / SECOND if isinstance(schedule, Interval) else None,
        "executeAt": formatting.rfc3339(schedule.at) if isinstance(schedule, Once) else None,
    }


def run_as_json(run: Run) -> dict[str, Any]:
    """Return *run* with the field names of the status of a PyncetteTask."""
    return {
        "id": run.id,
        "outcome": run.outcome.value,
        "scheduledTime": formatting.rfc3339(run.scheduled_at),
        "startTime": formatting.rfc3339(run.started_at),
        "completionTime": formatting.rfc3339(run.ended_at),
        "attempts": run.attempts,
        "worker": run.worker,
        "message": run.message,
        "count": run.count,
        "exact": run.exact,
    }


def _run_counts(counts: Counts) -> dict[str, int]:
    """Return *counts* with the field names of the status, as stored: a status would refuse one that is out of range."""
    names = [each.encode_name for each in msgspec.structs.fields(Counts)]
    return dict(zip(names, msgspec.structs.astuple(counts), strict=True))


def _last_run(summary: Summary) -> dict[str, Any] | None:
    """Return the occurrence that ended last with the field names of the status, as stored; None if none has ended."""
    if summary.last_outcome is None:
        return None
    return {
        "scheduledTime": formatting.rfc3339(summary.last_scheduled_at),
        "startTime": formatting.rfc3339(summary.last_started_at),
        "completionTime": formatting.rfc3339(summary.last_ended_at),
        # Commands write outcomes as logs and the history do.
        "outcome": summary.last_outcome.value,
        "attempts": summary.last_attempts,
        "worker": summary.last_worker,
        "message": summary.last_message,
    }
