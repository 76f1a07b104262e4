"""The modes of tasks, and conversions between datetimes and microseconds since the epoch."""

from __future__ import annotations

import datetime
from enum import Enum
from typing import Any, Final

from pyncette.clock import Instant
from pyncette.core import times
from pyncette.core.schedule import Cron, Once, Schedule
from pyncette.core.zone import zone_or_utc

A_MICROSECOND: Final = datetime.timedelta(microseconds=1)


class ExecutionMode(Enum):
    """The guarantee for an occurrence if workers crash."""

    AT_LEAST_ONCE = 0
    AT_MOST_ONCE = 1


class FailureMode(Enum):
    """The treatment of an occurrence whose handler raised."""

    NONE = 0
    """It keeps its lease, and is retried when that has expired."""
    UNLOCK = 1
    """It is released, and retried after a poll interval."""
    COMMIT = 2
    """It is completed and counted as failed."""


class ResultType(Enum):
    """The result of a poll in 1.x. It is unused, and kept for modules that import it."""

    MISSING = 0
    PENDING = 1
    READY = 2
    LOCKED = 3
    LEASE_MISMATCH = 4


def datetime_of(instant: Instant, schedule: Schedule | None = None) -> datetime.datetime:
    """Return *instant* as an aware datetime, in the zone of *schedule* if that is known, else in UTC."""
    moment = times.datetime_of(instant)
    if isinstance(schedule, Cron | Once) and schedule.zone != "UTC":
        return moment.astimezone(zone_or_utc(schedule.zone))
    return moment


def as_timedelta(value: Any) -> str:
    """Return the end of an error for *value*, which should be a timedelta: what to write instead, if it is a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f": write timedelta(seconds={value!r})" if is_number else ""
