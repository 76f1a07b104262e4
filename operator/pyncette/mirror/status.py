"""Derives the times and runs in the status of a PyncetteTask from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.edits import started_of
from pyncette.core.policies import after_run, next_due
from pyncette.core.printable import one_line, printable
from pyncette.core.record import MESSAGE_CHARACTERS_MAX, Outcome, Record, Summary
from pyncette.core.spec import Policies
from pyncette.core.times import datetime_of
from pyncette.resources.modelling import whole_second
from pyncette.resources.resource import UNOBSERVED, Condition
from pyncette.resources.task_status import (
    REQUEST_CHARACTERS_MAX,
    UPCOMING_MAX,
    WORKER_CHARACTERS_MAX,
    Instances,
    LastRun,
    OutcomeName,
    RunCounts,
    TaskStatus,
)

OFTEN: Final[Duration] = 60 * SECOND
"""A schedule with a shorter interval may be due several times before its status can be written again."""

LATE: Final[Duration] = 30 * SECOND
"""An occurrence that has waited longer for a worker is reported, in the past, so that people see that no worker claims it."""

WRITING: Final[Duration] = 5 * SECOND
"""How long it usually takes until a status reports that a worker has advanced a schedule."""


def status_of(
    record: Record,
    now: Instant,
    *,
    conditions: Sequence[Condition] = (),
    side_runs: int = 0,
    last_run_id: str | None = None,
    instances: Instances | None = None,
    write_interval: Duration = 0,
) -> TaskStatus:
    """
    Return the status that *record* shows at *now*, the same whenever both are the same.

    Times are told in whole seconds, as those of a CronJob; those of the last run to the microsecond, since short runs are
    measured by them.

    The caller adds what a record does not know: its *conditions*, how many runs are under way as *side_runs* (overlapping
    ones, and those on demand), the id of the last run, and the *instances* of a template. If a schedule is due more often
    than every `OFTEN`, the status has the first time after the *write_interval* in which it cannot be written again: an
    earlier time would soon be in the past, and look late.
    """
    policies = record.spec.policies or Policies()
    summary = record.state.summary
    following = _reported_next(record, policies, next_occurrence(record, policies), now, write_interval)
    owner, handled = record.state.owner, record.state.handled
    return TaskStatus(
        observed_generation=UNOBSERVED if owner is None else owner.generation,
        conditions=tuple(conditions),
        next_schedule_time=_second(following),
        upcoming_schedule_times=tuple(
            datetime_of(whole_second(at)) for at in _upcoming(record, policies, following, now)
        ),
        last_schedule_time=_second(_last_scheduled_at(record, policies)),
        last_successful_time=_second(summary.last_success_at),
        last_failure_time=_second(summary.last_failure_at),
        last_run=_last_run(summary, last_run_id),
        active=record.is_leased(now) + side_runs,
        consecutive_failures=summary.consecutive_failures,
        run_counts=_run_counts(summary),
        instances=instances,
        last_handled_run_request=_request(handled.run),
        last_handled_resume_request=_request(handled.resume),
        last_handled_redrive_request=_request(handled.redrive),
    )


def next_occurrence(record: Record, policies: Policies) -> Instant | None:
    """
    Return the next occurrence of *record* that has not started, which may have passed; None if none is going to start.

    Raises ValueError if it depends on a stored schedule that cannot be read any more.
    """
    if policies.suspend or record.state.exhausted or record.state.withdrawn_at is not None:
        return None
    started = started_of(record, policies)
    if started is None or started.at_most_once:
        # At most once the schedule moved on before the run began.
        return record.due_at
    after = after_run(record, started.scheduled_at)
    return next_due(record.spec.schedule, policies, record.schedule_since, after)


def _reported_next(
    record: Record, policies: Policies, following: Instant | None, now: Instant, write_interval: Duration
) -> Instant | None:
    """Return the next time to report; it depends on the record, so it changes no sooner than that."""
    if following is None or not write_interval or following < now - LATE:
        return following
    schedule, since = record.spec.schedule, record.schedule_since
    second = next_due(schedule, policies, since, following)
    if second is None or second - following >= OFTEN:
        return following
    # The next write follows the next occurrence after the interval: up to a period later, plus the delay of the write.
    later = next_due(
        schedule, policies, since, following + write_interval + (second - following) + WRITING - 1
    )
    return following if later is None else later


def _upcoming(record: Record, policies: Policies, following: Instant | None, now: Instant) -> list[Instant]:
    """Return the next times from *now* on that the schedule names: none that passed, however long the backlog is."""
    upcoming: list[Instant] = []
    at = following
    if at is not None and at <= now:
        at = next_due(record.spec.schedule, policies, record.schedule_since, now)
    while at is not None and len(upcoming) < UPCOMING_MAX:
        upcoming.append(at)
        at = next_due(record.spec.schedule, policies, record.schedule_since, at)
    return upcoming


def _last_scheduled_at(record: Record, policies: Policies) -> Instant | None:
    started = started_of(record, policies)
    return record.state.summary.last_scheduled_at if started is None else started.scheduled_at


_OUTCOMES: Final[Mapping[Outcome, OutcomeName]] = {
    Outcome.SUCCEEDED: "Succeeded",
    Outcome.FAILED: "Failed",
    Outcome.DEAD_LETTERED: "DeadLettered",
    Outcome.MISSED: "Missed",
    Outcome.SKIPPED: "Skipped",
    Outcome.REPLACED: "Replaced",
    Outcome.LOST: "Lost",
    Outcome.WITHDRAWN: "Withdrawn",
}
"""Enums of the Kubernetes API are written so (API conventions, "Constants"); records and logs have their own spelling."""


def _last_run(summary: Summary, run_id: str | None) -> LastRun | None:
    """Return the occurrence that ended last; None if none has ended."""
    if summary.last_outcome is None:
        return None
    return LastRun(
        id=run_id,
        scheduled_time=_time(summary.last_scheduled_at),
        start_time=_time(summary.last_started_at),
        completion_time=_time(summary.last_ended_at),
        outcome=_OUTCOMES[summary.last_outcome],
        attempts=summary.last_attempts,
        worker=one_line(summary.last_worker)[:WORKER_CHARACTERS_MAX],
        message=one_line(summary.last_message)[:MESSAGE_CHARACTERS_MAX],
    )


def _request(handled: str) -> str | None:
    """Return a handled request as the status echoes it; None if there was none."""
    return printable(handled)[:REQUEST_CHARACTERS_MAX] or None


def _run_counts(summary: Summary) -> RunCounts:
    """Return how many occurrences ended, by outcome."""
    counts = summary.counts
    return RunCounts(
        succeeded=counts.succeeded,
        failed=counts.failed,
        dead_lettered=counts.dead_lettered,
        missed=counts.missed,
        skipped=counts.skipped,
        replaced=counts.replaced,
        lost=counts.lost,
        withdrawn=counts.withdrawn,
    )


def _second(at: Instant | None) -> datetime | None:
    return None if at is None else datetime_of(whole_second(at))


def _time(at: Instant | None) -> datetime | None:
    return None if at is None else datetime_of(at)
