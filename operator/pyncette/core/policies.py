"""Chooses which of several passed occurrences runs, when the next one is due, and how long a retry waits."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.backoff import doubled
from pyncette.core.record import Dropped, Key, Outcome, Record, State, replace
from pyncette.core.schedule import Once, Schedule, count, first_after, nth_latest
from pyncette.core.schedule import latest as latest_of
from pyncette.core.spec import Missed, Mode, Overlap, Policies, Retry, Spec

SKIP_TOLERANCE: Final[Duration] = 10 * SECOND
"""With `Missed.SKIP` and no starting deadline, an occurrence starts at most this late."""

ONE_OFF_TOLERANCE: Final[Duration] = 60 * SECOND
"""With no starting deadline, a one-off this much older than its resource is missed: it was meant for another time."""


def policies_of(record: Record, common: Policies) -> Policies:
    """
    Return the policies of *record*: its own, or the *common* ones of its handler.

    The suspension of a template suspends all its instances, also those with policies of their own.
    """
    own = record.spec.policies
    if own is None:
        return common
    return replace(own, suspend=True) if common.suspend and record.key.instance else own


def fraction(key: Key, salt: int = 0) -> float:
    """Return a number in [0, 1) that is hashed from *key*: it is the same on all workers and after restarts."""
    text = "\0".join((*map(str, key.partition), *key[1:], str(salt)))
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest()) / (1 << 48)


def jitter_of(key: Key, policies: Policies) -> Duration:
    """Return how long after their due time the occurrences of this instance become claimable."""
    return int(fraction(key) * policies.jitter) if policies.jitter else 0


def backoff(retry: Retry, key: Key, attempt: int) -> Duration:
    """Return the wait after the failed *attempt* (1, 2, …): doubling, bounded, and spread if the policy says so."""
    delay = doubled(retry.initial, retry.maximum, attempt - 1)
    return int(delay * (1 - fraction(key, attempt) / 2)) if retry.jitter else delay


def next_due(schedule: Schedule | None, policies: Policies, since: Instant, after: Instant) -> Instant | None:
    """Return the first occurrence after *after* that lies in the window, or None if there is no further one."""
    if schedule is None:
        return None
    if policies.not_before is not None and after < policies.not_before:
        after = policies.not_before - 1
    at = first_after(schedule, after, since)
    if at is not None and policies.not_after is not None and at > policies.not_after:
        return None
    return at


def is_outside(policies: Policies, due: Instant) -> bool:
    """Say whether *due* lies outside of the window, and so is no occurrence."""
    if policies.not_before is not None and due < policies.not_before:
        return True
    return policies.not_after is not None and due > policies.not_after


def may_have_run(record: Record, policies: Policies) -> bool:
    """Say whether an earlier claim of *record* may have led to a run. It has not if its start would have been written first."""
    return (
        record.attempt > 1 and policies.mode is Mode.AT_LEAST_ONCE and policies.overlap is not Overlap.ALLOW
    )


def is_passed_over(record: Record, policies: Policies, due: Instant) -> bool:
    """
    Say whether the claimed *record* passes over *due*: its template is suspended, or the time is outside of the window.

    A record that a side run has suspended is not claimable, so its suspension came after the claim.
    """
    return (policies.suspend or is_outside(policies, due)) and not may_have_run(record, policies)


def next_takes_over_at(
    key: Key, schedule: Schedule | None, policies: Policies, since: Instant, scheduled_at: Instant
) -> Instant | None:
    """
    Return when the occurrence after that of *scheduled_at* replaces it; None if there is no further one.

    There is none during a suspension: an occurrence that has started goes on to its outcome.
    """
    if policies.suspend:
        return None
    at = next_due(schedule, policies, since, max(scheduled_at, since))
    return None if at is None else at + jitter_of(key, policies)


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The decision about occurrences that have passed."""

    run: Instant | None
    """The occurrence to run; None: none of them."""
    dropped: tuple[Dropped, ...]
    """Occurrences that end without a run."""
    upcoming: Instant | None
    """The occurrence after the one to run, or the next one if there is none to run; None: not known, or none."""


def choose(schedule: Schedule, policies: Policies, since: Instant, due: Instant, at: Instant) -> Choice:
    """
    Choose among the occurrences from *due* up to *at* (the time of the first claim, less the jitter).

    The same arguments always give the same choice, so a crash after a claim changes nothing.
    """
    if at < due:
        at = due
    late = late_until(policies, at)
    if policies.missed is Missed.FAST_FORWARD or (
        policies.missed is Missed.ALL and not policies.max_catch_up
    ):
        if late is None or due >= late:
            return Choice(due, (), None)
        first = due
        following = None
    else:
        following = next_due(schedule, policies, since, due)
        if (following is None or following > at) and (late is None or due >= late):
            return Choice(due, (), following)
        first = _first_made_up_for(schedule, policies, since, due, at)
    missed = gap(Outcome.MISSED, schedule, policies, since, due, first)
    if late is None or first >= late:
        return Choice(first, missed, following if first == due else None)
    punctual = next_due(schedule, policies, since, late - 1)
    end = at + 1 if punctual is None else punctual
    outcome = Outcome.MISSED if policies.missed is Missed.SKIP else Outcome.SKIPPED
    dropped = missed + gap(outcome, schedule, policies, since, first, end)
    if punctual is None or punctual > at:
        return Choice(None, dropped, punctual)
    return Choice(punctual, dropped, None)


def late_until(policies: Policies, at: Instant) -> Instant | None:
    """Return the instant before which an occurrence is too old to be started at *at*, or None if none ever is."""
    if policies.starting_deadline is not None:
        return at - policies.starting_deadline
    return at - SKIP_TOLERANCE if policies.missed is Missed.SKIP else None


def _first_made_up_for(
    schedule: Schedule, policies: Policies, since: Instant, due: Instant, at: Instant
) -> Instant:
    if policies.missed is Missed.SKIP:
        return due
    if policies.not_after is not None:
        at = min(at, policies.not_after)
    if policies.missed is Missed.LATEST:
        first = latest_of(schedule, at, since)
    else:
        first = nth_latest(schedule, at, policies.max_catch_up, since)
    return due if first is None or first < due else first


def gap(
    outcome: Outcome, schedule: Schedule, policies: Policies, since: Instant, first: Instant, end: Instant
) -> tuple[Dropped, ...]:
    """Return the occurrences from *first*, which is one, up to but not including *end*, as one gap."""
    if policies.not_after is not None and policies.not_after < end:
        end = policies.not_after + 1
    if first >= end:
        return ()
    further, exact = count(schedule, first, end - 1, since)
    last = latest_of(schedule, end - 1, since) if further else None
    return (Dropped(outcome, first, first if last is None else last, 1 + further, exact),)


def claimable_at(
    key: Key, spec: Spec, policies: Policies, state: State, due: Instant | None
) -> Instant | None:
    """
    Return when a record whose next occurrence is *due* is claimable; None while it is suspended.

    The suspension of a template does not suspend its instances' records: they are claimed and moved on, so that nothing
    has to wake them when the suspension ends.
    """
    if due is None or state.exhausted or state.withdrawn_at is not None:
        return None
    if spec.policies is not None and spec.policies.suspend:
        return None
    return due + jitter_of(key, policies) if policies.jitter else due


def after_run(record: Record, scheduled_at: Instant) -> Instant:
    """Return the time after which the next occurrence counts once the one at *scheduled_at* has ended."""
    schedule, since = record.spec.schedule, record.schedule_since
    if isinstance(schedule, Once) and schedule.at != scheduled_at:
        return since  # an edit has set it, and its time counts as given
    return max(scheduled_at, since)


def floor_with(state: State, started_at: Instant | None) -> Instant | None:
    """Return the floor of *state* once an occurrence of its schedule with the nominal time *started_at* has started."""
    if started_at is None or (state.floor is not None and state.floor > started_at):
        return state.floor
    return started_at
