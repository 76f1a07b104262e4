"""Converts between instants, which are microseconds since the epoch, and aware datetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from pyncette.clock import MICROSECOND, Instant

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MICROSECOND: Final = timedelta(microseconds=MICROSECOND)


def datetime_of(at: Instant) -> datetime:
    """Return *at* in UTC. Raises OverflowError outside of the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=at)


def instant_of(moment: datetime) -> Instant:
    """Return *moment* in microseconds since the epoch. One without a time zone is taken as UTC, on any machine."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // _MICROSECOND
