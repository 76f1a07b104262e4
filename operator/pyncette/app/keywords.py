"""Finds out what an unknown keyword of a task was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from pyncette.core.suggestions import nearest

OPTIONS: Final = frozenset(
    {
        "args",
        "concurrency_limit",
        "enabled",
        "execute_at",
        "execution_mode",
        "failure_mode",
        "fast_forward",
        "force",
        "heartbeat",
        "interval",
        "keep_sooner",
        "lease_duration",
        "max_concurrent_runs",
        "name",
        "schedule",
        "timezone",
    }
)
"""The options of tasks and instances."""

SIMILARITY: Final = 0.8
"""How alike a keyword and an option must be. Arguments have any names, so this is stricter than for other names."""

_SCHEDULE: Final = 'write schedule="0 9 * * *"'
_TIMEZONE: Final = 'write timezone="Europe/Dublin"'
_INTERVAL: Final = "write interval=timedelta(minutes=5)"
_EXECUTE_AT: Final = "write execute_at=datetime(…, tzinfo=UTC)"
_RETRIES: Final = "write failure_mode=FailureMode.COMMIT for one attempt"
_LIMIT: Final = "write max_concurrent_runs=1 for a limit on all workers together"

OTHER_NAMES: Final = {
    "autoretry_for": _RETRIES,
    "cron": _SCHEDULE,
    "cron_expression": _SCHEDULE,
    "crontab": _SCHEDULE,
    "eta": _EXECUTE_AT,
    "interval_seconds": _INTERVAL,
    "max_attempts": _RETRIES,
    "max_instances": _LIMIT,
    "max_retries": _RETRIES,
    "misfire_grace_time": "write fast_forward=True to run only once for all missed occurrences",
    "next_run_time": _EXECUTE_AT,
    "retries": _RETRIES,
    "run_at": _EXECUTE_AT,
    "run_date": _EXECUTE_AT,
    "run_every": _INTERVAL,
    "time_zone": _TIMEZONE,
    "tz": _TIMEZONE,
}
"""The names of other libraries for our options, and what to write instead."""


@lru_cache(maxsize=1024)
def remedy(keyword: str) -> str | None:
    """Return what to write instead of *keyword*; None if it is not like an option."""
    known = OTHER_NAMES.get(keyword.lower())
    if known is not None:
        return known
    option = nearest(keyword, OPTIONS, SIMILARITY)
    return None if option is None else f"did you mean {option}?"


def refusal(keywords: Iterable[str]) -> ValueError:
    """Return the error for unknown *keywords*."""
    first = min(keywords)
    meant = remedy(first)
    suggestion = "" if meant is None else f"{meant} "
    return ValueError(f"unknown option {first}; {suggestion}(pass arguments as args={{{first!r}: …}})")
