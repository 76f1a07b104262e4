"""Counts the outcomes of occurrences, and makes their rows of history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from pyncette.clock import Instant
from pyncette.core.record import (
    DEAD_LETTER_PREFIX,
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
    is_on_demand,
    replace,
)
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies, Spec


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The end of one occurrence, with all that its record remembers of it."""

    outcome: Outcome
    scheduled_at: Instant
    began_at: Instant | None
    ended_at: Instant
    attempts: int
    worker: str
    message: str = ""
    dropped: tuple[Dropped, ...] = ()
    """The gap before it, whose occurrences ended without a run."""


class RemovedCounts(NamedTuple):
    """The counts of a removed record, to be added to the record of its schedule or template."""

    of: Key
    """The key of the removed record."""
    summary: Summary
    runs: tuple[Run, ...] = ()
    """Rows for the history of its parent."""
    exhausts: bool = False
    """True if its attempts were spent, which suspends the schedule that it was a side run of."""


COUNTER_SHARDS: Final = 64
"""Records that count the removed instances of one template: its own, and shards for processes that lose races for it."""

SHARD_PREFIX: Final = "tally-"


_FIELDS: Final = {outcome: index for index, outcome in enumerate(Outcome)}
_FAILURES: Final = frozenset({Outcome.FAILED, Outcome.DEAD_LETTERED, Outcome.LOST})


def counted(counts: Counts, outcome: Outcome, by: int = 1) -> Counts:
    """Return *counts* with *by* more of *outcome*."""
    if outcome is Outcome.SUCCEEDED:
        # perf: nearly all outcomes; 0.6 us instead of 2.2 us. tests/core/test_field_order.py holds the order.
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


def one_off_missed(summary: Summary, at: Instant) -> Summary:
    """Return *summary* with the one time of a one-off missed."""
    return with_dropped(summary, one_off_gap(at))


def one_off_gap(at: Instant) -> tuple[Dropped, ...]:
    """Return the gap of a one-off whose one time, *at*, was missed."""
    return (Dropped(Outcome.MISSED, at, at),)


def with_verdict(summary: Summary, verdict: Verdict) -> Summary:
    """Return *summary* after *verdict*."""
    outcome = verdict.outcome
    if verdict.dropped:
        summary = with_dropped(summary, verdict.dropped)
    succeeded = outcome is Outcome.SUCCEEDED
    failed = not succeeded and outcome in _FAILURES
    # perf: fields by position take 0.8 us where `replace` takes 3.3 us; tests/core/test_field_order.py holds their order.
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
        summary.successes_without_history,
    )


def keeps_history(policies: Policies) -> bool:
    """Say whether any rows of history are kept: otherwise none need to be made."""
    return policies.keep_successful > 0 or policies.keep_failed > 0


def rows_of(before: Summary, policies: Policies | None, runs: tuple[Run, ...]) -> tuple[HistoryRow, ...]:
    """
    Return *runs* with the slots that they go to, given the summary before them.

    Slots are taken in turns, so that each new row takes the place of the oldest of its kind.
    """
    if policies is None or not runs:
        return ()
    rows = []
    successes, others = before.counts.succeeded - before.successes_without_history, before.rows
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


def within_limits(runs: Sequence[Run], policies: Policies | None) -> list[Run]:
    """
    Return those of *runs*, a history with the latest first, that the limits of *policies* keep.

    Rows beyond a lowered limit stay in slots that are not written any more.
    """
    if policies is None:
        return list(runs)
    kept = []
    left = {True: policies.keep_successful, False: policies.keep_failed}
    for run in runs:
        succeeded = run.outcome is Outcome.SUCCEEDED
        if left[succeeded]:
            left[succeeded] -= 1
            kept.append(run)
    return kept


def runs_of(record: Record, verdict: Verdict) -> tuple[Run, ...]:
    """Return the rows of history of *verdict*: one for each gap, and one for the occurrence."""
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
            id=_hashed(key, f"gap {gap.first_at}", size=10),
            scheduled_at=gap.last_at,
            ended_at=now,
            outcome=gap.outcome,
            count=gap.count,
            exact=gap.exact,
        )
        for gap in dropped
    )


def ended_by(changes: Sequence[Change], removed_counts: RemovedCounts | None) -> Mapping[Outcome, int]:
    """
    Return how many occurrences end with *changes*, which are written together with *removed_counts*, by outcome.

    A dead letter was counted when its occurrence failed, so the end of its redrive is not counted again. Records that
    are created bring no outcomes: one that moves to another pool was counted where it comes from.
    """
    found: dict[Outcome, int] = {}
    for before, after, *_ in changes:
        if before is None:
            continue
        if after is not None:
            counts = after.state.summary.counts
        elif removed_counts is not None and removed_counts.of == before.key:
            counts = removed_counts.summary.counts
        else:
            continue
        was = before.state.summary.counts
        if counts is was:
            continue
        more = [now - then for now, then in zip(_values(counts), _values(was), strict=True)]
        if min(more) < 0:
            continue
        for outcome, number in zip(Outcome, more, strict=True):
            if number:
                found[outcome] = found.get(outcome, 0) + number
    return found


def parents_of(key: Key) -> tuple[Key, ...]:
    """
    Return the records that may count a removed record: the first one that exists does.

    A side run is counted at its schedule, or if that is gone already, at its template like an instance.
    """
    parents = (key._replace(occurrence=""),) if key.occurrence else ()
    return (*parents, key._replace(instance="", occurrence="")) if key.instance else parents


def shard_of(parent: Key, number: int) -> Key:
    """Return the key of a shard of the counters of *parent*; number 0 is *parent* itself."""
    return parent._replace(occurrence=f"{SHARD_PREFIX}{number}") if number else parent


def is_shard(key: Key) -> bool:
    """Say whether *key* is that of a shard: a record that only counts, for its template."""
    return key.occurrence.startswith(SHARD_PREFIX)


def parent_among(removed_counts: RemovedCounts, records: Mapping[Key, Record | None]) -> Key | None:
    """
    Return the record that counts *removed_counts*, given the *records* of its parents; None if none is left.

    A template without a record gets one to count in. A static schedule that is gone is not created again.
    """
    parents = parents_of(removed_counts.of)
    for parent in parents:
        if records.get(parent) is not None:
            return parent
    return parents[-1] if removed_counts.of.instance else None


def counting_record(parent: Key, now: Instant) -> Record:
    """Return a record that only counts: that of a template before it is declared, or a shard of it."""
    return Record(parent, Spec(), now, now, None, now, None, Policies().lease)


def count_removed(parent: Key, record: Record | None, removed_counts: RemovedCounts, now: Instant) -> Change:
    """Return the change that adds *removed_counts* to *record* of *parent*, or to a new record without one."""
    before = record
    if record is None:
        record = counting_record(parent, now)
    ours, theirs = record.state.summary, removed_counts.summary
    others = sum(run.outcome is not Outcome.SUCCEEDED for run in removed_counts.runs)
    later = theirs if (theirs.last_ended_at or 0) >= (ours.last_ended_at or 0) else ours
    summary = replace(
        later,
        counts=_sum(ours.counts, theirs.counts),
        exact=ours.exact and theirs.exact,
        rows=ours.rows + others,
        successes_without_history=ours.successes_without_history
        + theirs.counts.succeeded
        - (len(removed_counts.runs) - others),
        last_success_at=_later(ours.last_success_at, theirs.last_success_at),
        last_failure_at=_later(ours.last_failure_at, theirs.last_failure_at),
        consecutive_failures=theirs.consecutive_failures
        + (ours.consecutive_failures if theirs.last_success_at is None else 0),
    )
    suspends = removed_counts.exhausts and parent == removed_counts.of._replace(occurrence="")
    state = replace(record.state, summary=summary, exhausted=record.state.exhausted or suspends)
    # A run in progress goes on to its outcome, and the record is suspended then.
    idle = not record.attempt and state.started is None
    after = replace(
        record,
        version=record.version if before is None else record.version + 1,
        claimable_at=None if suspends and idle else record.claimable_at,
        state=state,
    )
    return Change(before, after, rows_of(ours, record.spec.policies, removed_counts.runs))


def run_id(key: Key, fence: int) -> str:
    """Return the id of the run of the claim with *fence*; it is the same in every process."""
    return _hashed(key, str(fence), size=10)


def occurrence_name(record: Record, scheduled_at: Instant) -> str:
    """
    Return the name of one occurrence of *record* among its side runs; no other occurrence of its key ever has it.

    It contains the version that the record was created with: side runs of a removed record must not pass for those of a
    new record of the same name and due time. A one-off that is requested again is another occurrence at the same time,
    even while the first one runs.
    """
    if record.key.occurrence:
        return record.key.occurrence
    name = f"{scheduled_at}.{record.state.created_version}"
    return f"{name}.{record.schedule_since}" if isinstance(record.spec.schedule, Once) else name


def idempotency_key(record: Record, scheduled_at: Instant) -> str:
    """Return a key that all attempts of one occurrence share, and that no other occurrence ever has."""
    # A dead letter or a side run is the occurrence that its schedule named.
    asked_for = record.key.occurrence.removeprefix(DEAD_LETTER_PREFIX) if is_on_demand(record.key) else ""
    key = record.key._replace(occurrence=asked_for)
    return _hashed(key, f"{record.state.created_version}\0{scheduled_at}", size=16)


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


def _sum(ours: Counts, theirs: Counts) -> Counts:
    # A redriven dead letter takes back its count; a schedule that was created anew since has none to take.
    return Counts(*(max(0, a + b) for a, b in zip(_values(ours), _values(theirs), strict=True)))


def _later(a: Instant | None, b: Instant | None) -> Instant | None:
    return max(a or 0, b or 0) or None
