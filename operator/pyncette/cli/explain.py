"""The output of `schedule explain`, as columns and as JSON."""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

from pyncette import schedules
from pyncette.cli.failures import Failure
from pyncette.cli.output import Table
from pyncette.core.cron import uses_hash
from pyncette.core.zone import resolve_zone


class Explained(NamedTuple):
    """The output of `schedule explain`."""

    explanation: schedules.Explanation

    @property
    def warnings(self) -> tuple[schedules.ScheduleWarning, ...]:
        return self.explanation.warnings

    def as_json(self) -> Any:
        expression, timezone, description, times, warnings = self.explanation
        return {
            "expression": expression,
            "timezone": timezone,
            "description": description,
            "next": [time.isoformat() for time in times],
            "warnings": [warning._asdict() for warning in warnings],
        }

    def as_table(self) -> Table:
        expression, timezone, description, times, _ = self.explanation
        shown = [f"{time:%a %Y-%m-%d %H:%M:%S %Z}" for time in times] or ["none: its years have passed"]
        names = ["next", *[""] * (len(shown) - 1)]
        rows = [
            ("expression", expression),
            ("time zone", timezone),
            ("in words", description),
            *zip(names, shown, strict=True),
        ]
        return Table(("NAME", "VALUE"), rows)


def explained(expression: str, timezone: str, after: str | None, count: int, key: str) -> Explained:
    """Explain a schedule with its first *count* times after *after*, or after now. Raises Failure if anything is invalid."""
    try:
        schedules.validate(expression, timezone, key=key)
        since = _time(after, timezone)
        return Explained(schedules.explain(expression, timezone, after=since, n=count, key=key))
    except ValueError as error:
        needs_key = uses_hash(expression) and not key and "uses H" in str(error)
        raise Failure(f"{error}: pass it with --key" if needs_key else str(error)) from error


def _time(text: str | None, timezone: str) -> datetime.datetime:
    if text is None:
        return datetime.datetime.now(datetime.UTC)
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'--after: "{text}" is not a time in ISO 8601: write 2030-01-31T09:00') from None
    return time if time.tzinfo is not None else time.replace(tzinfo=resolve_zone(timezone))
