"""Counts how occurrences ended, and says which rows of history tell of them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.core.record import (
    MESSAGE_CHARACTERS_MAX,
    Change,
    Counts,
    Dropped,
    HistoryRow,
    Key,
    Outcome,
    Record,
    Run,
    Summary,
    replace,
)
from pyncette.core.spec import Policies, Spec


class Verdict(NamedTuple):
    """How one occurrence ended, with all that is remembered of it."""

    outcome: Outcome
    scheduled_at: Instant
    began_at: Instant | None
    ended_at: Instant
    attempts: int
    worker: str
    message: str = ""
    dropped: tuple[Dropped, ...] = ()
    """The gap before it, whose occurrences ended without a run."""


class Tally(NamedTuple):
    """What a removed record leaves behind at the record of its schedule or template."""

    home: Key
    summary: Summary
    runs: tuple[Run, ...]


_FIELDS: Final = {outcome: index for index, outcome in enumerate(Outcome)}
_FAILURES: Final = frozenset({Outcome.FAILED, Outcome.DEAD_LETTERED, Outcome.LOST})


def counted(counts: Counts, outcome: Outcome, by: int = 1) -> Counts:
    """Return *counts* with *by* more of *outcome*."""
    if outcome is Outcome.SUCCEEDED:  # nearly all are, and a run has few microseconds
        return Counts(
            counts.succeeded + by,
            counts.failed,
            counts.dead_lettered,
            counts.missed,
            counts.skipped,
            counts.replaced,
            counts.lost,
            counts.withdrawn,
        )
    values = list(_values(counts))
    values[_FIELDS[outcome]] += by
    return Counts(*values)


def with_dropped(summary: Summary, dropped: tuple[Dropped, ...]) -> Summary:
    """Return *summary* with the occurrences of gaps counted."""
    if not dropped:
        return summary
    counts = summary.counts
    for gap in dropped:
        counts = counted(counts, gap.outcome, gap.count)
    exact = summary.exact and all(gap.exact for gap in dropped)
    return replace(summary, counts=counts, exact=exact, rows=summary.rows + len(dropped))


def with_verdict(summary: Summary, verdict: Verdict) -> Summary:
    """Return *summary* after *verdict*."""
    outcome = verdict.outcome
    if verdict.dropped:
        summary = with_dropped(summary, verdict.dropped)
    succeeded = outcome is Outcome.SUCCEEDED
    failed = not succeeded and outcome in _FAILURES
    return Summary(
        verdict.scheduled_at,
        verdict.began_at,
        verdict.ended_at,
        outcome,
        verdict.attempts,
        verdict.worker,
        verdict.message[:MESSAGE_CHARACTERS_MAX],
        verdict.ended_at if succeeded else summary.last_success_at,
        verdict.ended_at if failed else summary.last_failure_at,
        0 if succeeded else summary.consecutive_failures + failed,
        counted(summary.counts, outcome),
        summary.exact,
        summary.rows if succeeded else summary.rows + 1,
    )


def rows_of(before: Summary, policies: Policies | None, runs: tuple[Run, ...]) -> tuple[HistoryRow, ...]:
    """
    Return *runs* with the slots that they go to, given the summary before them.

    Slots are taken in turns, so that each new row takes the place of the oldest of its kind.
    """
    if policies is None or not (policies.keep_successful or policies.keep_failed):
        return ()
    rows = []
    successes, others = before.counts.succeeded, before.rows
    for run in runs:
        if run.outcome is Outcome.SUCCEEDED:
            if policies.keep_successful:
                rows.append(HistoryRow(successes % policies.keep_successful, run))
            successes += 1
        else:
            if policies.keep_failed:
                rows.append(HistoryRow(-1 - others % policies.keep_failed, run))
            others += 1
    return tuple(rows)


def runs_of(record: Record, verdict: Verdict) -> tuple[Run, ...]:
    """Return what a history says of *verdict*: one row for each gap, and one for the occurrence."""
    run = Run(
        id=run_id(record.key, record.fence),
        scheduled_at=verdict.scheduled_at,
        ended_at=verdict.ended_at,
        outcome=verdict.outcome,
        started_at=verdict.began_at,
        attempts=verdict.attempts,
        worker=verdict.worker,
        message=verdict.message[:MESSAGE_CHARACTERS_MAX],
    )
    return (*gap_runs(record.key, verdict.dropped, verdict.ended_at), run)


def gap_runs(key: Key, dropped: tuple[Dropped, ...], now: Instant) -> tuple[Run, ...]:
    """Return one row for each gap, however many occurrences it held."""
    return tuple(
        Run(
            id=run_id(key, gap.first_at),
            scheduled_at=gap.last_at,
            ended_at=now,
            outcome=gap.outcome,
            count=gap.count,
            exact=gap.exact,
        )
        for gap in dropped
    )


def home_of(key: Key) -> Key:
    """Return where what is removed is counted: at the record of its schedule, or of its template."""
    return key._replace(occurrence="") if key.occurrence else key._replace(instance="")


def tallied(home: Record | None, tally: Tally, now: Instant) -> Change:
    """Count at *home* what was removed; a template that has no record yet gets one to count in."""
    before = home
    if home is None:
        home = Record(tally.home, Spec(), now, now, None, now, None, Policies().lease)
    ours, theirs = home.state.summary, tally.summary
    counts = Counts(*(a + b for a, b in zip(_values(ours.counts), _values(theirs.counts), strict=True)))
    later = theirs if (theirs.last_ended_at or 0) >= (ours.last_ended_at or 0) else ours
    summary = replace(
        later,
        counts=counts,
        exact=ours.exact and theirs.exact,
        rows=ours.rows + theirs.rows,
        last_success_at=_later(ours.last_success_at, theirs.last_success_at),
        last_failure_at=_later(ours.last_failure_at, theirs.last_failure_at),
        consecutive_failures=0 if not theirs.consecutive_failures else ours.consecutive_failures + 1,
    )
    after = replace(
        home,
        version=home.version if before is None else home.version + 1,
        state=replace(home.state, summary=summary),
    )
    return Change(before, after, rows_of(ours, home.spec.policies, tally.runs))


def run_id(key: Key, fence: int) -> str:
    """Return the id of the run that the claim with *fence* gave, the same wherever it is asked for."""
    return _hashed(key, str(fence), size=10)


def idempotency_key(record: Record, scheduled_at: Instant) -> str:
    """Return what is the same for all attempts of one occurrence, and of no other occurrence ever."""
    return _hashed(record.key._replace(occurrence=""), f"{record.state.born}\0{scheduled_at}", size=16)


def _hashed(key: Key, further: str, size: int) -> str:
    text = "\0".join((*map(str, key.partition), *key[1:], further))
    return blake2b(text.encode(), digest_size=size).hexdigest()


def _values(counts: Counts) -> tuple[int, ...]:
    return (
        counts.succeeded,
        counts.failed,
        counts.dead_lettered,
        counts.missed,
        counts.skipped,
        counts.replaced,
        counts.lost,
        counts.withdrawn,
    )


def _later(a: Instant | None, b: Instant | None) -> Instant | None:
    return max(a or 0, b or 0) or None
