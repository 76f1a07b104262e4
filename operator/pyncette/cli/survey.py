"""Looks at what is stored: which tasks there are, when they are next due, and how it has gone so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.cli import formatting as words
from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.accounting import is_shard
from pyncette.core.policies import jitter_of
from pyncette.core.record import BEYOND, Counts, Key, Partition, Record, Run, Summary, is_dead_letter, replace
from pyncette.core.schedule import Cron, Interval, Once, Schedule
from pyncette.core.spec import Policies
from pyncette.mirror.counting import counted_in
from pyncette.mirror.records import side_records
from pyncette.mirror.status import last_run, next_occurrence, run_counts
from pyncette.store.base import Counted, Store

PAGE: Final = 200

NO_INSTANCES: Final = Counted(due=0, leased=0, is_exact=True, total=0)


class Standing(Enum):
    """How a task stands."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    RETRYING = "retrying"
    SUSPENDED = "suspended"
    EXHAUSTED = "exhausted"
    """Suspended, since the attempts of an occurrence were spent."""
    STOPPED = "stopped"
    """Its manifest is gone; it is removed after a grace."""
    FINISHED = "finished"
    """There is no further occurrence."""
    TEMPLATE = "template"
    """Its instances have the schedules."""


@dataclass(slots=True)
class Found:
    """All that is stored of one task, as far as it was looked at."""

    name: str
    handler: str
    homes: list[Record] = field(default_factory=list)
    beside: list[Record] = field(default_factory=list)
    partitions: list[Partition] = field(default_factory=list)
    """Those that hold instances of it."""
    counted: Counted | None = None
    """How many instances there are; None: none, or nobody counted."""


class View(NamedTuple):
    """How a task stands, for people and programs."""

    name: str
    handler: str
    schedule: Schedule | None
    standing: Standing
    next_at: Instant | None
    """The next occurrence; None: there is none."""
    retry_at: Instant | None
    """When the occurrence in progress is tried again."""
    attempt: int
    running: int
    dead_letters: int
    summary: Summary
    late: Duration | None
    """How long after its due time the last run started."""
    instances: Counted | None
    """Of a template."""
    args: msgspec.Raw


async def survey(store: Store, realm: str, now: Instant) -> list[Found]:
    """Return what is stored in *realm*, by name; the instances of a template are not looked at, but counted."""
    found: dict[tuple[str, str], Found] = {}
    for partition in sorted(await store.partitions(realm)):
        await _survey_partition(store, partition, found)
    for one in found.values():
        await _count(store, one, now)
    return [found[name] for name in sorted(found)]


async def find(store: Store, realm: str, name: str) -> list[Record]:
    """
    Return the records of the task NAME, or of the instance TASK/INSTANCE, one of each handler in *realm*.

    A dynamic task is also found by the name of its resource: its record has the name of its handler.
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
            # That of a template is in its first partition; those of the others only count.
            key = record.key
            found.setdefault((key.partition.handler, key.task, key.instance), record)
    return list(found.values())


async def look(store: Store, record: Record, now: Instant) -> Found:
    """Return what is stored of the task or instance of *record*, with what lives beside it."""
    key = record.key
    if key.instance:
        found = Found(f"{key.task}/{key.instance}", key.partition.handler, [record])
        async for page in side_records(store, key):
            found.beside += page
        return found
    whole: dict[tuple[str, str], Found] = {}
    for partition in sorted(await store.partitions(key.partition.realm)):
        if partition.handler == key.partition.handler:
            await _survey_partition(store, partition, whole, task=key.task)
    found = next(iter(whole.values()), Found(key.task, key.partition.handler, [record]))  # or gone meanwhile
    await _count(store, found, now)
    return found


async def instances(store: Store, realm: str, task: str, handler: str | None, limit: int) -> list[Found]:
    """Return the first *limit* instances of *task*, by name, without what lives beside them."""
    found: list[Found] = []
    for partition in await store.partitions(realm):
        if handler in {None, partition.handler}:
            found += await _instances_in(store, partition, task, limit)
    return sorted(found, key=lambda one: one.name)[:limit]


async def _instances_in(store: Store, partition: Partition, task: str, limit: int) -> list[Found]:
    after: Key | None = None
    found: list[Found] = []
    while len(found) < limit and (page := await store.scan(partition, task, after, PAGE)):
        for record in page:
            key = record.key
            if key.instance and not key.occurrence:
                found.append(Found(f"{task}/{key.instance}", partition.handler, [record]))
        after = page[-1].key
    return found


async def _survey_partition(
    store: Store, partition: Partition, found: dict[tuple[str, str], Found], task: str | None = None
) -> None:
    """Add what is in *partition* to *found*, passing over instances: there may be millions."""
    after: Key | None = None
    while page := await store.scan(partition, task, after, PAGE):
        for record in page:
            key = record.key
            of = found.setdefault((key.task, partition.handler), Found(key.task, partition.handler))
            if not key.instance:
                (of.beside if key.occurrence else of.homes).append(record)
            elif partition not in of.partitions:
                of.partitions.append(partition)
        after = page[-1].key
        if after.instance:
            after = after._replace(instance=BEYOND, occurrence="")


async def _count(store: Store, found: Found, now: Instant) -> None:
    if found.partitions:
        policies = [home.spec.policies for home in found.homes if home.spec.policies is not None]
        lease = max((one.lease for one in policies), default=Policies().lease)
        found.counted = await counted_in(store, found.partitions, found.name, now, lease)


# --- What it means ---------------------------------------------------------------------------------------------------


def view_of(found: Found, now: Instant) -> View:
    """Return how *found* stands at *now*."""
    home = found.homes[0] if found.homes else None
    beside = [record for record in found.beside if not is_dead_letter(record.key)]
    running = sum(record.is_leased(now) for record in (*found.homes, *beside))
    running += found.counted.leased if found.counted else 0
    policies = Policies() if home is None else home.spec.policies or Policies()
    is_template = home is None or (home.spec.schedule is None and not home.key.instance)
    counting = [*found.homes, *(record for record in found.beside if is_shard(record.key))]
    summary = _together([record.state.summary for record in counting])
    return View(
        name=_resource_name(home) or found.name,
        handler=found.handler,
        schedule=None if home is None else home.spec.schedule,
        standing=Standing.TEMPLATE
        if home is None
        else _standing(home, policies, running, is_template=is_template),
        next_at=None if home is None else _next_at(home, policies),
        retry_at=None if home is None or home.lease or not home.state.started else home.claimable_at,
        attempt=0 if home is None else home.attempt,
        running=running,
        dead_letters=len(found.beside) - len(beside),
        summary=summary,
        late=None if home is None else late(home.key, policies, summary),
        instances=found.counted or (NO_INSTANCES if is_template else None),
        args=msgspec.Raw(b"{}") if home is None else home.spec.args,
    )


def _resource_name(home: Record | None) -> str:
    """Return the name of the resource that owns *home*; empty if there is none."""
    owner = None if home is None or home.key.instance else home.state.owner
    return "" if owner is None else owner.name


def _next_at(home: Record, policies: Policies) -> Instant | None:
    try:
        return next_occurrence(home, policies)
    except ValueError:  # the stored schedule cannot be read any more
        return None


def late(key: Key, policies: Policies, summary: Summary) -> Duration | None:
    """Return how late the last run started: after its due time and what jitter adds to that, never negative."""
    if summary.last_started_at is None or summary.last_scheduled_at is None:
        return None
    return max(0, summary.last_started_at - summary.last_scheduled_at - jitter_of(key, policies))


def _standing(home: Record, policies: Policies, running: int, *, is_template: bool) -> Standing:
    state = home.state
    if state.withdrawn_at is not None:
        return Standing.STOPPED
    if is_template:
        return Standing.SUSPENDED if policies.suspend else Standing.TEMPLATE
    if running:
        return Standing.RUNNING
    if state.started is not None:
        return Standing.RETRYING
    if policies.suspend:
        return Standing.SUSPENDED
    if state.exhausted:
        return Standing.EXHAUSTED
    return Standing.FINISHED if home.due_at is None else Standing.SCHEDULED


def _together(summaries: Sequence[Summary]) -> Summary:
    """Return one summary for the partitions of a template: the latest, with the counts of all."""
    if len(summaries) <= 1:
        return summaries[0] if summaries else Summary()
    latest = max(summaries, key=lambda summary: summary.last_ended_at or 0)
    counts = [msgspec.structs.astuple(summary.counts) for summary in summaries]
    return replace(
        latest, counts=Counts(*map(sum, zip(*counts, strict=True))), exact=all(s.exact for s in summaries)
    )


# --- For programs ----------------------------------------------------------------------------------------------------


def as_json(view: View) -> dict[str, Any]:
    """Return *view* in the words of the status of a PyncetteTask."""
    summary = view.summary
    fields: dict[str, Any] = {
        "name": view.name,
        "handler": view.handler,
        **_times(view.schedule),
        "standing": view.standing.value,
        "nextScheduleTime": words.rfc3339(view.next_at),
        "retryTime": words.rfc3339(view.retry_at),
        "active": view.running,
        "deadLetters": view.dead_letters,
        "lastRun": _last_run(summary),
        "lastSuccessfulTime": words.rfc3339(summary.last_success_at),
        "lastFailureTime": words.rfc3339(summary.last_failure_at),
        "consecutiveFailures": summary.consecutive_failures,
        "runCounts": run_counts(summary).model_dump(by_alias=True),
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
        "executeAt": words.rfc3339(schedule.at) if isinstance(schedule, Once) else None,
    }


def run_as_json(run: Run) -> dict[str, Any]:
    """Return a row of history in the words of the status of a PyncetteTask."""
    return {
        "id": run.id,
        "outcome": run.outcome.value,
        "scheduledTime": words.rfc3339(run.scheduled_at),
        "startTime": words.rfc3339(run.started_at),
        "completionTime": words.rfc3339(run.ended_at),
        "attempts": run.attempts,
        "worker": run.worker,
        "message": run.message,
        "count": run.count,
        "exact": run.exact,
    }


def _last_run(summary: Summary) -> dict[str, Any] | None:
    ended, outcome = last_run(summary), summary.last_outcome
    if ended is None or outcome is None:
        return None
    # Commands write outcomes as logs and the history do.
    return {**ended.model_dump(mode="json", by_alias=True, exclude={"id"}), "outcome": outcome.value}
