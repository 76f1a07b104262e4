"""What a claim and the end of a run make of a record: each decision is a value, and none is made elsewhere."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core.policies import backoff, choose, jitter_of, next_due
from pyncette.core.record import Change, Dropped, Key, Outcome, Record, Started, State, replace
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies
from pyncette.core.tallies import (
    Tally,
    Verdict,
    gap_runs,
    home_of,
    rows_of,
    runs_of,
    with_dropped,
    with_verdict,
)
from pyncette.core.wishes import beside, claimable_at

NEVER: Final[Instant] = 2**62
"""Later than anything that is ever due."""

DEAD_LETTER_PREFIX: Final = "dead-"


class Held(NamedTuple):
    """An occurrence that this process holds the lease of, and runs."""

    record: Record
    policies: Policies
    scheduled_at: Instant
    began_at: Instant
    """The store's time of the first claim of this occurrence."""
    attempt: int
    dropped: tuple[Dropped, ...] = ()
    """What the choice of this occurrence dropped; it is counted when this one ends."""
    upcoming: Instant | None = None
    """The occurrence after this one, if it is known already and the schedule has not been edited since."""


class Beginning(NamedTuple):
    """How a claimed record goes on."""

    held: Held | None
    """What is to run, once all of *first* was written; None: nothing."""
    first: tuple[Change, ...] = ()
    """To be written before anything else, in this order."""
    tally: Tally | None = None
    """To be counted once *first* was written."""


class Ending(Enum):
    """What became of one call of a handler."""

    RETURNED = "returned"
    RAISED = "raised"
    REFUSED = "refused"
    """It said that trying again is of no use."""
    REPLACED = "replaced"
    """It was cancelled, because the next occurrence is due and takes its place."""
    DRAINED = "drained"
    """It was cancelled, because the worker stops."""


class Ended(NamedTuple):
    """How a call ended, with what the handler said."""

    ending: Ending
    message: str = ""
    retry_after: Duration | None = None


RETURNED: Final = Ended(Ending.RETURNED)
DRAINED: Final = Ended(Ending.DRAINED, "the worker stopped before it was over")


class Settlement(NamedTuple):
    """What to write now that a run is over."""

    change: Change | None
    """None: nothing is written, and the lease expires."""
    letter: Record | None = None
    """A dead letter, to be created before *change* is made."""
    tally: Tally | None = None
    """To be counted after *change* was made."""


def begin(record: Record, policies: Policies, now: Instant) -> Beginning:
    """Decide about a record that was just claimed: all branches of what a claim can lead to stand here."""
    started = record.state.started
    if started is None:
        beginning = _first_start(record, policies, now)
        if beginning.held is None or beginning.first or record.attempt == 1:
            return beginning
        held = beginning.held
    else:
        held = Held(record, policies, started.scheduled_at, started.began_at, record.attempt, started.dropped)
        if policies.mode is Mode.AT_MOST_ONCE:
            return _over(held, Outcome.LOST, "the worker that ran it died", now)
    if policies.overlap is Overlap.REPLACE and replaced_at(held) <= now:
        return _over(held, Outcome.REPLACED, "the next one is due", now)
    limit = policies.retry.max_attempts
    if limit and record.attempt > limit and policies.retry.count_takeovers:
        ended = Ended(Ending.REFUSED, f"the worker died in the last of {limit} attempts")
        return _instead_of_a_run(settle(held._replace(attempt=limit), ended, now))
    return Beginning(held)


def settle(held: Held, ended: Ended, now: Instant) -> Settlement:
    """Decide what to write about a run that is over: complete the occurrence, release it, or nothing."""
    ending = ended.ending
    if ending is Ending.RETURNED:
        return _complete(held, Outcome.SUCCEEDED, "", now)
    if ending is Ending.REPLACED:
        return _complete(held, Outcome.REPLACED, ended.message, now)
    at_most_once = held.policies.mode is Mode.AT_MOST_ONCE
    if ending is Ending.DRAINED:
        if at_most_once:
            return _complete(held, Outcome.LOST, ended.message, now)
        return Settlement(Change(held.record, _given_back(held)))
    retry = held.policies.retry
    spent = at_most_once or (retry.max_attempts != 0 and held.attempt >= retry.max_attempts)
    if spent or ending is Ending.REFUSED:
        return _exhausted(held, ended.message, now)
    if ended.retry_after is not None:
        return Settlement(Change(held.record, _to_be_retried(held, now + ended.retry_after)))
    if retry.wait_for_lease:
        return Settlement(None)
    return Settlement(
        Change(held.record, _to_be_retried(held, now + backoff(retry, held.record.key, held.attempt)))
    )


def unstarted(held: Held, now: Instant) -> Settlement:
    """
    Decide about an occurrence whose handler was never called: it is still due, and no attempt was made.

    At most once its start is written already, and cannot be told from a start that a crash followed: it is lost.
    """
    if held.policies.mode is Mode.AT_MOST_ONCE and held.record.state.started is not None:
        return settle(held, DRAINED, now)
    return Settlement(Change(held.record, _given_back(held)))


def again(held: Held, record: Record) -> Held:
    """Return *held* on top of *record*, which others have changed while the lease stayed with us."""
    return held._replace(record=record, policies=record.spec.policies or held.policies, upcoming=None)


def is_dead_letter(key: Key) -> bool:
    """Say whether *key* is that of an occurrence which failed and is kept to be redriven."""
    return key.occurrence.startswith(DEAD_LETTER_PREFIX)


def replaced_at(held: Held) -> Instant:
    """Return when the next occurrence takes the place of the one held; `NEVER` if there is no next one."""
    record = held.record
    after = max(held.scheduled_at, record.schedule_since)
    following = next_due(record.spec.schedule, held.policies, record.schedule_since, after)
    return NEVER if following is None else following + jitter_of(record.key, held.policies)


# --- Starting --------------------------------------------------------------------------------------------------------


def _first_start(record: Record, policies: Policies, now: Instant) -> Beginning:
    """Choose what runs, by what the record says alone: a claim that crashed before its run chooses the same again."""
    due, began_at, schedule = record.due_at, record.began_at, record.spec.schedule
    if due is None or began_at is None or schedule is None:
        return Beginning(None, (Change(record, replace(_idle(record), claimable_at=None)),))
    if record.key.occurrence:
        held = Held(record, policies, due, began_at, record.attempt)
    else:
        at = began_at - jitter_of(record.key, policies)
        choice = choose(schedule, policies, record.schedule_since, due, at)
        if choice.run is None:
            return _none_to_run(record, policies, choice.dropped, choice.upcoming, now)
        held = Held(record, policies, choice.run, began_at, record.attempt, choice.dropped, choice.upcoming)
        if policies.overlap is Overlap.ALLOW:
            return _start_beside(held, now)
    if policies.mode is Mode.AT_MOST_ONCE:
        return _start_at_most_once(held, now)
    return Beginning(held)


def _start_at_most_once(held: Held, now: Instant) -> Beginning:
    """Complete before the run: a crash in between loses this occurrence, which is what at most once promises."""
    record = held.record
    after = replace(
        record,
        version=record.version + 1,
        due_at=_following(held, now),
        # From now on a claim can only find that the holder died, so it may as soon as the lease ends.
        claimable_at=now,
        state=replace(record.state, started=Started(held.scheduled_at, held.began_at, held.dropped)),
    )
    return Beginning(held._replace(record=after, attempt=1, upcoming=None), (Change(record, after),))


def _start_beside(held: Held, now: Instant) -> Beginning:
    """Run it as a record of its own, created before its schedule moves on: repeating both is harmless."""
    record, policies = held.record, held.policies
    sibling = replace(
        beside(record, policies, str(held.scheduled_at), held.scheduled_at),
        attempt=1,
        began_at=held.began_at,
        lease=record.lease,
        claimable_at=now,
        state=State(born=record.state.born, started=Started(held.scheduled_at, held.began_at)),
    )
    due = _following(held, now)
    summary = with_dropped(record.state.summary, held.dropped)
    state = replace(record.state, started=None, summary=summary)
    after = replace(
        _idle(record), due_at=due, claimable_at=claimable_at(record.key, policies, state, due), state=state
    )
    rows = rows_of(record.state.summary, policies, gap_runs(record.key, held.dropped, now))
    moved = Change(record, None) if _is_removed(after, policies) else Change(record, after, rows)
    # What the template of a removed instance counts is the run itself, when it is over.
    return Beginning(
        Held(sibling, policies, held.scheduled_at, held.began_at, 1), (Change(None, sibling), moved)
    )


def _none_to_run(
    record: Record, policies: Policies, dropped: tuple[Dropped, ...], due: Instant | None, now: Instant
) -> Beginning:
    """Move on without a run: all that had passed is missed or skipped."""
    summary = with_dropped(record.state.summary, dropped)
    state = replace(record.state, summary=summary)
    after = replace(
        _idle(record), due_at=due, claimable_at=claimable_at(record.key, policies, state, due), state=state
    )
    runs = gap_runs(record.key, dropped, now)
    if _is_removed(after, policies):
        return Beginning(None, (Change(record, None),), Tally(home_of(record.key), summary, runs))
    return Beginning(None, (Change(record, after, rows_of(record.state.summary, policies, runs)),))


def _over(held: Held, outcome: Outcome, message: str, now: Instant) -> Beginning:
    """End an occurrence whose run ended without a word; what is due by now is claimed in its own turn."""
    attempt = max(1, held.attempt - 1)  # the claim that found it is no attempt
    return _instead_of_a_run(_complete(held._replace(attempt=attempt), outcome, message, now))


def _instead_of_a_run(settlement: Settlement) -> Beginning:
    letter = () if settlement.letter is None else (Change(None, settlement.letter),)
    change = () if settlement.change is None else (settlement.change,)
    return Beginning(None, (*letter, *change), settlement.tally)


# --- Ending ----------------------------------------------------------------------------------------------------------


def _complete(held: Held, outcome: Outcome, message: str, now: Instant) -> Settlement:
    """End the occurrence with *outcome*, and set the next one."""
    record, policies = held.record, held.policies
    state = record.state
    lease = record.lease
    verdict = Verdict(
        outcome,
        held.scheduled_at,
        held.began_at,
        now,
        held.attempt,
        "" if lease is None else lease.holder,
        message,
        held.dropped,
    )
    summary = with_verdict(state.summary, verdict)
    if policies.mode is Mode.AT_MOST_ONCE and state.started is not None:
        due = record.due_at  # it moved on before the handler was called
    else:
        due = _following(held, now)
    if state.owner is None and not state.exhausted and state.withdrawn_at is None:
        settled = State(state.born, summary=summary)
    else:
        settled = replace(state, started=None, summary=summary)
    after = Record(
        record.key,
        record.spec,
        record.version + 1,
        record.fence,
        due,
        record.schedule_since,
        claimable_at(record.key, policies, settled, due),
        policies.lease,
        0,
        None,
        None,
        settled,
        record.locator,
    )
    if _is_removed(after, policies):
        runs = runs_of(record, verdict) if record.key.occurrence else ()
        return Settlement(Change(record, None), tally=Tally(home_of(record.key), summary, runs))
    if not (policies.keep_successful or policies.keep_failed):
        return Settlement(Change(record, after))
    return Settlement(Change(record, after, rows_of(state.summary, policies, runs_of(record, verdict))))


def _exhausted(held: Held, message: str, now: Instant) -> Settlement:
    """What follows when no attempt is left."""
    exhaustion = held.policies.exhausted
    if exhaustion is Exhaustion.DEAD_LETTER:
        if is_dead_letter(held.record.key):  # redriven in vain: it was counted when it became one
            return Settlement(Change(held.record, replace(_idle(held.record), claimable_at=None)))
        return _complete(held, Outcome.DEAD_LETTERED, message, now)._replace(letter=_dead_letter(held))
    settlement = _complete(held, Outcome.FAILED, message, now)
    change = settlement.change
    if exhaustion is Exhaustion.CONTINUE or change is None or change.after is None:
        return settlement
    after = replace(change.after, claimable_at=None, state=replace(change.after.state, exhausted=True))
    return settlement._replace(change=change._replace(after=after))


def _dead_letter(held: Held) -> Record:
    letter = beside(held.record, held.policies, f"{DEAD_LETTER_PREFIX}{held.scheduled_at}", held.scheduled_at)
    return replace(letter, claimable_at=None)


def _to_be_retried(held: Held, at: Instant) -> Record:
    if held.policies.overlap is Overlap.REPLACE:
        at = min(at, replaced_at(held))
    started = Started(held.scheduled_at, held.began_at, held.dropped)
    return replace(
        held.record,
        version=held.record.version + 1,
        claimable_at=at,
        lease_length=held.policies.lease,
        lease=None,
        state=replace(held.record.state, started=started),
    )


def _given_back(held: Held) -> Record:
    """A drain gives the attempt back. What had been tried before stays started, and is claimable at once."""
    record = held.record
    attempt = max(0, record.attempt - 1)
    if attempt or record.state.started is not None:
        started = Started(held.scheduled_at, held.began_at, held.dropped)
        state = replace(record.state, started=started)
        return replace(record, version=record.version + 1, attempt=attempt, lease=None, state=state)
    claimable = claimable_at(record.key, held.policies, record.state, record.due_at)
    return replace(_idle(record), claimable_at=claimable)


def _following(held: Held, now: Instant) -> Instant | None:
    """Return the occurrence after the one held: the first after max(it, the last edit), or not before now."""
    if held.upcoming is not None:
        return held.upcoming
    record, policies = held.record, held.policies
    after = held.scheduled_at if held.scheduled_at > record.schedule_since else record.schedule_since
    if policies.missed is Missed.FAST_FORWARD and after < now - 1:
        after = now - 1
    return next_due(record.spec.schedule, policies, record.schedule_since, after)


def _idle(record: Record) -> Record:
    return replace(record, version=record.version + 1, attempt=0, began_at=None, lease=None)


def _is_removed(after: Record, policies: Policies) -> bool:
    """Say whether a record is over for good, and kept by nobody: only its outcomes are, at its home."""
    if after.key.occurrence:
        return True
    return after.due_at is None and after.key.instance != "" and not policies.keep_finished
