"""Turns a cron expression into bit masks, and finds in them the times that it names on a wall clock."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias, cast

from croniter import CroniterBadCronError, croniter
from croniter.croniter import HashExpander

from pyncette.core.interval_words import interval_seconds

DAY: Final = 86_400

LENGTH_MAX: Final = 4096
"""The longest expression, in characters: twice what it takes to spell out every value of every field."""

PATTERNS_MAX: Final = 8192
"""Compiled expressions kept, one and a half kilobytes each: the 1,440 minutes of a day at which something is daily,
several times over. Compiling one again costs a fifth of a millisecond."""

WINDOWS_MAX: Final = 8
"""Years kept of each expression; mostly two are in use, this one and the next."""

SEEDS_MAX: Final = 8192
"""Resolved seeds kept. Each instance that uses H has its own, so beyond this they are resolved at each use, in a few
microseconds; what they resolve to are few different expressions, which stay compiled."""

EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
FIRST_YEAR: Final = 1
LAST_YEAR: Final = 9999

MONTHS: Final = range(1, 13)
WEEKDAYS: Final = range(7)
"""Sunday is 0."""

FIELD: Final = re.compile(r"\S+", re.ASCII)
"""A field, as croniter separates them: by ASCII white space alone."""


KEYWORDS: Final = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
"""Expressions that are one keyword."""

Field: TypeAlias = Collection[int | str]
"""The values of a field, as croniter lists them: numbers, `*` for all, `l` for a month's last day."""

FIELD_NAMES: Final = ("minute", "hour", "day of month", "month", "day of week", "second", "year")
"""The fields of an expression, in their order."""

DEFAULTS: Final[tuple[Field, Field]] = ([0], ["*"])
"""The second and the year of an expression without a field for them."""


EXPANDER: Final = HashExpander(cast("croniter[float]", croniter))
"""The function of croniter that expands H. Calling it alone is ten times as fast as parsing the whole expression."""


class Window(NamedTuple):
    """One year, as days since the epoch: bit n of *mask* says whether day *first* + n matches."""

    first: int
    end: int
    mask: int


class DayRule(NamedTuple):
    """The days of a month that match."""

    days: Field
    nearest: Collection[int]
    """Days of the month that are moved to the nearest weekday (`15W`). If there are any, *days* does not count."""
    weekdays: Field
    nth: dict[int, set[int | str]]
    """Occurrences in the month per weekday (`mon#2`, `L5`). If there are any, *weekdays* does not count."""
    either: bool
    """True if days match by the day of month or the day of week; False if by both."""

    def mask(self, length: int, first_weekday: int) -> int:
        """Return a mask whose bit n says whether day n + 1 matches, in a month of this length that begins on this weekday."""
        numbered, named = self.sides(length, first_weekday)
        return numbered | named if self.either else numbered & named

    def sides(self, length: int, first_weekday: int) -> tuple[int, int]:
        if self.nearest:
            numbered = _bits(_nearest_weekday(day, length, first_weekday) - 1 for day in self.nearest)
        else:
            numbered = _bits(day - 1 for day in numbers(self.days, range(1, length + 1), last=length))
        if self.nth:
            named = _bits(day - 1 for day in self._nth_days(length, first_weekday))
        else:
            weekdays = numbers(self.weekdays, WEEKDAYS)
            named = _bits(day for day in range(length) if (first_weekday + day) % 7 in weekdays)
        return numbered, named

    def _nth_days(self, length: int, first_weekday: int) -> Iterator[int]:
        for weekday, which in self.nth.items():
            days = range(1 + (weekday - first_weekday) % 7, length + 1, 7)
            for n in which:
                if n == "l":
                    yield days[-1]
                elif int(n) <= len(days):
                    yield days[int(n) - 1]


class Pattern:
    """
    The wall times that an expression names, to the second.

    A wall time is counted like UTC, in seconds since 1970-01-01T00:00 on that clock. Changes of clocks are not known
    here; `elapsed` says how the expression wants them handled.
    """

    __slots__ = (
        "_daily",
        "_first_in_day",
        "_first_second",
        "_last_in_day",
        "_last_second",
        "_latest",
        "_masks",
        "_minutes",
        "_months",
        "_recent",
        "_rule",
        "_seconds",
        "_windows",
        "_years",
        "begin",
        "elapsed",
        "end",
    )

    begin: int
    """No wall time is named before this."""
    end: int
    """No wall time is named at or after this."""

    elapsed: bool
    """Elapsed time rules when clocks change, not wall time: the minute or hour field starts with `*`."""

    def __init__(self, parsed: croniter) -> None:
        """Raises CroniterBadCronError if the expression names no time at all."""
        minutes, hours, days, months, weekdays, seconds, years = values_of(parsed)
        self.elapsed = any(text.startswith("*") for text in parsed.expressions[:2])
        named = numbers(minutes, range(60))
        self._minutes = _bits(60 * n + minute for n in numbers(hours, range(24)) for minute in named)
        self._seconds = _bits(numbers(seconds, range(60)))
        self._first_second = _lowest(self._seconds)
        self._last_second = _highest(self._seconds)
        self._first_in_day = 60 * _lowest(self._minutes) + self._first_second
        self._last_in_day = 60 * _highest(self._minutes) + self._last_second
        self._daily = self._minutes.bit_count() * self._seconds.bit_count()
        self._months = _bits(numbers(months, MONTHS))
        self._years = None if "*" in years else sorted(numbers(years, range(1970, 2100)))
        self._rule = day_rule(parsed, days, weekdays)
        self._masks: dict[tuple[bool, int], int] = {}
        self._windows: dict[int, Window] = {}
        self._recent = Window(0, 0, 0)
        self._latest: tuple[int, int | None] = 0, None
        self.begin = self._window(self._years[0] if self._years else FIRST_YEAR).first * DAY
        self.end = self._window(self._years[-1] if self._years else LAST_YEAR).end * DAY
        if not any(self._window(year).mask for year in self._years or GREGORIAN_CYCLE):
            raise CroniterBadCronError(_never(parsed))

    def at_or_after(self, wall: int) -> int | None:
        """Return the first named wall time that is not before *wall*."""
        # perf: instances due at one time often share an expression, and need the same next time.
        asked, found = self._latest
        if found is not None and asked <= wall <= found:
            return found
        found = self._search(wall)
        self._latest = wall, found
        return found

    def _search(self, wall: int) -> int | None:
        day, second = divmod(wall, DAY)
        first, end, mask = self._recent
        if not first <= day < end:
            first, end, mask = self._turn_to(day)
        days = mask >> (day - first)
        if days & 1:
            minute, second = divmod(second, 60)
            minutes = self._minutes >> minute
            seconds = self._seconds >> second
            if minutes & 1 and seconds:
                return wall + (seconds & -seconds).bit_length() - 1
            minutes >>= 1
            if minutes:
                return day * DAY + 60 * (minute + (minutes & -minutes).bit_length()) + self._first_second
            days -= 1
        if days:
            return (day + (days & -days).bit_length() - 1) * DAY + self._first_in_day
        for year in self._years_after(_year_of(first)):
            first, _, mask = self._window(year)
            if mask:
                return (first + _lowest(mask)) * DAY + self._first_in_day
        return None

    def at_or_before(self, wall: int) -> int | None:
        """Return the last named wall time that is not after *wall*."""
        day, second = divmod(wall, DAY)
        first, end, mask = self._recent
        if not first <= day < end:
            first, end, mask = self._turn_to(day)
        days = mask & ((2 << (day - first)) - 1)
        if days >> (day - first):
            minute, second = divmod(second, 60)
            seconds = self._seconds & ((2 << second) - 1)
            if self._minutes >> minute & 1 and seconds:
                return day * DAY + 60 * minute + _highest(seconds)
            minutes = self._minutes & ((1 << minute) - 1)
            if minutes:
                return day * DAY + 60 * _highest(minutes) + self._last_second
            days ^= 1 << (day - first)
        if days:
            return (first + _highest(days)) * DAY + self._last_in_day
        for year in self._years_before(_year_of(first)):
            first, _, mask = self._window(year)
            if mask:
                return (first + _highest(mask)) * DAY + self._last_in_day
        return None

    def nth_at_or_before(self, wall: int, n: int) -> int | None:
        """Return the *n*-th named wall time, going back from *wall*; 1 gives the same as `at_or_before`."""
        day, second = divmod(wall + 1, DAY)
        first, _, mask = self._turn_to(day)
        mask &= (2 << (day - first)) - 1
        rest_of_day = self._daily * (mask >> (day - first)) - self._count_in_day(day, second)
        days, n = divmod(n - 1 + rest_of_day, self._daily)
        years = iter(self._years_before(_year_of(first)))
        while mask.bit_count() <= days:
            days -= mask.bit_count()
            year = next(years, None)
            if year is None:
                return None
            first, _, mask = self._window(year)
        minute, second = divmod(n, self._seconds.bit_count())
        day = first + _highest(mask, days)
        return day * DAY + 60 * _highest(self._minutes, minute) + _highest(self._seconds, second)

    def any_in(self, begin: int, end: int) -> bool:
        """Say whether a wall time from *begin* to before *end* is named."""
        match = self.at_or_after(begin)
        return match is not None and match < end

    def count(self, begin: int, end: int) -> int:
        """Count the named wall times from *begin* to before *end*. Takes time per year, not per match."""
        begin_day, begin_second = divmod(begin, DAY)
        end_day, end_second = divmod(end, DAY)
        return (
            self._daily * self._count_days(begin_day, end_day)
            + self._count_in_day(end_day, end_second)
            - self._count_in_day(begin_day, begin_second)
        )

    def _count_days(self, begin: int, end: int) -> int:
        total = 0
        while begin < end:
            first, until, mask = self._turn_to(begin)
            mask >>= begin - first
            if end < until:
                mask &= (1 << (end - begin)) - 1
            total += mask.bit_count()
            begin = until
        return total

    def _count_in_day(self, day: int, second: int) -> int:
        """Count the named wall times on this day before this second of it."""
        first, _, mask = self._turn_to(day)
        if not mask >> (day - first) & 1:
            return 0
        minute, second = divmod(second, 60)
        before = self._seconds.bit_count() * (self._minutes & ((1 << minute) - 1)).bit_count()
        if self._minutes >> minute & 1:
            before += (self._seconds & ((1 << second) - 1)).bit_count()
        return before

    def _years_after(self, year: int) -> Iterable[int]:
        if self._years is None:
            return range(year + 1, LAST_YEAR + 1)
        return (named for named in self._years if named > year)

    def _years_before(self, year: int) -> Iterable[int]:
        if self._years is None:
            return range(year - 1, FIRST_YEAR - 1, -1)
        return (named for named in reversed(self._years) if named < year)

    def _turn_to(self, day: int) -> Window:
        window = self._recent
        if not window.first <= day < window.end:
            self._recent = window = self._window(_year_of(day))
        return window

    def _window(self, year: int) -> Window:
        window = self._windows.get(year)
        if window is None:
            if len(self._windows) >= WINDOWS_MAX:
                self._windows.clear()
            window = self._windows[year] = self._survey(year)
        return window

    def _survey(self, year: int) -> Window:
        first = date(year, 1, 1).toordinal() - EPOCH_ORDINAL
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        if self._years is not None and year not in self._years:
            return Window(first, first + 365 + leap, 0)
        # 1970-01-01 was a Thursday.
        kind = leap, (first + 4) % 7
        mask = self._masks.get(kind)
        if mask is None:
            mask = self._masks[kind] = self._year_mask(*kind)
        return Window(first, first + 365 + leap, mask)

    def _year_mask(self, leap: bool, first_weekday: int) -> int:
        mask = begin = 0
        for month in MONTHS:
            length = 28 + leap if month == 2 else 30 + (month in {1, 3, 5, 7, 8, 10, 12})
            if self._months >> month & 1:
                mask |= self._rule.mask(length, (first_weekday + begin) % 7) << begin
            begin += length
        return mask


GREGORIAN_CYCLE: Final = range(2000, 2400)
"""The calendar repeats after these years, weekdays included."""


@lru_cache(maxsize=PATTERNS_MAX)
def uses_hash(expression: str) -> bool:
    """Say whether the expression has an `H`, and so needs a seed."""
    return any(field[0] in "hH" for field in FIELD.findall(expression))


def pattern_of(expression: str, seed: str) -> Pattern:
    """Return the compiled form of an expression. Raises CroniterBadCronError if it is invalid or names no time."""
    return _compiled(resolved(expression, seed) if seed else expression)


@lru_cache(maxsize=SEEDS_MAX)
def resolved(expression: str, seed: str) -> str:
    """Return the expression with croniter's value for this seed in place of each H."""
    fields, hashed = _fields(expression)
    if not hashed:
        return expression
    resolved, identity = list(fields), seed.encode()
    for n in hashed:
        resolved[n] = EXPANDER.expand(expression, n, fields[n], hash_id=identity)
    return " ".join(resolved)


@lru_cache(maxsize=PATTERNS_MAX)
def _fields(expression: str) -> tuple[list[str], list[int]]:
    """Return the fields of the expression, and which of them are hashed."""
    refuse_length(expression)
    fields = FIELD.findall(expression.lower())
    return fields, [n for n, field in enumerate(fields[:7]) if field[0] == "h"]


@lru_cache(maxsize=PATTERNS_MAX)
def _compiled(expression: str) -> Pattern:
    refuse_length(expression)
    _refuse_field_count(expression)
    for field in FIELD.findall(expression.lower()):
        if field[0] == "h":
            raise CroniterBadCronError(
                f"[{expression}] uses H, which needs the key of an instance to be hashed"
            )
        if field[0] == "r":
            raise CroniterBadCronError(
                f"[{expression}] uses R, a random value that changes at every evaluation: use H, a stable hash"
            )
    try:
        return Pattern(croniter(expression, 0))
    except ValueError as error:
        message = str(error)
        if isinstance(error, CroniterBadCronError) and expression in message:
            raise
        if isinstance(error, CroniterBadCronError) and expression.lower() in message:
            raise CroniterBadCronError(message.replace(expression.lower(), expression)) from error
        raise CroniterBadCronError(f"[{expression}] is not acceptable: {error}") from error


def _refuse_field_count(expression: str) -> None:
    """Raise CroniterBadCronError for an unknown keyword or number of fields, in the terms of our documentation."""
    fields = FIELD.findall(expression)
    if len(fields) == 1 and fields[0].startswith("@"):
        if fields[0].lower() not in KEYWORDS:
            raise CroniterBadCronError(
                f"[{expression}] is not acceptable: the keywords are {', '.join(KEYWORDS)}"
            )
    elif (seconds := interval_seconds(expression)) is not None:
        raise CroniterBadCronError(
            f"[{expression}] is an interval, not a cron expression: write intervalSeconds: {seconds} instead of schedule, "
            f"or in Python interval=timedelta(seconds={seconds})"
        )
    elif not 5 <= len(fields) <= 7:
        raise CroniterBadCronError(
            f"[{expression}] is not acceptable: it has {len(fields)} field{'' if len(fields) == 1 else 's'}, but a cron "
            "expression has 5, 6 with seconds last, or 7 with the year after them"
        )


def refuse_length(expression: str) -> None:
    """Raise CroniterBadCronError for a text that is too long to be kept in a cache."""
    if len(expression) > LENGTH_MAX:
        raise CroniterBadCronError(
            f"[{expression[:40]}…] is not acceptable: it is longer than {LENGTH_MAX} characters"
        )


def values_of(parsed: croniter) -> list[Field]:
    """Return the values of all seven fields."""
    values = list(cast("list[Field]", parsed.expanded))
    return values + list(DEFAULTS[len(values) - 5 :])


def day_rule(parsed: croniter, days: Field, weekdays: Field) -> DayRule:
    """
    Return how croniter combines the two day fields: either may match if neither is `*`, but `#`, `L5` and `W` then count
    alone, unless the other field contradicts them.
    """
    nearest, nth = (
        tuple(parsed.nearest_weekday),
        cast("dict[int, set[int | str]]", parsed.nth_weekday_of_month),
    )
    both = "*" not in days and "*" not in weekdays
    rule = DayRule(days, nearest, weekdays, nth, either=both and not nearest and not nth)
    if not both or rule.either:
        return rule
    if not any(numbered & named for numbered, named in _all_sides(rule)):
        raise CroniterBadCronError(
            f"[{' '.join(parsed.expressions)}] never fires: its day of month and its day of week never meet"
        )
    if nth and not nearest:
        return rule._replace(days=["*"])
    if nearest and not nth:
        return rule._replace(weekdays=["*"])
    return rule


def _all_sides(rule: DayRule) -> Iterator[tuple[int, int]]:
    return (rule.sides(length, weekday) for length in (28, 29, 30, 31) for weekday in WEEKDAYS)


def _never(parsed: croniter) -> str:
    names = ("day of month", "month", "day of week", "year")
    fields = [*parsed.expressions[2:5], *parsed.expressions[6:]]
    asked = ", ".join(f"{name} {text}" for name, text in zip(names, fields, strict=False) if text not in "*?")
    return f"[{' '.join(parsed.expressions)}] never fires: no date has {asked}"


def _nearest_weekday(day: int, length: int, first_weekday: int) -> int:
    """Return the day from Monday to Friday that is nearest to *day* (or to the month's last) in the same month."""
    day = min(day, length)
    weekday = (first_weekday + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day


def numbers(field: Field, everything: range, last: int = 0) -> set[int]:
    """Return the numbers of a croniter list."""
    if "*" in field:
        return set(everything)
    return {last if item == "l" else int(item) for item in field} & set(everything)


def _bits(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _highest(mask: int, skip: int = 0) -> int:
    """Return the position of the highest bit, after leaving out as many as *skip*."""
    if not skip:
        return mask.bit_length() - 1
    return bisect_left(range(mask.bit_length()), True, key=lambda at: (mask >> at).bit_count() <= skip) - 1


def _year_of(day: int) -> int:
    return date.fromordinal(day + EPOCH_ORDINAL).year
