"""A cron expression is described by what the engine reads in it, whatever way it is written."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyncette.core.cron import CroniterBadCronError
from pyncette.core.description import description_of
from pyncette.core.reading import Reading, reading_of
from tests.core.oracles import EFFORT, Expression, expressions


def described(expression, seed=""):
    return description_of(reading_of(expression, seed))


def meaning(reading: Reading) -> tuple:
    """What an expression names: the days by looking at short and long months on each first weekday."""
    days = tuple(reading.days.mask(length, weekday) for length in (28, 31) for weekday in range(7))
    return reading.seconds, reading.minutes, reading.hours, days, reading.months, reading.years


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 9 * * *", "At 09:00"),
        ("30 9 * * mon-fri", "At 09:30, Monday through Friday"),
        ("0 9 * * * 30", "At 09:00:30"),
        ("0 0 9 * * *", "Every second, at 0 minutes past the hour, between 00:00 and 00:59, on day 9 of the month"),
        ("* * * * *", "Every minute"),
        ("* * * * * *", "Every second"),
        ("*/15 * * * *", "Every 15 minutes"),
        ("*/7 * * * *", "At 0, 7, 14, 21, 28, 35, 42, 49, and 56 minutes past the hour"),
        ("*/90 * * * *", "Every hour"),
        ("59/15 * * * *", "At 59 minutes past the hour"),
        ("10-10 * * * *", "Every minute"),
        ("0 */6 * * *", "At 00:00, 06:00, 12:00 and 18:00"),
        ("0 */2 * * *", "Every 2 hours"),
        ("0 22-2 * * *", "At 00:00, 01:00, 02:00, 22:00 and 23:00"),
        ("0 0 13 * fri", "At 00:00, on day 13 of the month, or on Friday"),
        ("0 0 1-31 * mon", "At 00:00"),
        ("0 0 L * *", "At 00:00, on the last day of the month"),
        ("0 9 15W * *", "At 09:00, on the weekday nearest day 15 of the month"),
        ("0 9 * * mon#2", "At 09:00, on the second Monday of the month"),
        ("0 9 1-7 * mon#1", "At 09:00, on the first Monday of the month"),
        ("0 9 * * L5", "At 09:00, on the last Friday of the month"),
        (
            "0 9 * * mon#2,tue#3",
            "At 09:00, on the second Monday of the month, or at 09:00, on the third Tuesday of the month",
        ),
        (
            "0 9 1,15,L * *",
            "At 09:00, on day 1 and 15 of the month, or at 09:00, on the last day of the month",
        ),
        ("0 0 1 */3 *", "At 00:00, on day 1 of the month, only in January, April, July, and October"),
        ("0 0 1 1 * 0 2027,2030", "At 00:00, on day 1 of the month, only in January, only in 2027 and 2030"),
        ("@weekly", "At 00:00, only on Sunday"),
    ],
)  # fmt: skip
def test_an_expression_in_words(expression, words):
    assert described(expression) == words


def test_a_hashed_value_is_described_as_the_one_that_is_hashed():
    assert described("H H * * *", "reports/bob") == "At 12:24"


def test_the_locale_of_the_machine_changes_nothing(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")

    assert described("0 9 * * mon") == "At 09:00, only on Monday"


def read(expression: Expression) -> Reading:
    try:
        return reading_of(str(expression))
    except CroniterBadCronError:
        assume(condition=False)
        raise


@EFFORT
def test_different_times_never_have_the_same_description(effort):
    @effort
    @given(expressions(st.booleans()), expressions(st.booleans()), st.integers(0, 4))
    def holds(one: Expression, other: Expression, position: int) -> None:
        # Another in one field alone, so that they are often alike.
        fields = list(one.fields)
        fields[position] = other.fields[position]
        readings = read(one), read(Expression(tuple(fields)))

        descriptions = [description_of(reading) for reading in readings]

        assert all(descriptions)
        assert (descriptions[0] == descriptions[1]) == (meaning(readings[0]) == meaning(readings[1]))

    holds()
