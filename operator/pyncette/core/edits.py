"""Decides what edits make of a record: it is created, edited, overwritten, stopped, resumed, or run on demand."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.core.accounting import (
    RemovedCounts,
    Verdict,
    gap_runs,
    keeps_history,
    one_off_gap,
    one_off_missed,
    rows_of,
    runs_of,
    with_verdict,
)
from pyncette.core.policies import (
    ONE_OFF_TOLERANCE,
    after_run,
    choose,
    claimable_at,
    floor_with,
    is_outside,
    is_passed_over,
    jitter_of,
    next_due,
    next_takes_over_at,
)
from pyncette.core.record import (
    RUN_PREFIX,
    HistoryRow,
    Key,
    Outcome,
    Owner,
    Record,
    Requests,
    Started,
    State,
    Summary,
    is_dead_letter,
    replace,
)
from pyncette.core.schedule import Interval, Once, Schedule
from pyncette.core.side_runs import is_released, side_run_of, side_run_policies
from pyncette.core.spec import Mode, Overlap, Policies, Spec


class Locked(NamedTuple):
    """The answer of a rule that must not change a record while it runs."""

    until: Instant


def started_of(record: Record, policies: Policies) -> Started | None:
    """
    Return the occurrence whose handler may have been called and which has no outcome yet; None if there is none.

    It is stored, or else follows from the first claim; *policies* are those of the claim. A claim that must write a
    start has started nothing until that is written. If the schedule is no longer valid, for example because its zone is
    gone, it is the occurrence that was due.
    """
    if record.state.started is not None:
        return record.state.started
    if not record.attempt or record.began_at is None or record.due_at is None or record.spec.schedule is None:
        return None
    if policies.mode is Mode.AT_MOST_ONCE:
        return None
    if record.key.occurrence:
        return Started(record.due_at, record.began_at)
    if policies.overlap is Overlap.ALLOW or is_passed_over(record, policies, record.due_at):
        return None
    at = record.began_at - jitter_of(record.key, policies)
    try:
        choice = choose(record.spec.schedule, policies, record.schedule_since, record.due_at, at)
    except ValueError:
        return Started(record.due_at, record.began_at)
    return None if choice.run is None else Started(choice.run, record.began_at, choice.dropped)


def created(
    key: Key,
    spec: Spec,
    policies: Policies,
    now: Instant,
    *,
    owner: Owner | None = None,
    requested_at: Instant | None = None,
) -> Record:
    """
    Return a new record of *spec*.

    With *requested_at* (when its resource was created), a one-off that was already older than its starting deadline then
    is missed: it was meant for another time. Without *requested_at*, a one-off in the past is due at once.
    """
    schedule, summary = spec.schedule, Summary()
    if isinstance(schedule, Once):
        due = None if is_outside(policies, schedule.at) else schedule.at
        tolerance = ONE_OFF_TOLERANCE if policies.starting_deadline is None else policies.starting_deadline
        if due is not None and requested_at is not None and due < requested_at - tolerance:
            summary, due = one_off_missed(summary, due), None
    else:
        due = next_due(schedule, policies, now, now)
    state = State(created_version=now, owner=owner, summary=summary)
    return Record(
        key=key,
        spec=spec,
        version=now,
        fence=now,
        due_at=due,
        schedule_since=now,
        claimable_at=claimable_at(key, spec, policies, state, due),
        lease_length=policies.lease,
        state=state,
    )


def edited(
    record: Record,
    spec: Spec,
    policies: Policies,
    now: Instant,
    *,
    owner: Owner | None = None,
    past_is_due: bool = False,
    common: Policies | None = None,
) -> Record:
    """
    Return *record* with *spec* in force from now on.

    An edit that leaves the schedule alone leaves `due_at` alone, if that lies in the window. One that changes it, or
    ends a suspension, never fires retroactively: the next occurrence is the first after now. A started occurrence goes
    on to its outcome; a claim that has started nothing yet is undone, and decided again by the new spec.

    A new one-off in the past is missed; with *past_is_due* it is due after an occurrence that is in progress.
    *common* are the policies of *record* if it has none of its own and *spec* has.
    """
    started = started_of(record, record.spec.policies or common or policies)
    start = _effective_from(record, started, now)
    moved = spec.schedule != record.spec.schedule
    anew = moved or _resumes(record, spec, policies, owner)
    since = record.schedule_since
    if anew:
        since = start if moved else _counted_from(spec.schedule, since, start)
        started = _not_restored(started, spec.schedule)
    state = replace(
        record.state,
        started=started,
        owner=owner or record.state.owner,
        withdrawn_at=None,
        exhausted=record.state.exhausted and not anew,
        schedule_version=record.version + 1 if anew else record.state.schedule_version,
    )
    due = record.due_at
    if started is None or started.at_most_once:
        if anew:
            state, due = _counted_anew(record, spec, policies, state, since, now, start)
        else:
            due = _within_window(record, spec, policies, start)
    elif moved and isinstance(spec.schedule, Once):
        at = spec.schedule.at
        since = min(now, at - 1) if past_is_due else now
        if at <= since and at not in {state.floor, started.scheduled_at} and not is_outside(policies, at):
            state = replace(state, summary=one_off_missed(state.summary, at))
    after = _with_schedule(record, spec, policies, due, since, state)
    if started is None:
        return _unstarted(after, claimable_at(record.key, spec, policies, state, due))
    if policies.overlap is Overlap.REPLACE and record.claimable_at is not None:
        replaced_at = next_takes_over_at(record.key, spec.schedule, policies, since, started.scheduled_at)
        if replaced_at is not None and replaced_at < record.claimable_at:
            return replace(after, claimable_at=replaced_at)
    return after


def rescheduled(
    record: Record,
    spec: Spec,
    policies: Policies,
    now: Instant,
    *,
    keep_sooner: bool = True,
    common: Policies | None = None,
) -> Record | Locked:
    """
    Return *record* with a new request of the Python API.

    With *keep_sooner*, the earlier of the old and the new next time is kept. Without it the new time replaces the old one,
    unless the schedule is the same: then the next time stays, so that an interval which is scheduled again does run.
    No time of the new schedule before *now* runs. Late times of the old one are withdrawn, and not counted. A request that
    ends a suspension counts from *now*. While the record runs it is refused; a pending retry gets the new arguments.
    """
    if started_of(record, record.spec.policies or common or policies) is not None:
        if record.lease is not None and record.is_leased(now):
            return Locked(record.lease.expires_at)
        return edited(record, spec, policies, now, past_is_due=True, common=common)
    since = _effective_from(record, None, now)
    due = created(record.key, spec, policies, since).due_at
    replaces = not keep_sooner and spec.schedule != record.spec.schedule
    kept = None if record.state.exhausted or replaces or _ends_suspension(record, spec) else record.due_at
    if kept is not None and is_outside(policies, kept):
        kept = None
    if kept is not None and (due is None or kept < due):
        due = kept
        if isinstance(spec.schedule, Once):
            # A one-off has only one time, the sooner: otherwise it would be due again at the later.
            spec = replace(spec, schedule=Once(due))
        elif isinstance(spec.schedule, Interval):
            since = _in_step_with(due, spec.schedule, since)
    anew = kept is None or spec.schedule != record.spec.schedule
    version = record.version + 1 if anew else record.state.schedule_version
    state = replace(record.state, exhausted=False, schedule_version=version)
    if isinstance(spec.schedule, Once) and due is not None and due == state.floor:
        # The caller asks for it again: it is a new occurrence, with a new idempotency key.
        state = replace(state, created_version=max(record.version + 1, now))
    after = _with_schedule(record, spec, policies, due, since, state)
    return _unstarted(after, claimable_at(record.key, spec, policies, state, due))


def _with_schedule(
    record: Record, spec: Spec, policies: Policies, due: Instant | None, since: Instant, state: State
) -> Record:
    """Return *record* with *spec*, next *due*, whose schedule counts since then."""
    return replace(
        record,
        spec=spec,
        version=record.version + 1,
        due_at=due,
        schedule_since=since,
        lease_length=policies.lease,
        state=state,
    )


def overwritten(
    record: Record, spec: Spec, policies: Policies, now: Instant, *, common: Policies | None = None
) -> Record:
    """
    Return *record* created anew by force: a run in progress loses its lease, and is withdrawn.

    The new schedule counts from *now*, and never repeats a time of the old one that has started.
    """
    started = started_of(record, record.spec.policies or common or policies)
    fresh = created(record.key, spec, policies, _effective_from(record, started, now))
    # The version starts at the clock and not at the start of the schedule, which may lie ahead: a record that is created
    # again under this name starts at the clock, too, and must have a higher version.
    version = max(record.version + 1, now)
    return replace(
        fresh,
        version=version,
        fence=max(record.fence, now),
        # A new creation: an occurrence at the same time as an earlier one has another idempotency key.
        state=State(
            created_version=version,
            summary=_withdrawn_summary(record, common or policies, now),
            floor=floor_with(record.state, None if started is None else started.scheduled_at),
        ),
        locator=record.locator,
    )


def stopped(record: Record, policies: Policies, now: Instant) -> Record:
    """Return *record* stopped, until it is removed: it is not claimable, and a run in progress is withdrawn."""
    started = started_of(record, record.spec.policies or policies)
    due = record.due_at
    if started is not None and not started.at_most_once and isinstance(record.spec.schedule, Once):
        # Its outcome is withdrawn, and it gets no other one if the resource returns.
        due = next_due(
            record.spec.schedule, policies, record.schedule_since, after_run(record, started.scheduled_at)
        )
    state = record.state
    after = replace(
        record,
        version=record.version + 1,
        due_at=due,
        lease=record.lease if started is None else None,
        state=replace(
            state,
            started=None,
            withdrawn_at=now if state.withdrawn_at is None else state.withdrawn_at,
            summary=_withdrawn_summary(record, policies, now),
            # If the resource returns, the occurrence that has started is not due again.
            floor=floor_with(state, None if started is None else started.scheduled_at),
        ),
    )
    return _unstarted(after, None)


def withdrawal_rows(record: Record, policies: Policies, now: Instant) -> tuple[HistoryRow, ...]:
    """Return the history rows of a record that is stopped or overwritten: a run in progress is withdrawn."""
    policies = record.spec.policies or policies
    started = started_of(record, policies)
    if started is None or not keeps_history(policies):
        return ()
    return rows_of(record.state.summary, policies, runs_of(record, _withdrawal(record, started, now)))


def missed_rows(before: Summary, after: Record, policies: Policies, now: Instant) -> tuple[HistoryRow, ...]:
    """Return the history rows of an edit whose result is *after*: one if a one-off missed its time."""
    schedule = after.spec.schedule
    missed = after.state.summary.counts.missed > before.counts.missed
    if not missed or not isinstance(schedule, Once) or not keeps_history(policies):
        return ()
    return rows_of(before, policies, gap_runs(after.key, one_off_gap(schedule.at), now))


def removed(record: Record, policies: Policies, now: Instant) -> RemovedCounts | None:
    """Return the counts of a record that is removed; None if it has none, or no other record counts them."""
    policies = record.spec.policies or policies
    started = _moved_on_from(record, policies, now)
    summary = _withdrawn_summary(record, policies, now)
    if summary == Summary() or not (record.key.instance or record.key.occurrence):
        return None
    if started is None or not keeps_history(policies):
        return RemovedCounts(record.key, summary)
    return RemovedCounts(record.key, summary, runs_of(record, _withdrawal(record, started, now)))


def resumed(record: Record, policies: Policies, now: Instant) -> Record:
    """
    Return *record* with the suspension by exhaustion ended; its next occurrence is counted from now.

    Without such a suspension it is *record* itself, and there is nothing to write.
    """
    if not record.state.exhausted:
        return record
    started = started_of(record, record.spec.policies or policies)
    state = replace(
        record.state,
        exhausted=False,
        started=_not_restored(record.state.started, record.spec.schedule),
        schedule_version=record.version + 1,
    )
    start = _effective_from(record, started, now)
    since = _counted_from(record.spec.schedule, record.schedule_since, start)
    after = replace(record, version=record.version + 1, schedule_since=since, state=state)
    if started is not None and not started.at_most_once:
        return after
    state, due = _counted_anew(record, record.spec, policies, state, since, now, start)
    after = replace(after, due_at=due, state=state)
    if started is not None:
        return after
    return _unstarted(after, claimable_at(record.key, record.spec, policies, state, due))


def on_demand(record: Record, policies: Policies, name: str, now: Instant) -> Record:
    """Return a record of its own for one extra run of *record* now, also while it is suspended."""
    return side_run_of(record, policies, f"{RUN_PREFIX}{name}", now, now)


def redriven(dead_letter: Record, now: Instant, request: str = "") -> Record:
    """
    Return a dead letter that is claimable again, with all its attempts; itself, if it is being redriven already.

    *request* identifies a request that may be repeated after a crash. A dead letter that it has already redriven stays
    unchanged, even if it has failed again since then.
    """
    if dead_letter.claimable_at is not None or (request and dead_letter.state.handled.redrive == request):
        return dead_letter
    after = replace(_unstarted(dead_letter, now), version=dead_letter.version + 1)
    if request:
        after = replace(after, state=replace(dead_letter.state, handled=Requests(redrive=request)))
    return after


def in_step(record: Record, parent: Record, policies: Policies) -> Record:
    """
    Return *record*, a side run of *parent*, with the arguments and policies that an edit has given its parent.

    A run in progress goes on, and its retries use them. Without a difference it is *record* itself.
    """
    spec = replace(record.spec, args=parent.spec.args, policies=side_run_policies(parent, policies))
    if spec == record.spec:
        return record
    return replace(record, spec=spec, version=record.version + 1, lease_length=policies.lease)


def _unstarted(record: Record, at: Instant | None) -> Record:
    """
    Return *record* with nothing in progress, claimable *at*.

    A worker that has claimed it a moment ago and has started nothing keeps the lease, to undo its preparations and
    release it.
    """
    return replace(record, claimable_at=at, attempt=0, began_at=None)


def _moved_on_from(record: Record, policies: Policies, now: Instant) -> Started | None:
    """Return the occurrence that needs an outcome if *record* is removed: one in progress, or of a released side run."""
    started = started_of(record, policies)
    if started is None and record.due_at is not None and is_released(record):
        return Started(record.due_at, now)
    return started


def _withdrawn_summary(record: Record, policies: Policies, now: Instant) -> Summary:
    started = _moved_on_from(record, record.spec.policies or policies, now)
    if started is None or is_dead_letter(record.key):  # a dead letter was counted when it became one
        return record.state.summary
    return with_verdict(record.state.summary, _withdrawal(record, started, now))


def _withdrawal(record: Record, started: Started, now: Instant) -> Verdict:
    holder = record.lease.holder if record.lease is not None else ""
    at, began = started.scheduled_at, started.began_at
    return Verdict(Outcome.WITHDRAWN, at, began, now, record.attempt, holder, dropped=started.dropped)


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


def _ends_suspension(record: Record, spec: Spec) -> bool:
    """Return whether *record* is suspended, and no longer by *spec*: the times in between are no occurrences."""
    before, after = record.spec.policies, spec.policies
    return before is not None and before.suspend and not (after is not None and after.suspend)


def _counted_from(schedule: Schedule | None, since: Instant, now: Instant) -> Instant:
    """Return the start of a schedule that resumes at *now*: nothing before counts, and an interval keeps its phase."""
    if isinstance(schedule, Interval) and now > since:
        return now - (now - since) % schedule.length
    return max(now, since)


def _in_step_with(due: Instant, interval: Interval, now: Instant) -> Instant:
    """Return the start of *interval* that makes *due* one of its times, or keeps the phase of *due* if that has passed."""
    return due - interval.length if due > now else now - (now - due) % interval.length


def _effective_from(record: Record, started: Started | None, now: Instant) -> Instant:
    """
    Return the time from which an edit counts a cron expression or an interval.

    That is *now*, unless the editor's clock is behind or the occurrence was claimed ahead. It is never before the last
    edit, nor before an occurrence that has *started*.
    """
    floor = floor_with(record.state, None if started is None else started.scheduled_at)
    return max(now, record.schedule_since, now if floor is None else floor)


def _not_restored(started: Started | None, schedule: Schedule | None) -> Started | None:
    """Return *started* without a due time to restore, so that a release keeps the one of an edit to *schedule*."""
    if started is None or started.due_at is None:
        return started
    if isinstance(schedule, Once) and schedule.at == started.scheduled_at:
        return started  # its only time is still to come
    return replace(started, due_at=None)


def _counted_anew(
    record: Record,
    spec: Spec,
    policies: Policies,
    state: State,
    since: Instant,
    now: Instant,
    start: Instant,
) -> tuple[State, Instant | None]:
    """
    Return the next occurrence counted from *start*; the time of a one-off is taken as given.

    A one-off whose time has passed by *now* without a run is recorded as missed.
    """
    schedule = spec.schedule
    if not isinstance(schedule, Once):
        return state, next_due(schedule, policies, since, start)
    if schedule == record.spec.schedule and record.due_at is None:
        return state, None  # it has ended already
    if schedule.at in {state.floor, None if state.started is None else state.started.scheduled_at}:
        return state, None  # it has started, under whichever schedule
    due = next_due(schedule, policies, since, now)
    if due is None and not is_outside(policies, schedule.at):
        state = replace(state, summary=one_off_missed(state.summary, schedule.at))
    return state, due


def _within_window(record: Record, spec: Spec, policies: Policies, now: Instant) -> Instant | None:
    """Return the next occurrence after an edit that may have changed the window, but neither schedule nor suspension."""
    due, before = record.due_at, record.spec.policies
    if before is None or (before.not_before, before.not_after) == (policies.not_before, policies.not_after):
        return due
    if due is not None and due <= now and not is_outside(policies, due):
        return due
    return next_due(spec.schedule, policies, record.schedule_since, now)
