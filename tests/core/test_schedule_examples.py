"""What schedules mean, by example: fields, leap days, changes of clocks, refusals, bounds."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from croniter import CroniterBadCronError, croniter

from pyncette.clock import SECOND
from pyncette.core import cron
from pyncette.core.schedule import (
    EARLIEST,
    LATEST,
    Cron,
    Interval,
    Once,
    Schedule,
    check,
    check_ahead,
    count,
    first_after,
    latest,
    nth_latest,
    resolve_zone,
    seeded,
    upcoming,
)

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def instant(text: str, zone: str = "UTC") -> int:
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=resolve_zone(zone))
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def shown(at: int, zone: str = "UTC") -> str:
    return datetime.fromtimestamp(at / SECOND, resolve_zone(zone)).isoformat(" ", "seconds")


def between(schedule: Cron, after: str, until: str) -> list[str]:
    """The occurrences after one wall time, up to and with another, as the clocks of the zone show them."""
    begin, end = instant(after, schedule.zone), instant(until, schedule.zone)
    number, _ = count(schedule, begin, end, begin)
    due = upcoming(schedule, begin, number, begin)
    # Forwards and backwards they are the same.
    assert [nth_latest(schedule, end, number - n, begin) for n in range(number)] == due
    assert [latest(schedule, at - 1, begin) for at in [*due, end + 1]] == [None, *due]
    return [shown(at, schedule.zone) for at in due]


def next_days(expression: str, after: str, n: int) -> list[str]:
    return [shown(at)[:10] for at in upcoming(Cron(expression), instant(after), n, 0)]


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        pytest.param("30 2 * * *", ["03:00+02:00"], id="a skipped time runs at the first instant after"),
        pytest.param("0,15,30 2 * * *", ["03:00+02:00"], id="several run there together"),
        pytest.param("0 2,3 * * *", ["03:00+02:00"], id="and with what is due there anyway"),
        pytest.param("59 1 * * *", ["01:59+01:00"], id="before the gap"),
        pytest.param("30 3 * * *", ["03:30+02:00"], id="after the gap"),
        pytest.param(
            "30 1-3 * * *", ["01:30+01:00", "03:00+02:00", "03:30+02:00"], id="a range of hours is wall time"
        ),
        pytest.param("0-59/30 2 * * *", ["03:00+02:00"], id="so is a range of minutes"),
        pytest.param("30 2 * * * 15,45", ["03:00+02:00"], id="seconds too run together"),
        pytest.param("*/30 2 * * *", [], id="a star in the minute field is elapsed time"),
        pytest.param("30 */2 * * *", ["00:30+01:00", "04:30+02:00"], id="a star in the hour field, too"),
        pytest.param(
            "30 * * * *", ["00:30+01:00", "01:30+01:00", "03:30+02:00", "04:30+02:00"], id="each hour"
        ),
    ],
)
def test_in_spring_wall_times_that_are_skipped_run_once_and_elapsed_time_goes_on(expression, due):
    found = between(Cron(expression, "Europe/Berlin"), "2026-03-29 00:00", "2026-03-29 04:59")

    assert [at[11:16] + at[19:] for at in found] == due


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        pytest.param("30 2 * * *", ["02:30+02:00"], id="a repeated time runs on the first pass"),
        pytest.param(
            "0 1-3 * * *", ["01:00+02:00", "02:00+02:00", "03:00+01:00"], id="a range of hours, too"
        ),
        pytest.param("30 2 * * * 15", ["02:30+02:00"], id="seconds change nothing"),
        pytest.param(
            "*/30 2 * * *",
            ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00"],
            id="star: both passes",
        ),
        pytest.param(
            "30 */2 * * *", ["00:30+02:00", "02:30+02:00", "02:30+01:00", "04:30+01:00"], id="star of hours"
        ),
    ],
)
def test_in_autumn_wall_times_that_repeat_run_once_and_elapsed_time_runs_twice(expression, due):
    found = between(Cron(expression, "Europe/Berlin"), "2026-10-25 00:00", "2026-10-25 04:59")

    assert [at[11:16] + at[19:] for at in found] == due


@pytest.mark.parametrize(
    ("zone", "expression", "after", "until", "due"),
    [
        pytest.param(
            "Australia/Lord_Howe",
            "0,15,45 2 * * *",
            "2026-10-04 00:00",
            "2026-10-04 12:00",
            ["2026-10-04 02:30:00+11:00", "2026-10-04 02:45:00+11:00"],
            id="half an hour is skipped",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2027-04-04 00:00",
            "2027-04-05 00:00",
            ["2027-04-04 01:45:00+11:00"],
            id="half an hour is repeated",
        ),
        pytest.param(
            "America/Santiago",
            "0 0 * * *",
            "2026-09-05 12:00",
            "2026-09-07 12:00",
            ["2026-09-06 01:00:00-03:00", "2026-09-07 00:00:00-03:00"],
            id="midnight is skipped",
        ),
        pytest.param(
            "America/Havana",
            "30 0 * * *",
            "2026-10-31 12:00",
            "2026-11-02 12:00",
            ["2026-11-01 00:30:00-04:00", "2026-11-02 00:30:00-05:00"],
            id="midnight is repeated",
        ),
        pytest.param(
            "Antarctica/Troll",
            "30 1,2 * * *",
            "2027-03-27 12:00",
            "2027-03-28 12:00",
            ["2027-03-28 03:00:00+02:00"],
            id="two hours are skipped",
        ),
        pytest.param(
            "Pacific/Apia",
            "0 9 * * *",
            "2011-12-29 00:00",
            "2012-01-01 00:00",
            ["2011-12-29 09:00:00-10:00", "2011-12-31 00:00:00+14:00", "2011-12-31 09:00:00+14:00"],
            id="a day is skipped",
        ),
        pytest.param(
            "Pacific/Apia",
            "0 */12 * * *",
            "2011-12-29 00:00",
            "2012-01-01 00:00",
            [
                "2011-12-29 12:00:00-10:00",
                "2011-12-31 00:00:00+14:00",
                "2011-12-31 12:00:00+14:00",
                "2012-01-01 00:00:00+14:00",
            ],
            id="a day is skipped, elapsed time",
        ),
        pytest.param(
            "Pacific/Kwajalein",
            "0 9 * * *",
            "1969-09-29 12:00",
            "1969-10-01 12:00",
            ["1969-09-30 09:00:00+11:00", "1969-10-01 09:00:00-12:00"],
            id="nearly a day is repeated",
        ),
        pytest.param(
            "Europe/Dublin",
            "30 1 * * *",
            "2026-10-24 12:00",
            "2026-10-26 12:00",
            ["2026-10-25 01:30:00+01:00", "2026-10-26 01:30:00+00:00"],
            id="winter time is the odd one",
        ),
        pytest.param(
            "Africa/Casablanca",
            "30 2 * * *",
            "2026-02-14 12:00",
            "2026-02-16 12:00",
            ["2026-02-15 02:30:00+01:00", "2026-02-16 02:30:00+00:00"],
            id="back for Ramadan",
        ),
        pytest.param(
            "Africa/Casablanca",
            "30 2 * * *",
            "2026-03-21 12:00",
            "2026-03-23 12:00",
            ["2026-03-22 03:00:00+01:00", "2026-03-23 02:30:00+01:00"],
            id="forward after Ramadan",
        ),
        pytest.param(
            "Africa/Monrovia",
            "45 0 * * *",
            "1972-01-06 12:00",
            "1972-01-08 12:00",
            ["1972-01-07 00:45:00+00:00", "1972-01-08 00:45:00+00:00"],
            id="right after a gap that ends within a minute",
        ),
    ],
)
def test_changes_of_clocks_of_all_sizes_follow_the_same_rule(zone, expression, after, until, due):
    assert between(Cron(expression, zone), after, until) == due


def test_the_first_instant_after_a_gap_need_not_be_a_whole_minute():
    schedule = Cron("30 0 * * *", "Africa/Monrovia")

    found = between(schedule, "1972-01-06 12:00", "1972-01-07 12:00")

    assert found == ["1972-01-07 00:44:30+00:00"]


@pytest.mark.parametrize(
    ("zone", "expression", "due"),
    [
        ("Europe/Berlin", "0 9 1 1 *", "2027-01-01 09:00:00+01:00"),
        ("America/New_York", "0 9 1 1 *", "2027-01-01 09:00:00-05:00"),
        ("Pacific/Kiritimati", "30 0 29 2 *", "2028-02-29 00:30:00+14:00"),
        ("Pacific/Niue", "30 23 29 2 *", "2028-02-29 23:30:00-11:00"),
    ],
)
def test_rare_times_are_found_across_years_and_changes_of_clocks(zone, expression, due):
    schedule, at = Cron(expression, zone), instant(due)

    assert first_after(schedule, instant("2026-07-02 12:00"), 0) == at
    assert first_after(schedule, at - 1, 0) == at
    assert latest(schedule, at + 300 * DAY, 0) == at
    assert latest(schedule, at, 0) == at


def test_the_pass_before_is_searched_for_times_later_on_the_clock():
    schedule = Cron("50 * 1 11 *", "America/Havana")  # at 1:00 the clocks go back to 0:00
    second_pass = instant("2026-11-01 00:10-05:00")

    assert latest(schedule, second_pass, 0) == instant("2026-11-01 00:50-04:00")


def test_a_year_is_found_from_any_distance():
    schedule = Cron("0 0 1 1 * 0 2030")

    assert first_after(schedule, EARLIEST, EARLIEST) == instant("2030-01-01 00:00")
    assert latest(schedule, LATEST, EARLIEST) == instant("2030-01-01 00:00")
    assert count(schedule, EARLIEST, LATEST, EARLIEST) == (1, True)
    assert nth_latest(schedule, LATEST, 2, EARLIEST) is None


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 0 L 2 *", ["2027-02-28", "2028-02-29", "2029-02-28"]),
        ("0 0 30,L 2 *", ["2027-02-28", "2028-02-29", "2029-02-28"]),
        ("0 0 31 * *", ["2026-07-31", "2026-08-31", "2026-10-31"]),
        ("0 0 * 2 mon#5", ["2044-02-29", "2072-02-29", "2112-02-29"]),
        ("0 0 29 2 * 0 2090-2099", ["2092-02-29", "2096-02-29"]),
        ("0 0 13 * fri", ["2026-07-03", "2026-07-10", "2026-07-13"]),
        ("0 0 13 * *", ["2026-07-13", "2026-08-13", "2026-09-13"]),
        ("0 0 * * sun-tue", ["2026-07-05", "2026-07-06", "2026-07-07"]),
        ("0 0 * * fri-mon", ["2026-07-03", "2026-07-04", "2026-07-05"]),
        ("0 0 * * 7", ["2026-07-05", "2026-07-12", "2026-07-19"]),
        ("0 0 * * L5", ["2026-07-31", "2026-08-28", "2026-09-25"]),
        ("0 0 * * 5#1,5#3", ["2026-07-03", "2026-07-17", "2026-08-07"]),
        ("0 0 1W * *", ["2026-08-03", "2026-09-01", "2026-10-01"]),
        ("0 0 31W * *", ["2026-07-31", "2026-08-31", "2026-09-30"]),
        ("0 0 ? * *", ["2026-07-03", "2026-07-04", "2026-07-05"]),
        ("@weekly", ["2026-07-05", "2026-07-12", "2026-07-19"]),
        ("@yearly", ["2027-01-01", "2028-01-01", "2029-01-01"]),
        ("0 0 1 nov-feb *", ["2026-11-01", "2026-12-01", "2027-01-01"]),
    ],
)
def test_days_are_those_of_the_calendar(expression, days):
    assert next_days(expression, "2026-07-02 12:00", 3) == days


@pytest.mark.parametrize(
    ("expression", "means"),
    [
        pytest.param("59/15 * * * *", "59 * * * *", id="a start at the end of the field is that value alone"),
        pytest.param("50/20 * * * *", "50 * * * *", id="a start whose step leads out of the field"),
        pytest.param("10-10 * * * *", "* * * * *", id="an equal range is the whole field"),
        pytest.param(
            "0 0 */2 * mon", "0 0 1-31/2 * mon", id="a stepped star is no star to the rule for days"
        ),
        pytest.param("0 0 1-7 * mon#1", "0 0 * * mon#1", id="a numbered weekday rules alone"),
        pytest.param("0 0 15W * mon-fri", "0 0 15W * *", id="a nearest weekday rules alone"),
        pytest.param("0 22 * * sat-7", "0 22 * * 6,0", id="seven is Sunday"),
        pytest.param("@hourly", "0 * * * *", id="hourly"),
        pytest.param("@midnight", "0 0 * * *", id="midnight"),
        pytest.param("30 4 * * *", "30 4 * * * 0", id="without seconds it is second 0"),
        pytest.param("30 4 * * * 0", "30 4 * * * 0 *", id="without a year it is any"),
        pytest.param("0 4 1 JAN Mon", "0 4 1 1 1", id="names"),
    ],
)
def test_the_meaning_of_an_expression_does_not_move_with_croniters_versions(expression, means):
    after = instant("2026-07-02 12:00")

    assert upcoming(Cron(expression), after, 50, 0) == upcoming(Cron(means), after, 50, 0)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        (Cron("30 2 30 2 *"), "[30 2 30 2 *] never fires: no date has day of month 30, month 2"),
        (Cron("0 0 31 4,6,9,11 *"), "no date has day of month 31, month 4,6,9,11"),
        (Cron("0 0 29 2 * 0 2023"), "no date has day of month 29, month 2, year 2023"),
        (Cron("0 0 * 2 mon#5 0 2027"), "no date has month 2, day of week mon#5, year 2027"),
        (Cron("0 0 15 * mon#1"), "its day of month and its day of week never meet"),
        (Cron("0 0 15W * sat"), "its day of month and its day of week never meet"),
        (
            Cron("* 2 29 3 * 0 2026", "Europe/Berlin"),
            "in Europe/Berlin: the clocks there skip every time that it names",
        ),
        (Cron("R 4 * * *"), "uses R, a random value that changes at every evaluation: use H, a stable hash"),
        (Cron("0 r(2-4) * * *"), "uses R"),
        (Cron("H 4 * * *"), "uses H, which needs the key of an instance"),
        (Cron("H(0-99) 4 * * *", seed="key"), "out of range"),
        (Cron("60 * * * *"), "[60 * * * *] is not acceptable, out of range"),
        (Cron("* * * * jan"), "[* * * * jan] is not acceptable"),
        (Cron("* * * *"), "[* * * *] is not acceptable: it has 4 fields, but a cron expression has 5"),
        (Cron(""), "it has 0 fields"),
        (Cron("gibberish"), "[gibberish] is not acceptable: it has 1 field, but"),
        (Cron("@reboot"), "[@reboot] is not acceptable: the keywords are @hourly, @daily"),
        (Cron("0 0 * * FOO"), "[0 0 * * FOO] is not acceptable"),
        (Cron("0 0 0 * *"), "[0 0 0 * *] is not acceptable, out of range"),
        (Cron("*/0 * * * *"), "step '0'"),
        (Cron("* * * * * * 2100"), "out of range"),
        (Cron("0 0 L5 * *"), "is not acceptable"),
        (Cron("0," * 5000 + "0 * * * *"), "it is longer than 4096 characters"),
    ],
    ids=str,
)
def test_an_expression_that_is_wrong_or_never_fires_is_refused_with_the_reason(schedule, reason):
    with pytest.raises(CroniterBadCronError) as refused:
        check(schedule)

    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        (Interval(0), "must be longer than zero, not 0 seconds"),
        (Interval(-1_500_000), "must be longer than zero, not -1.5 seconds"),
        (Interval(2**62), "ends after the year 9999"),
        (Once(LATEST + 1), "within the years 1 to 9999"),
        (Once(EARLIEST - 1), "within the years 1 to 9999"),
        (Cron("0 0 * * *", "Mars/Olympus"), "Invalid timezone specifier 'Mars/Olympus'."),
    ],
    ids=str,
)
def test_other_schedules_that_make_no_sense_are_refused_with_the_reason(schedule, reason):
    with pytest.raises(ValueError) as refused:
        check(schedule)

    assert reason in str(refused.value)
    assert not isinstance(refused.value, CroniterBadCronError)


def test_a_year_that_is_over_is_refused_only_by_who_says_what_the_time_is():
    schedule = Cron("0 0 1 1 * 0 2020-2026")

    check(schedule)
    check_ahead(schedule, instant("2025-12-31 23:59"))
    with pytest.raises(CroniterBadCronError, match="never fires after the time from which it counts"):
        check_ahead(schedule, instant("2026-01-01 00:00"))


def test_a_one_off_in_the_past_is_not_refused_by_what_the_time_is():
    check_ahead(Once(instant("2020-01-01 00:00")), instant("2026-01-01 00:00"))


@pytest.mark.parametrize(
    "schedule",
    [Cron("30 2 30 2 *"), Cron("nonsense"), Cron("0 0 * * *", "Mars/Olympus"), Interval(0), Interval(-1)],
    ids=str,
)
def test_a_stored_schedule_that_is_bad_raises_and_does_not_hang(schedule):
    with pytest.raises(ValueError):
        first_after(schedule, 0, 0)
    with pytest.raises(ValueError):
        latest(schedule, 9, 0)
    with pytest.raises(ValueError):
        count(schedule, 0, 9, 0)


def test_an_expression_whose_times_are_always_skipped_from_now_on_has_no_next():
    schedule = Cron("* 2 * 3 L0", "Europe/Berlin")  # the night of the change, each year

    assert first_after(schedule, instant("2026-01-01 00:00"), 0) is None
    assert latest(schedule, instant("2026-01-01 00:00"), 0) == instant("1980-03-30 02:59", "Europe/Berlin")


def test_a_hash_is_the_same_each_time_and_spreads_instances():
    schedules = [seeded(Cron("H H * * *"), f"tenant/report/{n}") for n in range(1000)]
    after = instant("2026-07-02 12:00")

    due = [first_after(schedule, after, 0) for schedule in schedules]

    assert shown(due[0]) == "2026-07-02 17:59:00+00:00"
    assert due == [first_after(schedule, after, 0) for schedule in schedules]
    assert len(set(due)) > 200


@pytest.mark.parametrize(
    "expression",
    ["H H * * *", "H/15 * * * *", "H(0-29)/10 H(2-4) H * H", "5 4 H H(1-6) * H", "h * * * * H *"],
)
def test_a_hash_is_croniters(expression):
    theirs = croniter(expression, datetime(2026, 7, 2, 12, tzinfo=UTC), ret_type=datetime, hash_id="a key")

    ours = upcoming(Cron(expression, seed="a key"), instant("2026-07-02 12:00"), 20, 0)

    assert [shown(at) for at in ours] == [str(theirs.get_next()) for _ in range(20)]


def test_only_an_expression_that_uses_a_hash_gets_a_seed():
    hashed, plain, every = Cron("H 4 * * *", "Europe/Berlin"), Cron("0 4 * * thu"), Interval(SECOND)

    assert seeded(hashed, "key") == Cron("H 4 * * *", "Europe/Berlin", "key")
    assert seeded(plain, "key") is plain
    assert seeded(every, "key") is every
    assert upcoming(Cron("@hourly", seed="key"), 0, 9, 0) == upcoming(Cron("@hourly"), 0, 9, 0)


def test_an_interval_counts_from_since_and_since_itself_is_not_due():
    every = Interval(10 * SECOND)
    since = 7 * SECOND

    assert upcoming(every, 0, 3, since) == [17 * SECOND, 27 * SECOND, 37 * SECOND]
    assert first_after(every, 17 * SECOND, since) == 27 * SECOND
    assert first_after(every, 17 * SECOND - 1, since) == 17 * SECOND
    assert latest(every, 17 * SECOND - 1, since) is None
    assert latest(every, 38 * SECOND, since) == 37 * SECOND
    assert nth_latest(every, 38 * SECOND, 3, since) == 17 * SECOND
    assert nth_latest(every, 38 * SECOND, 4, since) is None
    assert count(every, 17 * SECOND, 37 * SECOND, since) == (2, True)
    assert count(every, 0, 6 * SECOND, since) == (0, True)


def test_a_one_off_is_due_at_its_instant_whenever_it_was_scheduled():
    once = Once(5 * SECOND)

    assert first_after(once, 5 * SECOND - 1, 9 * SECOND) == 5 * SECOND
    assert first_after(once, 5 * SECOND, 0) is None
    assert latest(once, 5 * SECOND, 9 * SECOND) == 5 * SECOND
    assert latest(once, 5 * SECOND - 1, 0) is None
    assert nth_latest(once, 9 * SECOND, 2, 0) is None
    assert count(once, 0, 5 * SECOND, 0) == (1, True)
    assert count(once, 5 * SECOND, 9 * SECOND, 0) == (0, True)
    assert upcoming(once, 0, 3, 0) == [5 * SECOND]


def test_cron_is_due_at_neither_after_nor_since_but_at_any_microsecond_later():
    daily, midnight = Cron("0 0 * * *"), instant("2026-07-02 00:00")

    assert first_after(daily, midnight - 1, 0) == midnight
    assert first_after(daily, midnight, 0) == midnight + DAY
    assert first_after(daily, 0, midnight) == midnight + DAY
    assert latest(daily, midnight, midnight - 1) == midnight
    assert latest(daily, midnight, midnight) is None
    assert latest(daily, midnight - 1, 0) == midnight - DAY
    assert count(daily, midnight - 1, midnight, 0) == (1, True)
    assert count(daily, midnight, midnight, 0) == (0, True)
    assert count(daily, midnight, midnight - DAY, 0) == (0, True)


def test_beyond_its_limit_a_count_is_a_lower_bound():
    every, begin = Cron("* * * * *"), instant("2026-07-02 00:00")

    assert count(every, begin, begin + 10_000 * MINUTE, begin) == (10_000, True)
    number, exact = count(every, begin, begin + 10_001 * MINUTE, begin)
    assert (number >= 10_000, exact) == (True, False)


def calls_of(function: Callable[[], object]) -> int:
    """How many calls of Python functions it takes."""
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("expression", ["* * * * * *", "*/7 2-4 * * * *", "30 2 * * *", "0 0 29 2 *"])
def test_a_year_behind_is_caught_up_without_computing_each_occurrence(expression):
    schedule, now = Cron(expression, "America/New_York"), instant("2026-07-02 12:00:30")
    since = now - 365 * DAY
    first_after(schedule, since, since)

    def catch_up() -> None:
        latest(schedule, now, since)
        count(schedule, since, now, since)
        count(schedule, since, now, since, limit=10**9)
        nth_latest(schedule, now, 100, since)
        nth_latest(schedule, now, 1_000_000, since)
        first_after(schedule, now, since)

    catch_up()
    assert calls_of(catch_up) < 300


def test_a_next_time_takes_a_handful_of_calls():
    schedule, now = Cron("30 9 * * mon-fri", "America/New_York"), instant("2026-07-02 12:00:30")
    first_after(schedule, now, 0)

    assert calls_of(lambda: first_after(schedule, now, 0)) <= 7


def test_what_is_remembered_is_bounded():
    for n in range(100):
        first_after(Cron("H H H * *", seed=str(n)), 0, 0)

    assert cron._compiled.cache_info().maxsize == cron.PATTERNS_MAX
    assert cron.resolved.cache_info().maxsize == cron.SEEDS_MAX


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles", "Pacific/Apia"])
@pytest.mark.parametrize("expression", ["* * * * * *", "0 0 * * *", "0 0 L 12 *", "*/5 * * * *"])
def test_at_the_ends_of_time_there_is_nothing_more_but_no_error(zone, expression):
    schedule = Cron(expression, zone)
    first, last = first_after(schedule, -(2**70), -(2**70)), latest(schedule, 2**70, 0)

    assert EARLIEST <= first < EARLIEST + 366 * DAY
    assert LATEST - 366 * DAY < last <= LATEST
    assert first_after(schedule, last, 0) is None
    assert latest(schedule, first - 1, -(2**70)) is None
    assert upcoming(schedule, last - 1, 9, 0) == [last]
    assert first_after(schedule, 2**70, 0) is None
    assert count(schedule, last - 1, 2**70, 0) == (1, True)
    for at in (first, last):
        datetime.fromtimestamp(at // SECOND, resolve_zone(zone))


def test_an_interval_ends_with_the_calendar():
    assert first_after(Interval(DAY), LATEST, 0) is None
    assert latest(Interval(DAY), 2**70, 0) <= LATEST


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Cron("0 4 * * *"), '{"type":"cron","expression":"0 4 * * *"}'),
        (
            Cron("H 4 * * *", "Asia/Tokyo", "k"),
            '{"type":"cron","expression":"H 4 * * *","zone":"Asia/Tokyo","seed":"k"}',
        ),
        (Interval(90 * SECOND), '{"type":"interval","length":90000000}'),
        (Once(1), '{"type":"once","at":1}'),
    ],
)
def test_a_schedule_is_stored_as_json_and_read_back(schedule, text):
    assert msgspec.json.encode(schedule).decode() == text
    assert msgspec.json.decode(text, type=Schedule) == schedule


def test_the_nth_latest_is_counted_from_one():
    with pytest.raises(ValueError, match="number 1, not 0"):
        nth_latest(Cron("* * * * *"), 0, 0, 0)
