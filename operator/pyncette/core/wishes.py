"""What a wish makes of a record: it is created, edited, overwritten, stopped, resumed, or run once more."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.core.policies import ONE_OFF_TOLERANCE, choose, jitter_of, next_due
from pyncette.core.record import Dropped, Key, Outcome, Owner, Record, Started, State, Summary, replace
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Missed, Mode, Overlap, Policies, Spec
from pyncette.core.tallies import Tally, Verdict, home_of, runs_of, with_dropped, with_verdict


class Locked(NamedTuple):
    """The answer of a rule that may not touch a record while it runs."""

    until: Instant


def in_progress(record: Record) -> bool:
    """Say whether an occurrence of *record* has started and has no outcome yet."""
    return record.attempt > 0 or record.state.started is not None


def claimable_at(key: Key, policies: Policies, state: State, due: Instant | None) -> Instant | None:
    """Return when a record whose next occurrence is *due* is to be looked at: never, while it is suspended."""
    if due is None or policies.suspend or state.exhausted or state.withdrawn_at is not None:
        return None
    return due + jitter_of(key, policies) if policies.jitter else due


def created(
    key: Key,
    spec: Spec,
    policies: Policies,
    now: Instant,
    *,
    owner: Owner | None = None,
    wished_at: Instant | None = None,
) -> Record:
    """
    Return a new record of *spec*.

    With *wished_at* (when its resource was created), a one-off that was already older than its starting deadline then
    is missed: it was meant for another time. Without, a one-off in the past is due at once.
    """
    schedule = spec.schedule
    due = schedule.at if isinstance(schedule, Once) else next_due(schedule, policies, now, now)
    summary = Summary()
    if isinstance(schedule, Once) and wished_at is not None:
        tolerance = ONE_OFF_TOLERANCE if policies.starting_deadline is None else policies.starting_deadline
        if schedule.at < wished_at - tolerance:
            summary = with_dropped(summary, (Dropped(Outcome.MISSED, schedule.at, schedule.at),))
            due = None
    state = State(born=now, owner=owner, summary=summary)
    return Record(
        key=key,
        spec=spec,
        version=now,
        fence=now,
        due_at=due,
        schedule_since=now,
        claimable_at=claimable_at(key, policies, state, due),
        lease_length=policies.lease,
        state=state,
    )


def edited(
    record: Record, spec: Spec, policies: Policies, now: Instant, *, owner: Owner | None = None
) -> Record:
    """
    Return *record* with *spec* in force from now on.

    An edit that leaves the schedule alone leaves `due_at` alone. One that changes it never fires retroactively: the next
    occurrence is the first of the new schedule after now. A started occurrence goes on to its outcome.
    """
    state = record.state
    moved = spec.schedule != record.spec.schedule
    anew = moved or _resumes(record, spec, policies, owner)
    since = now if moved else record.schedule_since
    started = started_of(record, policies) if in_progress(record) else None
    state = replace(
        state, owner=owner or state.owner, withdrawn_at=None, exhausted=state.exhausted and not anew
    )
    due = record.due_at
    if started is None or policies.mode is Mode.AT_MOST_ONCE:
        if anew:
            due = _due_from_now(record, spec, policies, since, now, moved=moved)
        elif due is not None and _outside(policies, due):
            due = next_due(spec.schedule, policies, since, max(due, now))
    if started is None:
        claimable = claimable_at(record.key, policies, state, due)
    else:
        state = replace(state, started=started)
        claimable = record.claimable_at
    return replace(
        record,
        spec=spec,
        version=record.version + 1,
        due_at=due,
        schedule_since=since,
        claimable_at=claimable,
        lease_length=policies.lease,
        state=state,
    )


def rescheduled(record: Record, spec: Spec, policies: Policies, now: Instant) -> Record | Locked:
    """Return *record* with a new wish of the Python API: the sooner of the old and the new next time is kept."""
    if record.lease is not None and record.lease.expires_at > now:
        return Locked(record.lease.expires_at)
    if in_progress(record):
        return edited(record, spec, policies, now)
    due, since = created(record.key, spec, policies, now).due_at, now
    if record.due_at is not None and (due is None or record.due_at < due):
        due = record.due_at
        if isinstance(spec.schedule, Interval):
            # An interval counts from the occurrence before it, so the one that was kept has to lie on the new lattice.
            since = due - spec.schedule.length
        elif isinstance(spec.schedule, Once):
            # It runs once: at the time that was kept, and not at its own as well.
            spec = replace(spec, schedule=Once(due))
    return replace(
        record,
        spec=spec,
        version=record.version + 1,
        due_at=due,
        schedule_since=since,
        claimable_at=claimable_at(record.key, policies, record.state, due),
        lease_length=policies.lease,
    )


def overwritten(record: Record, spec: Spec, policies: Policies, now: Instant) -> Record:
    """Return *record* made anew by force: a run in progress loses its lease, and has been withdrawn."""
    fresh = created(record.key, spec, policies, now)
    return replace(
        fresh,
        version=max(record.version + 1, fresh.version),
        fence=max(record.fence, fresh.fence),
        state=State(born=record.state.born, summary=_withdrawn_summary(record, policies, now)),
        locator=record.locator,
    )


def stopped(record: Record, policies: Policies, now: Instant) -> Record:
    """Return *record* as it waits for its removal: nothing of it is claimable, and what ran has been withdrawn."""
    return replace(
        record,
        version=record.version + 1,
        claimable_at=None,
        attempt=0,
        began_at=None,
        lease=None,
        state=replace(
            record.state, started=None, withdrawn_at=now, summary=_withdrawn_summary(record, policies, now)
        ),
    )


def removed(record: Record, policies: Policies, now: Instant) -> Tally | None:
    """Return what a record that is removed leaves behind; None if nothing ever happened to it."""
    summary = _withdrawn_summary(record, policies, now)
    home = home_of(record.key)
    if home == record.key or summary == Summary():
        return None
    runs = runs_of(record, _withdrawal(record, policies, now)) if in_progress(record) else ()
    return Tally(home, summary, runs)


def resumed(record: Record, policies: Policies, now: Instant) -> Record:
    """Return *record* with the suspension by exhaustion ended; its next occurrence is counted from now."""
    state = replace(record.state, exhausted=False)
    due = _due_from_now(record, record.spec, policies, record.schedule_since, now, moved=False)
    return replace(
        record,
        version=record.version + 1,
        due_at=due,
        claimable_at=claimable_at(record.key, policies, state, due),
        state=state,
    )


def on_demand(record: Record, policies: Policies, name: str, now: Instant) -> Record:
    """Return a record of its own for one extra run of *record* now, also while it is suspended."""
    return beside(record, policies, f"run-{name}", now)


def redriven(letter: Record, now: Instant) -> Record:
    """Return a dead letter that is to be tried again, with all its attempts."""
    return replace(letter, version=letter.version + 1, claimable_at=now, attempt=0, began_at=None)


def beside(record: Record, policies: Policies, occurrence: str, at: Instant) -> Record:
    """
    Return a one-off that lives beside *record*, with its arguments, and that is removed when it is over.

    It takes the policies along that were its schedule's own; those of a template it finds where its schedule finds them.
    """
    own = None
    if record.spec.policies is not None:
        own = replace(policies, overlap=Overlap.FORBID, missed=Missed.ALL, keep_finished=False)
    return Record(
        key=record.key._replace(occurrence=occurrence),
        spec=Spec(Once(at), record.spec.args, own),
        version=record.version + 1,
        fence=record.fence,
        due_at=at,
        schedule_since=at,
        claimable_at=at,
        lease_length=policies.lease,
        state=State(born=record.state.born),
    )


def started_of(record: Record, policies: Policies) -> Started | None:
    """Return the occurrence in progress: as it was written down, or as it follows from the first claim."""
    if record.state.started is not None:
        return record.state.started
    if record.due_at is None or record.began_at is None or record.spec.schedule is None:
        return None
    if record.key.occurrence:
        return Started(record.due_at, record.began_at)
    at = record.began_at - jitter_of(record.key, policies)
    choice = choose(record.spec.schedule, policies, record.schedule_since, record.due_at, at)
    return None if choice.run is None else Started(choice.run, record.began_at, choice.dropped)


def _withdrawn_summary(record: Record, policies: Policies, now: Instant) -> Summary:
    summary = record.state.summary
    return with_verdict(summary, _withdrawal(record, policies, now)) if in_progress(record) else summary


def _withdrawal(record: Record, policies: Policies, now: Instant) -> Verdict:
    started = started_of(record, record.spec.policies or policies)
    scheduled_at = started.scheduled_at if started is not None else record.due_at or record.schedule_since
    began_at = started.began_at if started is not None else record.began_at
    holder = record.lease.holder if record.lease is not None else ""
    return Verdict(Outcome.WITHDRAWN, scheduled_at, began_at, now, record.attempt, holder)


def _resumes(record: Record, spec: Spec, policies: Policies, owner: Owner | None) -> bool:
    if record.state.withdrawn_at is not None:
        return True
    if record.spec.policies is not None and record.spec.policies.suspend and not policies.suspend:
        return True
    before = record.state.owner
    newer = owner is not None and (
        before is None or owner.uid != before.uid or owner.generation > before.generation
    )
    return record.state.exhausted and (newer or spec != record.spec)


def _due_from_now(
    record: Record, spec: Spec, policies: Policies, since: Instant, now: Instant, *, moved: bool
) -> Instant | None:
    """Return the next occurrence counted from now; a one-off keeps its time, if it has not passed or is a new one."""
    if isinstance(spec.schedule, Once):
        still_due = record.due_at is not None and record.due_at > now
        return spec.schedule.at if moved or still_due else None
    return next_due(spec.schedule, policies, since, now)


def _outside(policies: Policies, due: Instant) -> bool:
    before = policies.not_before is not None and due < policies.not_before
    return before or (policies.not_after is not None and due > policies.not_after)
