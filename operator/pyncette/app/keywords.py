"""Finds out what an unknown keyword of a task was meant to be, and warns of one that is taken for an argument."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from types import FrameType
from typing import Any, Final

from pyncette.app.policy_options import NEW_POLICIES, POLICIES
from pyncette.core.suggestions import nearest
from pyncette.errors import LooseKeywordWarning

OPTIONS: Final = frozenset(
    {
        "args",
        "concurrency_limit",
        "enabled",
        "execute_at",
        "force",
        "interval",
        "keep_sooner",
        "max_concurrent_runs",
        "name",
        "schedule",
        "timezone",
    }
    | POLICIES
)
"""The options of tasks and instances."""

NEW_OPTIONS: Final = frozenset({"args", "keep_sooner"}) | NEW_POLICIES
"""The options that Pyncette 1.x did not have, and that are arguments of an app with its defaults."""

SIMILARITY: Final = 0.8
"""How alike a keyword and an option must be. Arguments have any names, so this is stricter than for other names."""

USE_SAFE_DEFAULTS: Final = 'use Pyncette(defaults="safe")'
"""The remedy for a keyword that is an option only with the safe defaults."""

WORD: Final = re.compile(r"\w+")

_SCHEDULE: Final = 'write schedule="0 9 * * *"'
_TIMEZONE: Final = 'write timezone="Europe/Dublin"'
_INTERVAL: Final = "write interval=timedelta(minutes=5)"
_EXECUTE_AT: Final = "write execute_at=datetime(…, tzinfo=UTC)"
_RETRIES: Final = "write retry=Retry(max_attempts=3)"
_BACKOFF: Final = "write retry=Retry(initial_backoff=timedelta(seconds=5))"
_TIMEOUT: Final = "write timeout=timedelta(minutes=5)"
_NOT_BEFORE: Final = "write not_before=datetime(…, tzinfo=UTC)"
_NOT_AFTER: Final = "write not_after=datetime(…, tzinfo=UTC)"
_LIMIT: Final = "write max_concurrent_runs=1 for a limit on all workers together"

OTHER_NAMES: Final = {
    "active_deadline": _TIMEOUT,
    "autoretry_for": "write retry=Retry(on=(TimeoutError,))",
    "backoff": _BACKOFF,
    "coalesce": 'write missed="latest" to run only once for all missed occurrences',
    "concurrency_policy": 'write overlap="forbid"',
    "cron": _SCHEDULE,
    "cron_expression": _SCHEDULE,
    "crontab": _SCHEDULE,
    "dont_autoretry_for": "write retry=Retry(give_up_on=(ValueError,))",
    "end_date": _NOT_AFTER,
    "end_time": _NOT_AFTER,
    "eta": _EXECUTE_AT,
    "expires": "write starting_deadline=timedelta(minutes=5)",
    "interval_seconds": _INTERVAL,
    "max_attempts": _RETRIES,
    "max_instances": _LIMIT,
    "max_retries": _RETRIES,
    "misfire_grace_time": "write starting_deadline=timedelta(minutes=5)",
    "missed_run_policy": 'write missed="latest"',
    "next_run_time": _EXECUTE_AT,
    "paused": "write suspend=True",
    "retries": _RETRIES,
    "retry_backoff": _BACKOFF,
    "retry_policy": _RETRIES,
    "run_at": _EXECUTE_AT,
    "run_date": _EXECUTE_AT,
    "run_every": _INTERVAL,
    "soft_time_limit": _TIMEOUT,
    "start_date": _NOT_BEFORE,
    "start_time": _NOT_BEFORE,
    "time_limit": _TIMEOUT,
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
    if first in OPTIONS:
        return ValueError(f"{first} is no option here; for an argument: args={{{first!r}: …}}")
    meant = remedy(first)
    as_argument = f"args={{{first!r}: …}}"
    if meant is None:
        return ValueError(f"unknown option {first}; pass arguments as {as_argument}")
    return ValueError(f"unknown option {first}; {meant} (for an argument: {as_argument})")


def warn_of_loose(keywords: Iterable[str]) -> None:
    """Warn of each of *keywords* that is like an option, with the place of the caller. They are arguments."""
    for keyword in keywords:
        message = _warning(keyword)
        if message is not None:
            file, line, registry = _caller()
            warnings.warn_explicit(message, LooseKeywordWarning, file, line, registry=registry)


@lru_cache(maxsize=1024)
def _warning(keyword: str) -> str | None:
    meant = remedy(keyword)
    if keyword in NEW_OPTIONS:
        meant = USE_SAFE_DEFAULTS
    elif meant is not None and not NEW_OPTIONS.isdisjoint(WORD.findall(meant)):
        meant = f"{meant}, and {USE_SAFE_DEFAULTS}"
    return None if meant is None else f"the keyword {keyword} is an argument here, and not an option; {meant}"


def _caller() -> tuple[str, int, Any]:
    """Return file, line and warning registry of the code that called this package; unknown in a task of an event loop."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as in warnings.warn
    while frame is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module == "asyncio":
            break
        if module != "pyncette":
            return (
                frame.f_code.co_filename,
                frame.f_lineno,
                frame.f_globals.setdefault("__warningregistry__", {}),
            )
        frame = frame.f_back
    return "<unknown>", 0, None
