"""Decides how a claimed record starts and how a run is completed. Each decision is a value, and none is made elsewhere."""

from __future__ import annotations

from typing import Final, TypeAlias

from pyncette.clock import Instant
from pyncette.core.accounting import (
    RemovedCounts,
    Verdict,
    counted,
    gap_runs,
    keeps_history,
    occurrence_name,
    one_off_missed,
    rows_of,
    runs_of,
    with_dropped,
    with_verdict,
)
from pyncette.core.policies import (
    after_run,
    backoff,
    choose,
    claimable_at,
    floor_with,
    gap,
    is_outside,
    is_passed_over,
    jitter_of,
    may_have_run,
    next_due,
)
from pyncette.core.record import (
    DEAD_LETTER_PREFIX,
    Change,
    Dropped,
    Outcome,
    Record,
    Run,
    Started,
    State,
    Summary,
    is_dead_letter,
    is_side_run,
    replace,
    schedule_version_of,
)
from pyncette.core.releases import (
    as_before_the_claim,
    has_ended_its_schedule,
    idle,
    released,
    restored,
    to_be_retried,
)
from pyncette.core.runs import (
    Completion,
    Ended,
    Ending,
    HeldRun,
    StartPlan,
    replaced_at,
)
from pyncette.core.schedule import Once
from pyncette.core.side_runs import side_run_of
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies

NOT_NAMED: Final = "its schedule was edited, suspended or removed, or has ended"
"""The message of a side run that is withdrawn before its handler was called."""


def begin(record: Record, policies: Policies, now: Instant) -> StartPlan:
    """Decide how a record that was just claimed goes on. All branches of that decision stand here."""
    started = record.state.started
    if started is None:
        plan = _first_start(record, policies, now)
        held = plan.run
        if (
            held is None
            or plan.move is not None
            or (record.attempt == 1 and policies.overlap is not Overlap.REPLACE)
        ):
            return plan
    else:
        held = HeldRun(
            record, policies, started.scheduled_at, started.began_at, record.attempt, started.dropped
        )
        if started.at_most_once:
            return _over(held, Outcome.LOST, "the worker that ran it died", now)
    if policies.overlap is Overlap.REPLACE and replaced_at(held) <= now:
        return _over(held, Outcome.REPLACED, "the next one is due", now)
    limit = policies.retry.max_attempts
    if limit and record.attempt > limit and policies.retry.count_takeovers:
        message = f"the worker died in the last of {limit} attempts"
        change, dead_letter, removed_counts = _exhausted(replace(held, attempt=limit), message, now)
        return StartPlan(None, change, dead_letter, removed_counts)
    return StartPlan(held)


def defer(record: Record, plan: StartPlan, until: Instant) -> Change:
    """Return the change that undoes a claim without a write, and defers the record: others run in its place."""
    held = plan.run
    assert held is not None
    after = idle(record) if plan.move is not None else as_before_the_claim(held, until)
    return Change(record, replace(after, claimable_at=max(until, record.claimable_at or until)))


def deferred_again(deferral: Change, record: Record | None) -> Change | None:
    """Return a lost *deferral* on top of *record* as it is stored now; None if its lease is no longer held."""
    before, after = deferral.before, deferral.after
    assert before is not None
    assert after is not None
    if record is None or not record.has_lease_of(before):
        return None
    at = record.claimable_at  # None: an edit has suspended it
    attempt = min(record.attempt, after.attempt)  # 0: an edit has undone the claim already
    if record.state.exhausted and not attempt and record.state.started is None:
        at = None  # suspended by a side run; an occurrence in progress goes on
    return Change(
        record,
        replace(
            record,
            version=record.version + 1,
            lease=None,
            attempt=attempt,
            began_at=record.began_at and after.began_at,
            claimable_at=None if at is None else max(at, after.claimable_at or at),
        ),
    )


def settle(held: HeldRun, ended: Ended, now: Instant) -> Completion:
    """Decide what to write about a run that has ended: complete the occurrence, release it, or nothing."""
    ending = ended.ending
    if ending is Ending.RETURNED:
        # perf: nearly all runs end here, and unpacking with a star costs 0.3 us more.
        change, dead_letter, removed_counts = _complete(held, Outcome.SUCCEEDED, "", now)
        return Completion(held, ended, change, dead_letter, removed_counts)
    if ending is Ending.REPLACED:
        return Completion(held, ended, *_complete(held, Outcome.REPLACED, ended.message, now))
    if ending is Ending.UNSTARTED:
        if has_ended_its_schedule(held):
            return Completion(held, ended, Change(held.record, None), restored(held, now))
        return _followed_by(held, ended, as_before_the_claim(held, now))
    started = held.record.state.started
    at_most_once = started is not None and started.at_most_once
    if ending is Ending.DRAINED:
        if at_most_once:
            return Completion(held, ended, *_complete(held, Outcome.LOST, ended.message, now))
        return _followed_by(held, ended, released(held, now))
    retry = held.policies.retry
    spent = at_most_once or (retry.max_attempts != 0 and held.attempt >= retry.max_attempts)
    if spent or ending is Ending.REFUSED:
        return Completion(held, ended, *_exhausted(held, ended.message, now))
    if ended.retry_after is not None:
        return _followed_by(held, ended, to_be_retried(held, now + ended.retry_after))
    if retry.wait_for_lease:
        return Completion(held, ended, None)
    retry_at = now + backoff(retry, held.record.key, held.attempt)
    return _followed_by(held, ended, to_be_retried(held, retry_at))


def without_created(completion: Completion, now: Instant) -> Completion:
    """Return *completion* without the record that it creates, since another one has its key."""
    held = completion.held
    if completion.ended.ending is Ending.UNSTARTED:  # the instance was scheduled again
        return Completion(
            held, completion.ended, *_complete(replace(held, attempt=0), Outcome.WITHDRAWN, NOT_NAMED, now)
        )
    return replace(completion, created=None)


def _followed_by(held: HeldRun, ended: Ended, after: Record) -> Completion:
    """Return the completion of a run whose occurrence goes on as the record *after*."""
    return Completion(held, ended, Change(held.record, after))


# --- Starting --------------------------------------------------------------------------------------------------------


def _first_start(record: Record, policies: Policies, now: Instant) -> StartPlan:
    """Choose the occurrence to run, by the record alone: after a crash before the run, the next claim chooses the same."""
    due, began_at, schedule = record.due_at, record.began_at, record.spec.schedule
    if due is None or schedule is None:
        return StartPlan(None, Change(record, replace(idle(record), claimable_at=None)))
    if began_at is None:
        # An edit undid the claim; the edited record is claimed in its own turn.
        return StartPlan(None, Change(record, idle(record)))
    if record.key.occurrence:
        held = HeldRun(record, policies, due, began_at, record.attempt)
        if is_side_run(record.key):
            return _start_released(held, now)
    elif record.state.exhausted and not may_have_run(record, policies):
        # A side run has suspended it while it was claimed.
        return StartPlan(None, Change(record, replace(idle(record), claimable_at=None)))
    elif (
        policies.suspend or policies.not_after is not None or policies.not_before is not None
    ) and is_passed_over(record, policies, due):
        return _passed_over(record, policies, due, now)
    else:
        at = began_at - jitter_of(record.key, policies) if policies.jitter else began_at
        choice = choose(schedule, policies, record.schedule_since, due, at)
        if choice.run is None:
            summary = with_dropped(record.state.summary, choice.dropped)
            return _none_to_run(record, policies, summary, choice.dropped, choice.upcoming, now)
        held = HeldRun(
            record, policies, choice.run, began_at, record.attempt, choice.dropped, choice.upcoming
        )
        if policies.overlap is Overlap.ALLOW:
            return _start_side_run(held, now)
    if policies.mode is Mode.AT_MOST_ONCE:
        return _start_at_most_once(held, now)
    return StartPlan(held)


def _start_at_most_once(held: HeldRun, now: Instant) -> StartPlan:
    """Complete before the run: a crash in between loses this occurrence, which is what at most once promises."""
    record = held.record
    due, dropped = _moving_on(held, now)
    after = replace(
        record,
        version=record.version + 1,
        attempt=1,
        due_at=due,
        claimable_at=_lease_end(record, now),
        state=replace(
            record.state,
            started=Started(
                held.scheduled_at, held.began_at, dropped, at_most_once=True, due_at=record.due_at
            ),
        ),
    )
    run = replace(held, record=after, attempt=1, dropped=dropped, upcoming=None)
    return StartPlan(run, Change(record, after))


def _start_released(held: HeldRun, now: Instant) -> StartPlan:
    """Start a side run that was released unstarted, unless it has been withdrawn since: see `with_parent`."""
    record = held.record
    parent = record.key._replace(occurrence="")
    if held.policies.mode is Mode.AT_MOST_ONCE:
        return replace(_start_at_most_once(held, now), parent=parent)
    # An edit has changed its mode since then.
    after = replace(
        record,
        version=record.version + 1,
        attempt=1,
        state=replace(record.state, started=Started(held.scheduled_at, held.began_at)),
    )
    return StartPlan(replace(held, record=after, attempt=1), Change(record, after), parent=parent)


def with_parent(plan: StartPlan, parent: Record | None, now: Instant) -> StartPlan:
    """
    Return the *plan* of a released side run with a change of its *parent*, or else withdraw the occurrence.

    Without that change, an edit or a removal could come between this decision and the start.
    """
    held, move = plan.run, plan.move
    assert held is not None
    assert move is not None
    assert move.before is not None
    if parent is not None and _still_names(parent, move.before, held.policies):
        return replace(plan, parent_move=Change(parent, replace(parent, version=parent.version + 1)))
    return _over(replace(held, record=move.before), Outcome.WITHDRAWN, NOT_NAMED, now)


def _still_names(parent: Record, side_run: Record, policies: Policies) -> bool:
    """Say whether *parent* still has the times that it started *side_run* by, and may run; *policies* are of the side run."""
    own = parent.spec.policies or policies
    return (
        schedule_version_of(parent) == side_run.state.schedule_version
        and parent.state.withdrawn_at is None
        and not parent.state.exhausted
        and not (own.suspend or policies.suspend)  # the latter if the template is suspended
        and not (side_run.due_at is not None and is_outside(own, side_run.due_at))
    )


def _start_side_run(held: HeldRun, now: Instant) -> StartPlan:
    """Start a side run: a record of its own, created in the write that advances its schedule."""
    record, policies = held.record, held.policies
    at_most_once = policies.mode is Mode.AT_MOST_ONCE
    due, dropped = _moving_on(held, now)
    summary = with_dropped(record.state.summary, dropped)
    moved = _none_to_run(record, policies, summary, dropped, due, now, started_at=held.scheduled_at)
    parent = None if moved.move is None else moved.move.after
    side_run = replace(
        side_run_of(record, policies, occurrence_name(record, held.scheduled_at), held.scheduled_at, now),
        attempt=1,
        began_at=held.began_at,
        lease=record.lease,
        claimable_at=_lease_end(record, now),
        state=State(
            created_version=record.state.created_version,
            started=Started(
                held.scheduled_at,
                held.began_at,
                at_most_once=at_most_once,
                due_at=held.scheduled_at if at_most_once else None,
            ),
            schedule_version=schedule_version_of(parent) if at_most_once and parent is not None else None,
        ),
    )
    run = HeldRun(side_run, policies, held.scheduled_at, held.began_at, 1)
    return StartPlan(run, moved.move, side_run, moved.removed_counts)


def _passed_over(record: Record, policies: Policies, due: Instant, now: Instant) -> StartPlan:
    """Move on from a due time that is no occurrence, since a template was suspended or the time is outside of its window."""
    schedule, summary = record.spec.schedule, record.state.summary
    following = next_due(
        schedule, policies, record.schedule_since, max(due, now) if policies.suspend else due
    )
    dropped: tuple[Dropped, ...] = ()
    if isinstance(schedule, Once):  # it will never run, so it is missed
        dropped = (Dropped(Outcome.MISSED, due, due),)
        summary = one_off_missed(summary, due)
    return _none_to_run(record, policies, summary, dropped, following, now)


def _none_to_run(
    record: Record,
    policies: Policies,
    summary: Summary,
    dropped: tuple[Dropped, ...],
    due: Instant | None,
    now: Instant,
    *,
    started_at: Instant | None = None,
) -> StartPlan:
    """
    Move on to *due* without a run of this record; *summary* has counted all dropped occurrences.

    *started_at* is the time of an occurrence that runs as a side run.
    """
    state = replace(record.state, summary=summary, floor=floor_with(record.state, started_at))
    claimable = claimable_at(record.key, record.spec, policies, state, due)
    after = replace(
        idle(record),
        due_at=due,
        claimable_at=claimable,
        state=state,
    )
    runs = gap_runs(record.key, dropped, now) if dropped and keeps_history(policies) else ()
    if not _is_removed(after, policies):
        return StartPlan(None, Change(record, after, rows_of(record.state.summary, policies, runs)))
    removed_counts = None if summary == Summary() else RemovedCounts(record.key, summary, runs)
    return StartPlan(None, Change(record, None), removed_counts=removed_counts)


def _over(held: HeldRun, outcome: Outcome, message: str, now: Instant) -> StartPlan:
    """End an occurrence whose run ended without a completion; the next one is claimed in its own turn."""
    attempt = max(0, held.attempt - 1)  # the claim that found it is no attempt
    return StartPlan(None, *_complete(replace(held, attempt=attempt), outcome, message, now))


# --- Ending ----------------------------------------------------------------------------------------------------------

_Writes: TypeAlias = tuple[Change | None, Record | None, RemovedCounts | None]
"""A change of a record, a record that is created with it, and what it adds to the counters of another record."""


def _complete(held: HeldRun, outcome: Outcome, message: str, now: Instant) -> _Writes:
    """End the occurrence with *outcome*, and set the next one."""
    record, policies = held.record, held.policies
    state = record.state
    started = state.started
    lease = record.lease
    if started is not None and started.at_most_once:
        due, dropped = record.due_at, held.dropped  # it moved on before the handler was called
    else:
        due, dropped = _moving_on(held, now)
    verdict = Verdict(
        outcome,
        held.scheduled_at,
        held.began_at,
        now,
        held.attempt,
        "" if lease is None else lease.holder,
        message,
        dropped,
    )
    summary = with_verdict(state.summary, verdict)
    floor = state.floor if record.key.occurrence else floor_with(state, held.scheduled_at)
    # perf: fields by position take 0.1 us where `replace` takes 2.3 us; tests/core/test_field_order.py holds their order.
    if state.owner is None and not state.exhausted and state.withdrawn_at is None:
        settled = State(
            state.created_version,
            None,
            False,
            None,
            None,
            summary,
            state.handled,
            floor,
            state.schedule_version,
        )
    else:
        settled = replace(state, started=None, summary=summary, floor=floor)
    after = Record(
        record.key,
        record.spec,
        record.version + 1,
        record.fence,
        due,
        record.schedule_since,
        claimable_at(record.key, record.spec, policies, settled, due),
        policies.lease,
        0,
        None,
        None,
        settled,
        record.locator,
    )
    runs: tuple[Run, ...] = ()
    if policies.keep_successful or policies.keep_failed:
        runs = runs_of(record, verdict)
    if not _is_removed(after, policies):
        return Change(record, after, rows_of(state.summary, policies, runs) if runs else ()), None, None
    if is_dead_letter(
        record.key
    ):  # its occurrence was counted as dead-lettered, and has ended in another way
        summary = replace(summary, counts=counted(summary.counts, Outcome.DEAD_LETTERED, -1))
    return Change(record, None), None, RemovedCounts(record.key, summary, runs)


def _exhausted(held: HeldRun, message: str, now: Instant) -> _Writes:
    """End an occurrence that has no attempt left, as its policy says."""
    record, exhaustion = held.record, held.policies.exhausted
    if exhaustion is Exhaustion.DEAD_LETTER:
        if is_dead_letter(record.key):  # the redrive failed, and its occurrence is counted already
            return Change(record, _kept_dead_letter(record, held.scheduled_at)), None, None
        name = f"{DEAD_LETTER_PREFIX}{occurrence_name(record, held.scheduled_at)}"
        dead_letter = side_run_of(record, held.policies, name, held.scheduled_at, now)
        change, _, removed_counts = _complete(held, Outcome.DEAD_LETTERED, message, now)
        return change, replace(dead_letter, claimable_at=None), removed_counts
    change, _, removed_counts = _complete(held, Outcome.FAILED, message, now)
    if exhaustion is not Exhaustion.SUSPEND:
        return change, None, removed_counts
    if removed_counts is not None:
        return change, None, removed_counts._replace(exhausts=True)
    assert change is not None
    assert change.after is not None
    after = replace(change.after, claimable_at=None, state=replace(change.after.state, exhausted=True))
    return change._replace(after=after), None, None


def _kept_dead_letter(dead_letter: Record, scheduled_at: Instant) -> Record:
    state = replace(dead_letter.state, started=None)
    return replace(idle(dead_letter), due_at=scheduled_at, claimable_at=None, state=state)


def _moving_on(held: HeldRun, now: Instant) -> tuple[Instant | None, tuple[Dropped, ...]]:
    """
    Return the occurrence after the one held, and the occurrences that are dropped before it.

    It is the first one after the one held and after the last edit. With `FastForward` it is the first one that is not
    before *now*, and those between are missed. Nothing is missed during a suspension: a resumed schedule counts from then.
    """
    if held.upcoming is not None:
        return held.upcoming, held.dropped
    record, policies = held.record, held.policies
    schedule, since = record.spec.schedule, record.schedule_since
    due = next_due(schedule, policies, since, after_run(record, held.scheduled_at))
    if policies.missed is not Missed.FAST_FORWARD or policies.suspend or record.state.exhausted:
        return due, held.dropped
    if schedule is None or due is None or due >= now or isinstance(schedule, Once):
        return due, held.dropped  # a one-off set by an edit has no later time to move on to
    passed = gap(Outcome.MISSED, schedule, policies, since, due, now)
    return next_due(schedule, policies, since, now - 1), held.dropped + passed


def _lease_end(record: Record, now: Instant) -> Instant:
    """Return when a record that holds a start is next claimable: a claim before that would find nothing to do."""
    return now if record.lease is None else record.lease.expires_at


def _is_removed(after: Record, policies: Policies) -> bool:
    """Say whether a record has ended for good and is not kept: only its outcomes are, in the counters of its parent."""
    if after.key.occurrence:
        return True
    return after.due_at is None and after.key.instance != "" and not policies.keep_finished
