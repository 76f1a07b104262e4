"""Makes the records of releases: an occurrence is left without an outcome, to be claimed again."""

from __future__ import annotations

from pyncette.clock import Instant
from pyncette.core.policies import claimable_at
from pyncette.core.record import Record, Started, State, is_side_run, replace
from pyncette.core.runs import HeldRun, replaced_at
from pyncette.core.spec import Overlap


def to_be_retried(held: HeldRun, at: Instant) -> Record:
    """Return the record of a run that failed and is retried *at* a time, unless the next occurrence replaces it before."""
    if held.policies.overlap is Overlap.REPLACE:
        at = min(at, replaced_at(held))
    return replace(_still_started(held), claimable_at=at, lease_length=held.policies.lease)


def released(held: HeldRun, now: Instant) -> Record:
    """Return the record of a drained run: the attempt does not count, and it is claimable at *now*, whatever its deadline."""
    attempt = max(0, held.record.attempt - 1)
    return replace(_still_started(held), claimable_at=now, attempt=attempt)


def as_before_the_claim(held: HeldRun, now: Instant) -> Record:
    """Undo a claim whose handler was never called. At most once, only this process can know that it was not."""
    record = held.record
    started = record.state.started
    if started is not None and started.at_most_once:
        due = record.due_at if started.due_at is None else started.due_at
        state = replace(record.state, started=None)
        claimable: Instant | None = max(now, held.began_at)  # it may have been claimed ahead
        if not record.key.occurrence:
            claimable = claimable_at(record.key, record.spec, held.policies, state, due)
        return replace(idle(record), due_at=due, claimable_at=claimable, state=state)
    if started is None and record.attempt <= 1:  # 0: an edit has undone the claim already
        return idle(record)
    # A side run is created with a lease, whose end is its `claimable_at` until the first attempt ends.
    at = held.began_at if record.attempt <= 1 else record.claimable_at or now
    return released(held, max(now, at))


def has_ended_its_schedule(held: HeldRun) -> bool:
    """Say whether the run is the last of an instance whose record was removed with its start, at most once."""
    started, version = held.record.state.started, held.record.state.schedule_version
    return started is not None and started.at_most_once and version is None and is_side_run(held.record.key)


def restored(held: HeldRun, now: Instant) -> Record:
    """Return the record of an instance whose last run is released: that run is all that is left of its schedule."""
    record = held.record
    own = record.spec.policies
    spec = replace(record.spec, policies=None if own is None else replace(own, overlap=Overlap.ALLOW))
    version = max(record.version + 1, now)
    return Record(
        key=record.key._replace(occurrence=""),
        spec=spec,
        version=version,
        fence=max(record.fence, now),
        due_at=held.scheduled_at,
        schedule_since=held.scheduled_at - 1,
        claimable_at=max(now, held.began_at),  # it may have been claimed ahead
        lease_length=record.lease_length,
        # A new creation: other side runs of the instance, which wait as well, are those of a schedule that has ended.
        state=State(created_version=version),
    )


def _still_started(held: HeldRun) -> Record:
    """Return the record without its lease, and with the occurrence still in progress."""
    record = held.record
    started = record.state.started
    if started is None:
        started = Started(held.scheduled_at, held.began_at, held.dropped)
    return replace(
        record, version=record.version + 1, lease=None, state=replace(record.state, started=started)
    )


def idle(record: Record) -> Record:
    """Return *record* without a lease, and with no occurrence in progress."""
    return replace(record, version=record.version + 1, attempt=0, began_at=None, lease=None)
