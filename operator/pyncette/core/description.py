"""Describes a cron expression in words, from the values that the engine reads in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import Final

from cron_descriptor import ExpressionDescriptor, Options  # type: ignore[import-untyped] # it has no types

from pyncette.core.cron import DayRule, numbers
from pyncette.core.reading import Reading

RUN_MIN: Final = 3
"""From this length on, successive values are written as a range."""

HOURS_LISTED_MAX: Final = 4

MONTH_DAYS: Final = frozenset(range(1, 32))
WEEK_DAYS: Final = frozenset(range(7))

ANY: Final = "*"


def description_of(reading: Reading) -> str:
    """
    Describe *reading* in an English sentence without a full stop.

    The library is not given the expression as it is written: it takes seconds first, and steps, ranges and `L5` otherwise
    than croniter. It is given the values that croniter found.
    """
    return ", or ".join(_sentences(reading))


def _sentences(reading: Reading) -> Iterator[str]:
    times = [_cycle(reading.seconds, 60), _cycle(reading.minutes, 60), _hours(reading.hours)]
    months = _listed(reading.months, frozenset(range(1, 13)))
    years = ANY if reading.years is None else _listed(reading.years)
    for number, (days, weekdays) in enumerate(_days(reading.days)):
        text = _described(" ".join([*times, days, months, weekdays, years]))
        yield text if number == 0 else text[0].lower() + text[1:]


def _described(expression: str) -> str:
    # The locale is ours: the library would read it from the environment.
    options = Options(locale_code="en_US", use_24hour_time_format=True, day_of_week_start_index_zero=True)
    return str(ExpressionDescriptor(expression, options).get_description())


def _days(rule: DayRule) -> list[tuple[str, str]]:
    """Return pairs of day of month and day of week that the library can tell; a day matches by any of the pairs."""
    days = [str(day) + "W" for day in rule.nearest] or _month_days(rule)
    weekdays = [
        _nth(weekday, n) for weekday, which in sorted(rule.nth.items()) for n in sorted(which, key=str)
    ]
    weekdays = weekdays or [_listed(numbers(rule.weekdays, range(7)), WEEK_DAYS)]
    if rule.either:
        if ANY in {*days, *weekdays}:
            return [(ANY, ANY)]
        first, *others = days
        return [(first, weekdays[0]), *((day, ANY) for day in others)]
    return [(day, weekday) for day in days for weekday in weekdays]


def _month_days(rule: DayRule) -> list[str]:
    if ANY in rule.days:
        return [ANY]
    numbered = {int(day) for day in rule.days if day != "l"}
    texts = [_listed(numbered, MONTH_DAYS)] if numbered else []
    return texts + (["L"] if "l" in rule.days and texts != [ANY] else [])


def _nth(weekday: int, n: int | str) -> str:
    return f"{weekday}L" if n == "l" else f"{weekday}#{n}"


def _cycle(values: Collection[int], length: int) -> str:
    """Return *values* as a step if they are evenly spread over the whole cycle, so that the step never falters."""
    step = length // len(values)
    if len(values) > 1 and set(values) == set(range(0, length, step)):
        return ANY if step == 1 else f"*/{step}"
    return _listed(values)


def _hours(values: Collection[int]) -> str:
    """
    Return a range or an even step only if there are no other hours.

    Few hours are listed, since "every 6 hours" does not say which. Several ranges are, since the library shows the last
    minute of each range.
    """
    whole = _listed(values) if len(values) <= HOURS_LISTED_MAX else _cycle(values, 24)
    return ",".join(map(str, sorted(values))) if "," in whole else whole


def _listed(values: Iterable[int], everything: frozenset[int] | None = None) -> str:
    ordered = sorted(values)
    if everything is not None and everything <= set(ordered):
        return ANY
    runs = [
        [value for _, value in run]
        for _, run in groupby(enumerate(ordered), key=lambda item: item[1] - item[0])
    ]
    return ",".join(_run(run) for run in runs)


def _run(run: list[int]) -> str:
    return f"{run[0]}-{run[-1]}" if len(run) >= RUN_MIN else ",".join(map(str, run))
