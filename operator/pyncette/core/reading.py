"""Reads the fields of a cron expression as the engine takes them, to explain it to the person who wrote it."""

from __future__ import annotations

from typing import Final, NamedTuple

from croniter import CroniterBadCronError, croniter

from pyncette.core.cron import (
    FIELD,
    FIELD_NAMES,
    MONTHS,
    DayRule,
    day_rule,
    numbers,
    pattern_of,
    resolved,
    uses_hash,
    values_of,
)

SECOND_FIELD: Final = 5
"""Position of the field for seconds."""

YEARS: Final = range(1970, 2100)
"""The years that an expression can name."""

DEFAULT_TEXTS: Final = ("0", "*")
"""The second and the year of an expression without fields for them."""


class Reading(NamedTuple):
    """The fields of a valid expression: their texts, and the values that they name."""

    written: tuple[str, ...]
    """All seven fields, in the writer's spelling. A keyword such as `@daily` is spelled out."""
    texts: tuple[str, ...]
    """The same in lower case, with a number in place of each `H`."""
    minutes: frozenset[int]
    hours: frozenset[int]
    months: frozenset[int]
    seconds: frozenset[int]
    years: frozenset[int] | None
    """None: any year."""
    days: DayRule


def reading_of(expression: str, seed: str = "") -> Reading:
    """Read *expression*, with *seed* as in `Cron`. Raises CroniterBadCronError as the engine does."""
    pattern_of(expression, seed)
    parsed = croniter(resolved(expression, seed) if seed else expression, 0)
    minutes, hours, days, months, weekdays, seconds, years = values_of(parsed)
    written = FIELD.findall(expression)
    texts = tuple(parsed.expressions)
    defaults = DEFAULT_TEXTS[len(texts) - 5 :]
    return Reading(
        written=(*(written if len(written) == len(texts) else texts), *defaults),
        texts=(*texts, *defaults),
        minutes=frozenset(numbers(minutes, range(60))),
        hours=frozenset(numbers(hours, range(24))),
        months=frozenset(numbers(months, MONTHS)),
        seconds=frozenset(numbers(seconds, range(60))),
        years=None if "*" in years else frozenset(numbers(years, YEARS)),
        days=day_rule(parsed, days, weekdays),
    )


def suspect_field(expression: str) -> str:
    """Return the name and the text of the one field that makes *expression* invalid: croniter says so of few. Empty: none."""
    fields = FIELD.findall(expression)
    if _is_valid(expression):
        return ""
    for index, name in zip(range(len(fields)), FIELD_NAMES, strict=False):
        rest = " ".join("*" if index == other else field for other, field in enumerate(fields))
        if _is_valid(rest):
            return f"{name}, {fields[index]}"
    return ""


def _is_valid(expression: str) -> bool:
    """Say whether *expression* is valid for a task, whose key is what any H is hashed from."""
    try:
        pattern_of(expression, "any" if uses_hash(expression) else "")
    except CroniterBadCronError:
        return False
    return True


def seconds_moved_last(expression: str, seed: str = "") -> str | None:
    """
    Return *expression* with its first field as the second, which Spring, Quartz and others write first.

    None if it has no field for seconds, or is invalid in that reading.
    """
    fields = FIELD.findall(expression)
    if len(fields) <= SECOND_FIELD:
        return None
    second, *others = fields
    moved = [*others[:SECOND_FIELD], second, *others[SECOND_FIELD:]]
    if moved[SECOND_FIELD:] == ["0"]:
        del moved[SECOND_FIELD]
    text = " ".join(moved)
    try:
        pattern_of(text, seed)
    except CroniterBadCronError:
        return None
    return text
