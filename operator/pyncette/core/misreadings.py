"""Finds the parts of a cron expression that are easily misread, and suggests how to write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from pyncette.core.cron import FIELD, FIELD_NAMES
from pyncette.core.reading import SECOND_FIELD, Reading, reading_of, seconds_moved_last

READINGS_MAX: Final = 8192
"""Expressions whose warnings are kept: `pyncette dev` needs those of a whole folder again and again."""

STEP: Final = re.compile(r"(?:\*|(?P<first>\d+)(?:-(?P<last>\d+))?)/(?P<step>\d+)", re.ASCII)
"""An item of a field with a step, and with numbers only."""

SELF_RANGE: Final = re.compile(r"(?P<value>\w+)-(?P=value)", re.ASCII)
"""A range that ends where it begins, which croniter takes for the whole field."""

PLAIN: Final = re.compile(r"[\d,-]+", re.ASCII)

FIFTH: Final = 5

MONTH_NAMES: Final = (
    "",
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS_OF_MONTHS: Final = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
WEEKDAY_NAMES: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

FEBRUARY: Final = 2

FIRST_LATE_DAY: Final = 29
"""Not every month has it."""

ANY: Final = frozenset({"*", "?"})

WEEKS_OF_MONTH: Final = [set[int | str](range(first, first + 7)) for first in (1, 8, 15, 22)]
"""The days among which the first to the fourth of any day of week are."""

ORDINALS: Final = ("first", "second", "third", "fourth")


class ScheduleWarning(NamedTuple):
    """A way in which a schedule is easily misread. It changes nothing: the schedule is due as it is written."""

    reason: str
    """PascalCase: `SecondsLast`, `EitherDay`, `UnevenStep`, `WholeField`, `RareDay`, `SkippedTime` or `RepeatedTime`."""
    message: str
    """One sentence, with what to write instead."""


class Cycle(NamedTuple):
    """A field whose values begin again, and the words for it."""

    first: int
    last: int
    within: str
    """The time after which they begin again."""
    unit: str
    """The distance between two values; empty: it is not always the same."""
    begins_again: Callable[[Reading], bool]
    """Returns whether the times of an expression ever pass the end of the field."""


@lru_cache(maxsize=READINGS_MAX)
def misreadings(expression: str, seed: str = "") -> tuple[ScheduleWarning, ...]:
    """Return the warnings about *expression* that hold in every zone. Raises CroniterBadCronError if it is invalid."""
    reading = reading_of(expression, seed)
    return (
        *_seconds_last(expression, seed, reading),
        *_either_day(reading),
        *_uneven_steps(reading),
        *_whole_fields(reading),
        *_rare_days(reading),
    )


# --- Seconds ---------------------------------------------------------------------------------------------------------


def _seconds_last(expression: str, seed: str, reading: Reading) -> Iterator[ScheduleWarning]:
    moved = seconds_moved_last(expression, seed)
    if moved is None or not _looks_like_seconds_first(reading):
        return
    fields = FIELD.findall(expression)
    message = f'seconds come last: write "{moved}" if the first field is the second'
    if fields[SECOND_FIELD] == "*":
        fields[SECOND_FIELD] = "0-59"
        message += f', or "{" ".join(fields)}" if every second is meant'
    elif fields[SECOND_FIELD:] == ["0"]:
        message += f', or "{" ".join(fields[:SECOND_FIELD])}" if it is the minute'
    yield ScheduleWarning("SecondsLast", message)


def _looks_like_seconds_first(reading: Reading) -> bool:
    """
    Return True if the last of six fields looks like a day of week, and the whole is no usual expression with seconds.

    Usual are a single second, as in `0 9 * * * 30`, and a step, as in `* * * * * */10`. A single second beside a day of
    month is suspect, since in the other reading that is an hour, as in `0 0 9 * * 1`; but before a year, a 0 is needed.
    """
    texts = reading.texts
    second = texts[SECOND_FIELD]
    if second == "*":
        return set(texts[: SECOND_FIELD + 1]) != {"*"}
    if not PLAIN.fullmatch(second):
        return False
    if second == "0" and texts[-1] != "*":
        return False
    return len(reading.seconds) > 1 or (texts[0].isdecimal() and texts[2] not in ANY)


# --- Days ------------------------------------------------------------------------------------------------------------


def _either_day(reading: Reading) -> Iterator[ScheduleWarning]:
    if not reading.days.either:
        return
    days, weekdays = reading.written[2], reading.written[4]
    instead = "set one of them to * and check the other in the handler"
    if weekdays.isalnum() and set(reading.days.days) in WEEKS_OF_MONTH:
        number = WEEKS_OF_MONTH.index(set(reading.days.days))
        fields = [*reading.written[:2], "*", reading.written[3], f"{weekdays}#{number + 1}", *_more(reading)]
        instead = f'write "{" ".join(fields)}" for the {ORDINALS[number]} one of each month'
    message = f'day of month {days} and day of week {weekdays} are combined by "or": {instead}'
    yield ScheduleWarning("EitherDay", message)


def _more(reading: Reading) -> Sequence[str]:
    """Return the fields for the second and the year, as far as they are needed."""
    second, year = reading.written[SECOND_FIELD:]
    if year != "*":
        return second, year
    return () if second == "0" else (second,)


def _rare_days(reading: Reading) -> Iterator[ScheduleWarning]:
    for weekday, which in reading.days.nth.items():
        if FIFTH in which:
            name = WEEKDAY_NAMES[weekday]
            message = f"many months have no fifth {name}: write L{weekday} for the last {name} of a month"
            yield ScheduleWarning("RareDay", message)
    for day in _late_days(reading):
        if reading.months == {FEBRUARY} and day == FIRST_LATE_DAY:
            message = "29 February comes in leap years only: write L for the last day of February"
            yield ScheduleWarning("RareDay", message)
        elif short := [month for month in sorted(reading.months) if DAYS_OF_MONTHS[month] < day]:
            yield ScheduleWarning("RareDay", _no_such_day(day, short))


def _late_days(reading: Reading) -> Iterator[int]:
    """Yield the days that not every month has, unless the day before matches too: `28-31` is a way to write the end."""
    days = reading.days.days
    if "*" in days or "l" in days or reading.days.nearest:
        return
    for item in reading.texts[2].split(","):
        day = 0 if "/" in item else int(item.partition("-")[0])
        if day >= FIRST_LATE_DAY and day - 1 not in days:
            yield day


def _no_such_day(day: int, short: Sequence[int]) -> str:
    months = [MONTH_NAMES[month] for month in short]
    names = " and ".join([", ".join(months[:-1]), months[-1]] if len(months) > 1 else months)
    has = "has" if len(months) == 1 else "have"
    usually = " in most years" if day == FIRST_LATE_DAY else ""
    return f"{names} {has} no day {day}{usually}: write L for the last day of a month"


# --- Steps and ranges ------------------------------------------------------------------------------------------------


def _adjacent(values: Iterable[int], first: int, last: int) -> bool:
    known = set(values)
    return any((value + 1 if value < last else first) in known for value in known)


CYCLES: Final[dict[int, Cycle]] = {
    0: Cycle(0, 59, "hour", "minutes", lambda reading: _adjacent(reading.hours, 0, 23)),
    1: Cycle(0, 23, "day", "hours", lambda _: True),
    2: Cycle(1, 31, "month", "days", lambda reading: _adjacent(reading.months, 1, 12)),
    3: Cycle(1, 12, "year", "", lambda _: True),
    4: Cycle(0, 6, "week", "", lambda _: True),
    5: Cycle(0, 59, "minute", "seconds", lambda reading: _adjacent(reading.minutes, 0, 59)),
}
"""By the position of the field. Years do not begin again."""


def _uneven_steps(reading: Reading) -> Iterator[ScheduleWarning]:
    for position, cycle in CYCLES.items():
        is_hashed = reading.written[position][0] in "hH"
        for item in reading.texts[position].split(","):
            found = STEP.fullmatch(item)
            if found is None or not _runs_to_the_end(found, cycle, is_hashed=is_hashed):
                continue
            first = cycle.first if found["first"] is None else int(found["first"])
            if first > cycle.last:
                first = cycle.first  # 7 is Sunday, as 0 is
            message = _uneven(reading, position, first, int(found["step"]))
            if message:
                yield ScheduleWarning("UnevenStep", message)


def _runs_to_the_end(found: re.Match[str], cycle: Cycle, *, is_hashed: bool) -> bool:
    """Return True if a step goes to the end of its field, and not from one chosen value to another, as in `9-17/2`."""
    if found["last"] is None:
        return True
    return int(found["last"]) >= cycle.last and (is_hashed or int(found["first"]) == cycle.first)


def _uneven(reading: Reading, position: int, first: int, step: int) -> str:
    """Return the message about every *step*-th value from *first* on; empty: they are evenly spread."""
    cycle, field = CYCLES[position], f"{reading.written[position]} in the {FIELD_NAMES[position]} field"
    length = cycle.last - cycle.first + 1
    last = range(first, cycle.last + 1, step)[-1]
    if step == 1:
        return ""
    if first == last:
        return f"{field} names {first} alone, so once each {cycle.within}: {_evenly(cycle, step, length)}"
    is_even = first + length - last == step and cycle.within != "month"
    if is_even or not cycle.begins_again(reading):
        return ""
    return (
        f"{field} begins again with each {cycle.within}, where {last} is followed by {first}: "
        f"{_evenly(cycle, step, length)}"
    )


def _evenly(cycle: Cycle, step: int, length: int) -> str:
    if not cycle.unit:
        return "list the values instead"
    divides = f", or a step that divides {length}" if cycle.unit != "days" else ""
    return f"use an interval of {step} {cycle.unit} for equal distances{divides}"


def _whole_fields(reading: Reading) -> Iterator[ScheduleWarning]:
    for name, field in zip(FIELD_NAMES, reading.written, strict=True):
        for item in field.split(","):
            found = SELF_RANGE.fullmatch(item)
            if found is not None:
                yield ScheduleWarning(
                    "WholeField", f"{item} in the {name} field is the whole field: write {found['value']}"
                )
