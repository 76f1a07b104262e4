"""Gathers all warnings about a cron expression in its zone, as it is due in the near future."""

from __future__ import annotations

from typing import Final

from pyncette.clock import Instant
from pyncette.core.clock_changes import clock_changes
from pyncette.core.misreadings import ScheduleWarning, misreadings
from pyncette.core.schedule import Cron, upcoming

NEXT_TIMES: Final = 5
"""The next times of a schedule that are shown, or looked at for changes of the clocks, unless another number is given."""


def warnings_of(schedule: Cron, after: Instant, n: int = NEXT_TIMES) -> tuple[ScheduleWarning, ...]:
    """
    Return the warnings about *schedule*, those about changes of the clocks for its next *n* times after *after*.

    Raises CroniterBadCronError or ValueError if the schedule is invalid.
    """
    due = upcoming(schedule, after, n, after)
    changes = clock_changes(schedule, after, due[-1]) if due else ()
    return (*misreadings(schedule.expression, schedule.seed), *changes)
