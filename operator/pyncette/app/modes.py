"""Modes of tasks, and the times of handlers: datetimes outside, microseconds since the epoch inside."""

from __future__ import annotations

import datetime
from enum import Enum
from typing import Final

from pyncette.clock import Instant
from pyncette.core import times
from pyncette.core.schedule import Cron, Once, Schedule
from pyncette.core.zone import zone_or_utc

A_MICROSECOND: Final = datetime.timedelta(microseconds=1)


class ExecutionMode(Enum):
    """How often an occurrence may run when workers die."""

    AT_LEAST_ONCE = 0
    AT_MOST_ONCE = 1


class FailureMode(Enum):
    """What becomes of an occurrence whose handler raised."""

    NONE = 0
    """Nothing: it is tried again when its lease has expired."""
    UNLOCK = 1
    """It is released, and tried again a poll interval later."""
    COMMIT = 2
    """It is completed, as if its handler had returned, but counted as failed."""


class ResultType(Enum):
    """How a look at one task ended in 1.x. Nothing here returns it; modules that name it still import."""

    MISSING = 0
    PENDING = 1
    READY = 2
    LOCKED = 3
    LEASE_MISMATCH = 4


def datetime_of(instant: Instant, schedule: Schedule | None = None) -> datetime.datetime:
    """Return *instant* as an aware datetime, in the zone of *schedule* if it has one that is known here, else in UTC."""
    moment = times.datetime_of(instant)
    if isinstance(schedule, Cron | Once) and schedule.zone != "UTC":
        return moment.astimezone(zone_or_utc(schedule.zone))
    return moment
