"""Checks the records that a move carries over from a database that others may write to. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec
from pydantic import TypeAdapter, ValidationError

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core import edits
from pyncette.core.policies import next_due
from pyncette.core.record import (
    DEAD_LETTER_PREFIX,
    MESSAGE_CHARACTERS_MAX,
    Record,
    Requests,
    State,
    Summary,
    replace,
)
from pyncette.core.schedule import EARLIEST
from pyncette.core.side_runs import side_run_of
from pyncette.mirror.conversion import DesiredRecord
from pyncette.mirror.status import OFTEN
from pyncette.resources.arguments import ARGS_BYTES_MAX, Arguments
from pyncette.resources.modelling import COUNT_MAX
from pyncette.resources.task_status import REQUEST_CHARACTERS_MAX, WORKER_CHARACTERS_MAX

CLOCK_MARGIN: Final[Duration] = 3600 * SECOND
"""How far the clock of one backend may be ahead of that of another."""

REPORTED_AHEAD: Final[Duration] = 900 * SECOND
"""
How far the next time in a status may lie after the record's, for a schedule that is due `OFTEN`.

It covers the longest wait between two writes of a status, with a margin.
"""

OCCURRENCE: Final = re.compile(rf"{DEAD_LETTER_PREFIX}[!-~]{{1,100}}")
"""The name of a dead letter: of a due time, or of a requested run."""

_ARGUMENTS: Final = TypeAdapter[object](Arguments)


class Bounds(NamedTuple):
    """The bounds of a record that moves here from another database."""

    reported_next: Instant | None
    """The next occurrence in the status of the task; None if the status has none."""


class ImplausibleRecordError(ValueError):
    """The record has a value that no operator or worker writes. The message is a clause that names the value."""


def bounded(old: Record, now: Instant) -> Record:
    """
    Return *old*, the stopped record of a task on another database, without its run and within all limits.

    Raises ImplausibleRecordError. The caller applies the desired spec, and then calls `check_due` for the due time.
    """
    state = old.state
    for name, at in (
        ("its schedule", old.schedule_since),
        ("its last start", state.floor),
        ("its stop", state.withdrawn_at),
        ("its creation", state.created_version),
        ("its last edit", state.schedule_version),
    ):
        _check_past(name, at, now)
    if max(map(len, msgspec.structs.astuple(state.handled))) > REQUEST_CHARACTERS_MAX:
        raise ImplausibleRecordError("a handled request is too long")
    summary = _bounded_summary(state.summary, now)
    return Record(
        key=old.key,
        spec=old.spec,
        version=_bounded_counter(old.version, now),
        fence=_bounded_counter(old.fence, now),
        due_at=old.due_at,
        schedule_since=old.schedule_since,
        claimable_at=None,
        lease_length=old.lease_length,
        state=replace(state, started=None, summary=summary),
    )


def check_due(after: Record, bounds: Bounds, now: Instant) -> None:
    """
    Raise ImplausibleRecordError unless the schedule and the status allow the due time of *after*, the moved record.

    A due time in the past must not lie before the next time in the status. All earlier occurrences had ended by then.
    """
    due, schedule, since = after.due_at, after.spec.schedule, after.schedule_since
    policies = after.spec.policies
    if schedule is None or policies is None:
        return
    last = next_due(schedule, policies, since, now + CLOCK_MARGIN)
    if due is None:
        if last is not None:
            raise ImplausibleRecordError("it has no due time, although its schedule has further times")
        return
    if next_due(schedule, policies, since, due - 1) != due:
        raise ImplausibleRecordError("its due time is not in its schedule")
    if due <= now:
        second = next_due(schedule, policies, since, due)
        ahead = REPORTED_AHEAD if second is not None and second - due < OFTEN else 0
        if bounds.reported_next is None or due < bounds.reported_next - ahead:
            raise ImplausibleRecordError("its due time has passed, and the status does not report that time")
    elif last is not None and due > last:
        raise ImplausibleRecordError("its due time is later than the next time of its schedule")


def carried_dead_letter(old: Record, desired: DesiredRecord, now: Instant) -> Record:
    """
    Return the dead letter to create at the key of the *desired* record for *old*. Raises ImplausibleRecordError.

    The arguments, the due time and the name are carried over. All else is that of a new dead letter of the task.
    """
    occurrence = old.key.occurrence
    if not OCCURRENCE.fullmatch(occurrence):
        raise ImplausibleRecordError("the name of a dead letter is invalid")
    if old.due_at is None:
        raise ImplausibleRecordError(f"the dead letter {occurrence} has no due time")
    _check_past(f"the dead letter {occurrence}", old.due_at, now)
    _check_past(f"the creation of the dead letter {occurrence}", old.state.created_version, now)
    _check_arguments(occurrence, bytes(old.spec.args))
    home = edits.created(desired.key, desired.spec, desired.policies, now)
    new = side_run_of(home, desired.policies, occurrence, old.due_at, now)
    redrive = old.state.handled.redrive[:REQUEST_CHARACTERS_MAX]
    return replace(
        new,
        spec=replace(new.spec, args=old.spec.args),
        version=_bounded_counter(old.version, now),
        fence=_bounded_counter(old.fence, now),
        claimable_at=None,
        state=State(created_version=old.state.created_version, handled=Requests(redrive=redrive)),
    )


def _bounded_counter(counter: int, now: Instant) -> int:
    """Return a version or fence between *now*, where new records start, and `CLOCK_MARGIN` later."""
    return min(max(now, counter), now + CLOCK_MARGIN)


def _check_past(name: str, at: Instant | None, now: Instant) -> None:
    if at is not None and not EARLIEST <= at <= now + CLOCK_MARGIN:
        raise ImplausibleRecordError(f"{name} is not in the past")


def _check_arguments(occurrence: str, args: bytes) -> None:
    try:
        if len(args) <= ARGS_BYTES_MAX:
            _ARGUMENTS.validate_python(msgspec.json.decode(args))
            return
    except (msgspec.DecodeError, ValidationError, RecursionError):
        pass
    raise ImplausibleRecordError(f"the arguments of the dead letter {occurrence} are not valid for a task")


def _bounded_summary(summary: Summary, now: Instant) -> Summary:
    for at in (
        summary.last_scheduled_at,
        summary.last_started_at,
        summary.last_ended_at,
        summary.last_success_at,
        summary.last_failure_at,
    ):
        _check_past("its last run", at, now)
    counts = (
        summary.last_attempts,
        summary.consecutive_failures,
        summary.rows,
        summary.successes_without_history,
        *msgspec.structs.astuple(summary.counts),
    )
    rowless = summary.counts.succeeded - summary.successes_without_history
    if not all(0 <= count <= COUNT_MAX for count in (*counts, rowless)):
        raise ImplausibleRecordError("a count of its runs is out of range")
    return replace(
        summary,
        last_worker=summary.last_worker[:WORKER_CHARACTERS_MAX],
        last_message=summary.last_message[:MESSAGE_CHARACTERS_MAX],
    )
