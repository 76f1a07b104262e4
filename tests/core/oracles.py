"""Slow but obvious answers to what a cron expression names, and expressions to ask them about."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from struct import unpack, unpack_from
from zoneinfo import TZPATH

import pytest
import tzdata
from hypothesis import settings
from hypothesis import strategies as st

EFFORT = pytest.mark.parametrize(
    "effort",
    [
        pytest.param(settings(derandomize=True, deadline=None, max_examples=60), id="quick"),
        pytest.param(settings(deadline=None, max_examples=3000), id="thorough", marks=pytest.mark.long),
    ],
)
"""A property is looked at in the same few examples each time, and by `make test-long` in many new ones."""

CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00Z"),
    ("America/New_York", "2027-03-14T07:00Z"),
    ("America/New_York", "2027-11-07T06:00Z"),
    ("Europe/Dublin", "2026-10-25T01:00Z"),  # its winter time is the one that is called DST
    ("Australia/Lord_Howe", "2026-10-03T15:30Z"),  # half an hour
    ("Australia/Lord_Howe", "2027-04-03T15:00Z"),
    ("Antarctica/Troll", "2027-03-28T01:00Z"),  # two hours
    ("Antarctica/Troll", "2026-10-25T01:00Z"),
    ("America/Santiago", "2026-09-06T04:00Z"),  # skips midnight
    ("America/Havana", "2026-11-01T05:00Z"),  # repeats midnight
    ("Africa/Casablanca", "2026-02-15T02:00Z"),  # back for Ramadan, and forth
    ("Africa/Casablanca", "2026-03-22T02:00Z"),
    ("Africa/El_Aaiun", "2087-05-11T02:00Z"),  # the last that is listed
    ("Pacific/Apia", "2011-12-30T10:00Z"),  # a day is missing
    ("Pacific/Kwajalein", "1993-08-21T12:00Z"),
    ("America/Caracas", "2016-05-01T07:00Z"),  # a change of the zone itself, by half an hour
    ("Asia/Pyongyang", "2015-08-14T15:00Z"),
    ("Europe/Istanbul", "2015-11-08T01:00Z"),
    ("UTC", "2026-01-01T00:00Z"),
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, repr=False)
class Field:
    """A field of an expression, as text and as what it stands for."""

    text: str
    numbers: frozenset[int]
    days: Callable[[date], bool] = lambda day: False
    """What it stands for beside numbers."""


@dataclass(frozen=True, repr=False)
class Expression:
    fields: tuple[Field, ...]

    def __repr__(self):
        return f"Expression({str(self)!r})"

    def __str__(self):
        return " ".join(field.text for field in self.fields)

    @property
    def elapsed(self):
        return self.fields[0].text.startswith("*") or self.fields[1].text.startswith("*")

    def names(self, wall: datetime) -> bool:
        minute, hour, _, month, *_ = self.fields
        second = self.fields[5].numbers if len(self.fields) > 5 else {0}
        return (
            wall.minute in minute.numbers
            and wall.hour in hour.numbers
            and wall.month in month.numbers
            and wall.second in second
            and self._names_day(wall.date())
        )

    def _names_day(self, day: date) -> bool:
        of_month, of_week = self.fields[2], self.fields[4]
        by_month = day.day in of_month.numbers or of_month.days(day)
        by_week = day.isoweekday() % 7 in of_week.numbers or of_week.days(day)
        # A day field that holds all its numbers counts as * when the other field has a *.
        all_month = of_month.text == "*" or (len(of_month.numbers) == 31 and "*" in of_week.text)
        all_week = of_week.text == "*" or (len(of_week.numbers) == 7 and "*" in of_month.text)
        return (by_month and by_week) if all_month or all_week else (by_month or by_week)


def occurrences(expression: Expression, zone: tzinfo, begin: int, end: int) -> list[int]:
    """All occurrences from *begin* to before *end* in seconds, found by looking at the clock at every step."""
    step = 1 if len(expression.fields) > 5 else 60
    return list(_looking(expression, zone, begin, end, timedelta(seconds=step)))


def _looking(expression: Expression, zone: tzinfo, begin: int, end: int, step: timedelta) -> Iterator[int]:
    # The clocks of these zones change at whole minutes; so what they showed last is seen a second before one.
    shown_before = max(_clock(zone, second) for second in range(begin - 1 - 2 * 86_400, begin, 60))
    shown_before -= timedelta(seconds=shown_before.second % step.seconds)
    for second in range(begin, end, step.seconds):
        now = _clock(zone, second)
        if expression.elapsed:
            due = expression.names(now)
        else:
            due = False
            while shown_before < now:
                shown_before += step
                due = due or expression.names(shown_before)
        if due:
            yield second


def _clock(zone: tzinfo, second: int) -> datetime:
    return datetime.fromtimestamp(second, zone).replace(tzinfo=None)


def seconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1)


def listed(chosen: list[int], text: Callable[[int], str] = str) -> Field:
    return Field(",".join(map(text, chosen)), frozenset(chosen))


def plain_fields(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[Field]:
    """Fields of numbers: `*`, lists, ranges, steps."""
    everything = range(low, high + 1)
    numbers = st.integers(low, high)
    steps = st.integers(1, 2 + (high - low) // 2)

    def text(number):
        return names[number - low] if names and number % 2 else str(number)

    def ranged(pair, step):
        begin, end = min(pair), max(pair)
        if begin == end:
            return Field(f"{text(begin)}", frozenset({begin}))
        return Field(f"{text(begin)}-{text(end)}/{step}", frozenset(range(begin, end + 1, step)))

    return st.one_of(
        st.just(Field("*", frozenset(everything))),
        st.lists(numbers, min_size=1, max_size=4, unique=True).map(lambda chosen: listed(chosen, text)),
        st.builds(ranged, st.tuples(numbers, numbers), steps),
        steps.map(lambda step: Field(f"*/{step}", frozenset(everything[::step]))),
        st.builds(
            lambda begin, step: Field(f"{begin}/{step}", frozenset(range(begin, high + 1, step))),
            numbers,
            steps,
        ),
    )


MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAY_NAMES = ("sun", "MON", "tue", "wed", "Thu", "fri", "sat")
ANY_DAY = Field("*", frozenset(range(1, 32)))
ANY_WEEKDAY = Field("*", frozenset(range(7)))


def _is_last(day: date) -> bool:
    return (day + timedelta(days=1)).day == 1


LAST_DAY = Field("L", frozenset(), _is_last)


def _nth(weekday: int, n: int) -> Field:
    return Field(
        f"{DAY_NAMES[weekday]}#{n}",
        frozenset(),
        lambda day: day.isoweekday() % 7 == weekday and (day.day + 6) // 7 == n,
    )


def _last_weekday(weekday: int) -> Field:
    return Field(
        f"L{weekday}",
        frozenset(),
        lambda day: day.isoweekday() % 7 == weekday and (day + timedelta(days=7)).month != day.month,
    )


def _nearest(number: int) -> Field:
    def moved(day: date) -> bool:
        month = [date(day.year, day.month, 1) + timedelta(days=n) for n in range(31)]
        month = [candidate for candidate in month if candidate.month == day.month]
        wanted = month[min(number, len(month)) - 1]
        workdays = [candidate for candidate in month if candidate.isoweekday() <= 5]
        # A Saturday goes back to Friday, a Sunday on to Monday: the nearer one, within the month.
        return day == min(workdays, key=lambda candidate: abs(candidate - wanted))

    return Field(f"{number}W", frozenset(), moved)


def _day_pairs() -> st.SearchStrategy[tuple[Field, Field]]:
    weekdays = plain_fields(0, 6, DAY_NAMES)
    # What rules alone beside a plain field stands beside * here; examples tell the rest.
    alone = st.one_of(
        st.integers(1, 31).map(_nearest).map(lambda field: (field, ANY_WEEKDAY)),
        st.builds(_nth, st.integers(0, 6), st.integers(1, 5)).map(lambda field: (ANY_DAY, field)),
        st.integers(0, 6).map(_last_weekday).map(lambda field: (ANY_DAY, field)),
    )
    every = st.just((ANY_DAY, ANY_WEEKDAY))
    return st.one_of(
        every, every, every, st.tuples(st.one_of(plain_fields(1, 31), st.just(LAST_DAY)), weekdays), alone
    )


def expressions(with_seconds: st.SearchStrategy[bool]) -> st.SearchStrategy[Expression]:
    # Clocks change at night, so half of the hours are drawn from it.
    minute, second = plain_fields(0, 59), plain_fields(0, 59)
    hour = st.one_of(plain_fields(0, 23), st.lists(st.integers(0, 3), min_size=1, unique=True).map(listed))
    months = st.one_of(st.just(Field("*", frozenset(range(1, 13)))), plain_fields(1, 12, MONTH_NAMES))

    def build(minute, hour, days, month, second, seconds_too):
        fields = (minute, hour, days[0], month, days[1])
        return Expression((*fields, second) if seconds_too else fields)

    return st.builds(build, minute, hour, _day_pairs(), months, second, with_seconds)


def listed_changes(name: str) -> list[tuple[int, int]]:
    """The changes of offset that the zone's file lists, as (second, offset after it)."""
    content = _zone_file(name).read_bytes()
    begin = 0
    for width in (4, 8):
        counts = unpack_from(">6I", content, begin + 20)
        is_utc, is_std, leaps, times, types, dead_letters = counts
        at = begin + 44
        begin = at + times * (width + 1) + types * 6 + dead_letters + leaps * (width + 4) + is_std + is_utc
    instants = unpack(f">{times}q", content[at : at + 8 * times])
    kinds = content[at + 8 * times : at + 9 * times]
    offsets = [unpack_from(">i", content, at + 9 * times + 6 * kind)[0] for kind in range(types)]
    changes = [(instants[n], offsets[kind]) for n, kind in enumerate(kinds)]
    return [
        change for n, change in enumerate(changes) if change[1] != (changes[n - 1][1] if n else offsets[0])
    ]


def _zone_file(name: str) -> Path:
    folders = [*TZPATH, Path(tzdata.__file__).parent / "zoneinfo"]
    return next(path for folder in folders if (path := Path(folder, name)).is_file())
