"""Converts a PyncetteTask to its desired record: the key, the owner and the spec."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import NO_REQUESTS, Key, Owner, Partition, Requests
from pyncette.core.schedule import Cron, Interval, Once, Schedule, seeded
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies, Retry, Spec
from pyncette.core.times import instant_of
from pyncette.resources.arguments import canonical
from pyncette.resources.modelling import duration_of
from pyncette.resources.task import (
    DEFAULT_ZONE,
    FAILED_RUNS_KEPT,
    SUCCESSFUL_RUNS_KEPT,
    PyncetteTask,
    RetryPolicy,
    TaskSpec,
)
from pyncette.resources.task_status import REQUEST_CHARACTERS_MAX

RUN: Final = "pyncette.dev/run-requested-at"
RESUME: Final = "pyncette.dev/resume-requested-at"
REDRIVE: Final = "pyncette.dev/redrive-requested-at"
"""Annotations that request something once, by any value that they did not have before."""


def realm_of(cluster_id: str, namespace: str, pool: str) -> str:
    """Return the realm of a pool, which no other pool of any cluster on the same database has."""
    return f"{cluster_id}/{namespace}/{pool}"


def to_key(task: PyncetteTask, realm: str) -> Key:
    """
    Return where the record of *task* is: its own, or its template's if it is dynamic.

    A handler belongs to one dynamic task, and programs that schedule instances know the handler alone; so the template
    has its name.
    """
    spec = task.spec
    return Key(Partition(realm, spec.handler, 0), spec.handler if spec.dynamic else task.metadata.name)


def to_spec(task: PyncetteTask) -> Spec:
    """
    Return what is wanted of the record of *task*; equal for tasks that mean the same, however they were written.

    A dynamic task becomes a template: without a schedule, with the policies that its instances follow.
    """
    args = msgspec.Raw(canonical(task.spec.args))
    partitions = task.spec.partitions if task.spec.dynamic else None
    return Spec(schedule=_schedule(task), args=args, policies=_policies(task.spec), partitions=partitions)


def to_owner(task: PyncetteTask, spec: Spec) -> Owner:
    """Return the mark of *task* on its record. What no API server has seen has no uid, and generation 0."""
    meta = task.metadata
    takes_instances = task.spec.deletion_policy == "Delete"
    name = meta.name if task.spec.dynamic else ""
    return Owner(
        meta.uid or "",
        meta.generation or 0,
        spec_hash(spec),
        name=name,
        takes_instances=takes_instances,
        created_at=created_at(task),
    )


def requests_of(annotations: Mapping[str, str]) -> Requests:
    """Return what *annotations* ask for, each up to the length at which it is compared, and echoed."""
    return Requests(*(annotations.get(name, "")[:REQUEST_CHARACTERS_MAX] for name in (RUN, RESUME, REDRIVE)))


class DesiredRecord(NamedTuple):
    """A resource as the store is to hold it."""

    key: Key
    spec: Spec
    owner: Owner
    created_at: Instant | None
    """When the resource was created: a one-off that was too old by then is missed. None: it is not known."""
    requests: Requests = NO_REQUESTS
    """Its one-time requests. Those that a resource is created with count as handled."""
    is_over: bool = False
    """It is known to have no further occurrence: if there is no record that says so, the one that is made does."""
    outlives: Owner | None = None
    """
    The owner of a record that is not newer than this, although its generation or its creation time is: the cluster's
    store was restored, and counts on from its older state.
    """

    @property
    def policies(self) -> Policies:
        return self.spec.policies or Policies()


def desired_record_of(task: PyncetteTask, realm: str, seen_at: Instant | None = None) -> DesiredRecord:
    """
    Return how *task* is to be held in *realm*.

    *seen_at* counts as its creation where no API server gave it one: when its file was written, for example.
    """
    spec = to_spec(task)
    created = created_at(task)
    return DesiredRecord(
        to_key(task, realm),
        spec,
        to_owner(task, spec),
        seen_at if created is None else created,
        requests_of(task.metadata.annotations),
    )


def spec_hash(spec: Spec) -> str:
    """
    Return a hash that differs when anything differs that matters to the core.

    Defaults are left out of what is hashed, so that a new field of a later release changes no hash.
    """
    return blake2b(msgspec.json.encode(spec, order="sorted"), digest_size=16).hexdigest()


def created_at(task: PyncetteTask) -> Instant | None:
    """Return when the API server created *task*, None if none did. A one-off that was overdue by then is missed."""
    return instant_or_none(task.metadata.creation_timestamp)


def instant_or_none(moment: datetime | None) -> Instant | None:
    """Return *moment* like `instant_of`, or None for None."""
    return None if moment is None else instant_of(moment)


def _schedule(task: PyncetteTask) -> Schedule | None:
    spec = task.spec
    if spec.schedule is not None:
        # Hashed from what no edit changes: moving to another pool or handler must not move the next run.
        return seeded(Cron(spec.schedule, spec.time_zone or DEFAULT_ZONE), task.full_name)
    if spec.interval_seconds is not None:
        return Interval(duration_of(spec.interval_seconds))
    return None if spec.execute_at is None else Once(instant_of(spec.execute_at))


def _policies(spec: TaskSpec) -> Policies:
    mode = Mode(spec.execution_mode)
    return Policies(
        mode=mode,
        overlap=Overlap(spec.concurrency_policy),
        missed=Missed(spec.missed_run_policy),
        max_catch_up=spec.max_catch_up_runs,
        max_concurrent=spec.max_concurrent_runs,
        starting_deadline=_deadline(spec.starting_deadline_seconds),
        active_deadline=_deadline(spec.active_deadline_seconds),
        retry=_retry(spec.retry_policy or RetryPolicy()),
        exhausted=Exhaustion(spec.on_exhausted),
        jitter=duration_of(spec.jitter_seconds),
        not_before=instant_or_none(spec.not_before),
        not_after=instant_or_none(spec.not_after),
        suspend=spec.suspend,
        lease=duration_of(spec.lease_duration_seconds),
        # At most once a heartbeat is of no effect, so the worker renews: a run that outlives its lease is not lost.
        heartbeat=Heartbeat.AUTOMATIC if mode is Mode.AT_MOST_ONCE else Heartbeat(spec.heartbeat),
        # The record of a one-off stays with its resource, which tells that it ran. One-offs among the instances of
        # a template have no resource, and are removed when they are over.
        keep_finished=not spec.dynamic,
        keep_successful=_kept(spec, spec.successful_runs_history_limit, SUCCESSFUL_RUNS_KEPT),
        keep_failed=_kept(spec, spec.failed_runs_history_limit, FAILED_RUNS_KEPT),
    )


def _kept(spec: TaskSpec, limit: int | None, default: int) -> int:
    """Return how many rows of history are kept: those of instances, which may be millions, only if asked for."""
    if limit is None:
        return 0 if spec.dynamic else default
    return limit


def _retry(policy: RetryPolicy) -> Retry:
    return Retry(
        max_attempts=policy.max_attempts,
        initial=duration_of(policy.initial_backoff_seconds),
        maximum=duration_of(policy.max_backoff_seconds),
    )


def _deadline(seconds: int | None) -> Duration | None:
    return None if seconds is None else duration_of(seconds)
