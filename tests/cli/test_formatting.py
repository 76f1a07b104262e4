"""Times and durations are formatted for people."""

import datetime

import pytest

from pyncette.cli import formatting
from pyncette.clock import MILLISECOND, SECOND
from pyncette.core.schedule import Cron, Interval, Once
from pyncette.core.times import instant_of

NOON = int(datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.UTC).timestamp()) * SECOND
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0 ms"),
        (3 * MILLISECOND, "3 ms"),
        (1234 * MILLISECOND, "1.2 s"),
        (9999 * MILLISECOND, "9.9 s"),
        (42 * SECOND, "42 s"),
        (90 * SECOND, "1 min 30 s"),
        (20 * MINUTE + 5 * SECOND, "20 min"),
        (2 * HOUR + 5 * MINUTE, "2 h 5 min"),
        (30 * HOUR, "1 d 6 h"),
        (400 * 24 * HOUR, "400 d"),
    ],
)
def test_a_duration_has_one_or_two_units(length, text):
    assert formatting.duration(length) == text


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (0, "now"),
        (-900 * MILLISECOND, "now"),
        (5 * SECOND, "in 5 s"),
        (-HOUR, "1 h ago"),
        (5_900_000, "in 5 s"),
    ],
)
def test_a_relative_time_is_a_distance(offset, text):
    assert formatting.relative(NOON + offset, NOON) == text


@pytest.mark.usefixtures("in_dublin")
def test_a_time_is_local_with_its_zone_and_with_the_date_unless_it_is_today():
    assert formatting.moment(NOON, NOON) == "13:00:00 IST"
    assert formatting.moment(NOON + 12 * HOUR, NOON) == "2024-07-02 01:00:00 IST"
    assert formatting.moment(NOON + 180 * 24 * HOUR, NOON) == "2024-12-28 12:00:00 GMT"


@pytest.mark.usefixtures("in_dublin")
def test_a_time_that_no_clock_here_can_show_is_in_utc():
    last = instant_of(datetime.datetime(9999, 12, 31, 23, 59, tzinfo=datetime.UTC))

    assert formatting.moment(last, NOON).startswith("9999-12-31 23:59:00 ")


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Cron("0 12 * * 1"), "0 12 * * 1"),
        (Cron("0 12 * * 1", "Europe/Dublin"), "0 12 * * 1 Europe/Dublin"),
        (Interval(5 * SECOND), "every 5 s"),
        (Once(NOON), "once 2024-07-01 13:00:00 IST"),
        (None, ""),
    ],
)
@pytest.mark.usefixtures("in_dublin")
def test_a_schedule_is_shown_with_its_zone(schedule, text):
    assert formatting.schedule(schedule) == text


def test_programs_get_rfc_3339():
    assert formatting.rfc3339(NOON) == "2024-07-01T12:00:00Z"
    assert formatting.rfc3339(None) is None
