"""The state that `pyncette dev` shows: tasks, their progress and problems. Screens draw it."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from pyncette.cli import formatting as words
from pyncette.cli.survey import Phase, View
from pyncette.clock import SECOND, Instant
from pyncette.core.record import Counts, Outcome
from pyncette.core.schedule import Once


class Picture(NamedTuple):
    """All that is shown, at one instant."""

    now: Instant
    title: str
    status: str
    """The activity of the worker, in a few words."""
    views: tuple[View, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Line(NamedTuple):
    """Something that happened, or that a handler printed."""

    at: datetime.datetime
    text: str
    level: str = "INFO"


class Row(NamedTuple):
    """One task, in words."""

    task: str
    schedule: str
    next: str
    last: str
    late: str
    running: str
    counts: str
    healthy: bool


def row_of(view: View, now: Instant) -> Row:
    """Return *view* in words."""
    summary = view.summary
    return Row(
        task=view.name,
        schedule=_schedule(view),
        next=_next(view, now),
        last=_last(view, now),
        late="" if view.late is None else words.duration(view.late),
        running=str(view.running) if view.running else "",
        counts=counts(summary.counts, exact=summary.exact),
        healthy=not summary.consecutive_failures and view.phase is not Phase.EXHAUSTED,
    )


def counts(of: Counts, *, exact: bool) -> str:
    """Return counts in words, those that are not 0."""
    named = [
        (of.succeeded, "ok"),
        (of.failed, "failed"),
        (of.dead_lettered, "dead"),
        (of.missed, "missed"),
        (of.skipped, "skipped"),
        (of.replaced, "replaced"),
        (of.lost, "lost"),
        (of.withdrawn, "withdrawn"),
    ]
    text = ", ".join(f"{count} {name}" for count, name in named if count)
    return text if exact or not text else f"≥ {text}"


def _schedule(view: View) -> str:
    if view.schedule is not None:
        return words.schedule(view.schedule)
    counted = view.instances
    if counted is None:
        return ""
    number = "many" if counted.total is None else f"{counted.total:,}"
    more = "" if counted.is_exact else " or more"
    due = f", {counted.due:,}{more} due" if counted.due else ""
    return f"{number} {'instance' if counted.total == 1 else 'instances'}{due}"


def _next(view: View, now: Instant) -> str:
    if view.retry_at is not None:
        return f"attempt {view.attempt + 1} {words.relative(view.retry_at, now)}"
    if view.next_at is None:
        return "" if view.phase is Phase.TEMPLATE else _why_not(view)
    overdue = "due " if view.next_at < now - SECOND else ""
    return f"{overdue}{words.relative(view.next_at, now)} ({words.moment(view.next_at, now)})"


def _why_not(view: View) -> str:
    if view.phase is Phase.RUNNING:
        return "none after this run"
    if view.phase is Phase.EXHAUSTED:
        return "suspended: attempts exhausted"
    if view.phase is Phase.FINISHED and _is_missed(view):
        return "missed: its time had passed"
    return str(view.phase.value)


def _is_missed(view: View) -> bool:
    """Return whether it had one time only, which passed without a run."""
    summary = view.summary
    return (
        isinstance(view.schedule, Once)
        and summary.counts.missed > 0
        and summary.last_scheduled_at != view.schedule.at
    )


def _last(view: View, now: Instant) -> str:
    summary = view.summary
    if summary.last_outcome is None or summary.last_ended_at is None:
        return "missed" if summary.counts.missed and not summary.counts.succeeded else ""
    return f"{said(summary.last_outcome)} {words.relative(summary.last_ended_at, now)}"


def said(outcome: Outcome) -> str:
    """Return *outcome* in plain words."""
    return "dead letter" if outcome is Outcome.DEAD_LETTERED else str(outcome.value)
