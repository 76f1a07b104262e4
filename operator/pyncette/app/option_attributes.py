"""The options of a task, as its attributes."""

from __future__ import annotations

import datetime
from typing import Any

from pyncette.app.behaviour import (
    ExhaustionName,
    HeartbeatName,
    MissedName,
    OverlapName,
    closest_failure_mode,
    missed_of,
    overlap_of,
)
from pyncette.app.modes import A_MICROSECOND, ExecutionMode, FailureMode, datetime_of
from pyncette.app.options import Options, arguments_of
from pyncette.app.retries import Retry, retry_of
from pyncette.core.schedule import Cron, Interval, Once


class OptionAttributes:
    """The options of a task or of a stored instance; those of an instance include what it takes from its template."""

    _options: Options

    @property
    def schedule(self) -> str | None:
        """The cron expression, or None."""
        schedule = self._options.schedule
        return schedule.expression if isinstance(schedule, Cron) else None

    @property
    def interval(self) -> datetime.timedelta | None:
        schedule = self._options.schedule
        return schedule.length * A_MICROSECOND if isinstance(schedule, Interval) else None

    @property
    def execute_at(self) -> datetime.datetime | None:
        """The due time of a one-off, in UTC, or None."""
        schedule = self._options.schedule
        return datetime_of(schedule.at) if isinstance(schedule, Once) else None

    @property
    def timezone(self) -> str | None:
        """The time zone of the cron expression; None for UTC."""
        schedule = self._options.schedule
        return schedule.zone if isinstance(schedule, Cron) and schedule.zone != "UTC" else None

    @property
    def extra_args(self) -> dict[str, Any]:
        """The arguments, as a copy."""
        return arguments_of(self._options.args)

    @property
    def fast_forward(self) -> bool:
        return self._options.behaviour.fast_forward

    @property
    def failure_mode(self) -> FailureMode:
        """The failure mode, or the one that is closest to the retry policy."""
        return closest_failure_mode(self._options.behaviour)

    @property
    def execution_mode(self) -> ExecutionMode:
        return self._options.behaviour.execution_mode

    @property
    def lease_duration(self) -> datetime.timedelta:
        return self._options.behaviour.lease_duration

    @property
    def heartbeat(self) -> HeartbeatName:
        """'cooperative' if the handler renews the lease of a run, 'automatic' if the worker does."""
        return self._options.behaviour.heartbeat

    @property
    def retry(self) -> Retry | None:
        """The retry policy, with the exceptions that this process retries; None if `failure_mode` decides."""
        stored = self._options.behaviour.retry
        return None if stored is None else retry_of(stored, self._options.errors)

    @property
    def missed(self) -> MissedName | None:
        """The policy for missed occurrences; None if it is `fast_forward`."""
        return missed_of(self._options.behaviour)

    @property
    def max_catch_up_runs(self) -> int | None:
        """With `missed="all"`, how many of the missed occurrences run; None: all."""
        return self._options.behaviour.max_catch_up_runs

    @property
    def overlap(self) -> OverlapName:
        """The policy for an occurrence that is due while the one before it runs."""
        return overlap_of(self._options.behaviour)

    @property
    def starting_deadline(self) -> datetime.timedelta | None:
        """How late an occurrence may start; None: no limit."""
        return self._options.behaviour.starting_deadline

    @property
    def timeout(self) -> datetime.timedelta | None:
        """How long one run may take; None: no limit."""
        return self._options.behaviour.timeout

    @property
    def jitter(self) -> datetime.timedelta:
        """The upper bound of the delay that is hashed from the name."""
        return self._options.behaviour.jitter

    @property
    def not_before(self) -> datetime.datetime | None:
        """The start of the window in which occurrences count, in UTC; None: no limit."""
        return self._options.behaviour.not_before

    @property
    def not_after(self) -> datetime.datetime | None:
        """The end of the window in which occurrences count, in UTC; None: no limit."""
        return self._options.behaviour.not_after

    @property
    def on_exhausted(self) -> ExhaustionName:
        """What follows when the attempts of an occurrence are exhausted."""
        return self._options.behaviour.on_exhausted

    @property
    def suspend(self) -> bool:
        """True if nothing new starts: it is suspended itself, or its template is."""
        return self._options.behaviour.suspend

    @property
    def successful_runs_history_limit(self) -> int | None:
        """How many runs that succeeded are kept in the history; None: the default."""
        return self._options.behaviour.successful_runs_history_limit

    @property
    def failed_runs_history_limit(self) -> int | None:
        """How many other outcomes are kept in the history; None: the default."""
        return self._options.behaviour.failed_runs_history_limit
