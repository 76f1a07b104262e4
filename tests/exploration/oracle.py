"""The promises, by simpler means than the code: what one write may change, and what one call of a handler may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.core.edits import started_of
from pyncette.core.record import Key, Outcome, Record, is_dead_letter
from pyncette.core.schedule import Schedule, first_after
from pyncette.core.spec import Mode

from .combination import BASE, Combination, Edit
from .values import TICK

Records = Mapping[Key, Record]

Time = tuple[str, Instant]
"""An occurrence: the name of its task, and its nominal time."""

FIELDS: Final = {outcome: outcome.name.lower() for outcome in Outcome}


class BrokenError(AssertionError):
    """A promise that was broken."""


class Judged(NamedTuple):
    """What a write has done that is remembered."""

    completed: tuple[Time, ...] = ()
    """Which occurrences ended with a run, or as lost."""
    lost: tuple[Time, ...] = ()


class Edited(NamedTuple):
    """What is remembered of an edit."""

    at: Instant
    """By the editor's clock."""
    kept: tuple[Instant, ...]
    """Times up to then that may still be started."""


def judge_write(before: Records, after: Records) -> Judged:
    """Judge what a worker has written. Raises BrokenError."""
    _only_grows(before, after)
    completed: list[Time] = []
    lost: list[Time] = []
    for key in {key._replace(occurrence="") for key in (*before, *after)}:
        was, is_ = before.get(key), after.get(key)
        if was is None or is_ is None:
            raise BrokenError(f"{key} was removed")
        letters = _letters(after, key)
        if letters != is_.state.summary.counts.dead_lettered:
            raise BrokenError(
                f"{letters} dead letters are there of {key}, and {is_.state.summary.counts.dead_lettered} counted"
            )
        if was is is_ and len(before) == len(after):
            continue
        if not was.state.exhausted and not (was.spec.policies and was.spec.policies.suspend):
            ended = _accounted(after, key) - _accounted(before, key)
            passed = _passed(was, is_)
            if ended != passed:
                raise BrokenError(
                    f"{key} moved on by {passed} occurrences, of which {ended} are accounted for"
                )
        ends = _ends(before, after, key)
        completed += ends
        if is_.state.summary.counts.lost > was.state.summary.counts.lost:
            lost += ends
    return Judged(tuple(completed), tuple(lost))


def judge_edit(
    before: Records, after: Records, at: Instant, combination: Combination, started: frozenset[Time]
) -> Edited:
    """Judge what the editor has written, whose clock showed *at*. Raises BrokenError."""
    _only_grows(before, after)
    key = combination.keys[0]
    was, is_ = before[key], after[key]
    policies = combination.policies
    in_progress = started_of(was, policies)
    counted = sum(_counts(is_).values()) - sum(_counts(was).values())
    withdrawn = 0
    if in_progress is not None and combination.edit in {Edit.FORCED, Edit.STOPPED}:
        withdrawn = 1 + sum(dropped.count for dropped in in_progress.dropped)
    if counted != withdrawn:
        raise BrokenError(f"an edit counts {counted} occurrences")
    kept: tuple[Instant, ...] = () if in_progress is None else (in_progress.scheduled_at,)
    if was.due_at is not None and combination.edit in {Edit.RESCHEDULED, Edit.INTERVAL, Edit.ARGUMENTS}:
        kept += (was.due_at,)
    # A side run goes on, unless it was released unstarted.
    kept += tuple(
        record.due_at
        for other, record in before.items()
        if other.occurrence and record.due_at and record.state.started is not None
    )
    if combination.edit is Edit.ARGUMENTS:
        return Edited(BASE, ())
    if is_.claimable_at is not None and in_progress is None:
        floor = max([at, was.schedule_since, *(time for name, time in started if name == key.task)])
        upcoming = first_after(combination.schedule_after, floor, is_.schedule_since)
        if is_.due_at is None or (upcoming is not None and is_.due_at > upcoming):
            raise BrokenError(
                f"an edit loses the occurrence of {upcoming}: the next one is that of {is_.due_at}"
            )
    return Edited(at if combination.edit is Edit.INTERVAL else at // TICK * TICK, kept)


def judge_start(
    time: Time,
    mode: Mode,
    started: frozenset[Time],
    completed: frozenset[Time],
    edited: Edited | None,
) -> None:
    """Judge the call of a handler. Raises BrokenError."""
    if time in completed:
        raise BrokenError(f"{time} is started again after it was completed")
    if mode is Mode.AT_MOST_ONCE and time in started:
        raise BrokenError(f"{time} is started twice, at most once")
    if edited is not None and time[0] == "task0" and time[1] <= edited.at and time[1] not in edited.kept:
        raise BrokenError(f"{time} is started, because an edit at {edited.at} reached back")


def judge_end(records: Records) -> None:
    """Judge what is left once nothing happens any more. Raises BrokenError."""
    for key, record in records.items():
        policies = record.spec.policies
        assert policies is not None
        if is_dead_letter(key):
            continue
        if key.occurrence:
            raise BrokenError(f"{key} is left")
        if record.state.started is not None:
            raise BrokenError(f"{key} is in progress, and nobody will end it")
        resting = policies.suspend or record.state.exhausted or record.state.withdrawn_at is not None
        if record.claimable_at is None and not resting and record.due_at is not None:
            raise BrokenError(f"{key} is due at {record.due_at}, and never claimable")


def _only_grows(before: Records, after: Records) -> None:
    for key, is_ in after.items():
        was = before.get(key)
        if was is None or was is is_:
            continue
        if is_.version < was.version or is_.fence < was.fence:
            raise BrokenError(f"the version or fence of {key} went back")
        if is_.version == was.version and is_.due_at != was.due_at:
            raise BrokenError(f"{key} was changed without a new version")
        floors = [getattr(record.state, "floor", None) for record in (was, is_)]
        if floors[0] is not None and (floors[1] is None or floors[1] < floors[0]):
            raise BrokenError(f"the floor of {key} went back from {floors[0]} to {floors[1]}")


def _counts(record: Record) -> dict[str, int]:
    counts = record.state.summary.counts
    return {name: getattr(counts, name) for name in counts.__struct_fields__}


def _letters(records: Records, key: Key) -> int:
    return sum(is_dead_letter(other) and other.task == key.task for other in records)


def _accounted(records: Records, key: Key) -> int:
    """How many occurrences of a schedule have an outcome, or are in progress although it has moved on from them."""
    record = records[key]
    beside = sum(
        1 for other in records if other.occurrence and other.task == key.task and not is_dead_letter(other)
    )
    started = record.state.started
    if started is not None and started.at_most_once:
        beside += 1 + sum(dropped.count for dropped in started.dropped)
    return sum(_counts(record).values()) + beside


def _passed(was: Record, is_: Record) -> int:
    """How many due times lie between what was due and what is due now; less than none, if a start was taken back."""
    schedule, started = was.spec.schedule, was.state.started
    assert schedule is not None
    if (
        started is not None
        and not started.at_most_once
        and is_.state.started is None
        and is_.due_at is not None
    ):
        # What was due with it may have been times of the schedule before an edit.
        begun = 1 + sum(dropped.count for dropped in started.dropped)
        following = first_after(schedule, max(started.scheduled_at, was.schedule_since), was.schedule_since)
        return begun + (
            0 if following is None else _times(schedule, following, is_.due_at, was.schedule_since)
        )
    if (
        started is not None
        and started.at_most_once
        and started.due_at is None
        and is_.state.started is None
        and _counts(is_) == _counts(was)
    ):
        # Released unstarted, after an edit: like all late times of the old schedule it is withdrawn, and not counted.
        return -1 - sum(dropped.count for dropped in started.dropped)
    if was.due_at is None or is_.due_at is None:
        return 0
    since = was.schedule_since
    if is_.due_at >= was.due_at:
        return _times(schedule, was.due_at, is_.due_at, since)
    return -_times(schedule, is_.due_at, was.due_at, since)


def _times(schedule: Schedule, first: Instant, end: Instant, since: Instant) -> int:
    number, at = 0, first
    while at < end:
        number += 1
        following = first_after(schedule, at, since)
        if following is None:
            break
        at = following
    return number


def _ends(before: Records, after: Records, key: Key) -> list[Time]:
    """Which occurrences of a schedule have ended with this write."""
    gone = [
        (key.task, record.due_at if record.state.started is None else record.state.started.scheduled_at)
        for other, record in before.items()
        if other.occurrence and other.task == key.task and other not in after
    ]
    if gone:
        return [(task, at) for task, at in gone if at is not None]
    was, is_ = _counts(before[key]), _counts(after[key])
    ran = ("succeeded", "failed", "dead_lettered", "replaced", "lost", "withdrawn")
    at = after[key].state.summary.last_scheduled_at
    if at is not None and any(is_[name] > was[name] for name in ran):
        return [(key.task, at)]
    return []
