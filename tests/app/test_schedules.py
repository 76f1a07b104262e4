"""pyncette.schedules tells of a schedule what the engine does with it."""

import datetime
from datetime import UTC

import pytest
from croniter import CroniterBadCronError
from hypothesis import assume, given
from hypothesis import strategies as st

from pyncette import Pyncette, schedules
from pyncette.clock import SECOND
from pyncette.core.cron import uses_hash
from pyncette.core.schedule import Cron, first_after, resolve_zone
from pyncette.core.times import instant_of
from pyncette.testing import running
from tests.core.oracles import EFFORT, Expression, expressions, occurrences
from tests.core.test_schedule_properties import possible, starts

NEW_YEAR = datetime.datetime(2030, 1, 1, tzinfo=UTC)


def instants(times):
    return [instant_of(time) for time in times]


@EFFORT
def test_the_next_times_are_those_to_which_each_completion_sets_the_next_run(effort):
    @effort
    @given(expressions(st.booleans()), starts(hours=36), st.integers(0, 20))
    def holds(expression: Expression, start: tuple[str, int], n: int) -> None:
        zone, begin = start
        schedule = Cron(str(expression), zone)
        assume(possible(schedule))
        after = datetime.datetime.fromtimestamp(begin, UTC)
        expected, since = [], begin * SECOND
        while len(expected) < n and (due := first_after(schedule, (expected or [since])[-1], since)):
            expected.append(due)

        times = schedules.next_times(str(expression), zone, after=after, n=n)

        assert instants(times) == expected
        assert instants(schedules.explain(str(expression), zone, after=after, n=n).next_times) == expected

    holds()


@EFFORT
def test_the_next_times_are_those_that_the_clocks_of_the_zone_show(effort):
    @effort
    @given(expressions(st.just(False)), starts(hours=36))
    def holds(expression: Expression, start: tuple[str, int]) -> None:
        zone, begin = start
        assume(possible(Cron(str(expression), zone)))
        expected = occurrences(expression, resolve_zone(zone), begin + 60, begin + 36 * 3600)

        times = schedules.next_times(
            str(expression), zone, after=datetime.datetime.fromtimestamp(begin, UTC), n=len(expected)
        )

        assert [instant // SECOND for instant in instants(times)] == expected

    holds()


@pytest.mark.parametrize(
    "expression", ["30 2 * * *", "*/30 2 * * *", "0 1-3 * * *", "30 * * * *", "15,45 2 * * sun"]
)
@pytest.mark.parametrize("day", [datetime.date(2026, 3, 28), datetime.date(2026, 10, 24)])
async def test_a_task_runs_at_the_next_times_across_a_change_of_the_clocks(expression, day):
    app, ran = Pyncette(), []

    @app.dynamic_task()
    async def remind(context):
        ran.append(context.scheduled_at)

    start = datetime.datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    async with running(app, start) as world:
        await world.context.schedule_task(remind, "ada", schedule=expression, timezone="Europe/Berlin")
        await world.advance(days=2)

    times = schedules.next_times(expression, "Europe/Berlin", after=start, n=len(ran) + 1)
    assert ran
    assert times[:-1] == ran
    assert [time.isoformat() for time in times[:-1]] == [time.isoformat() for time in ran]
    assert times[-1] > start + datetime.timedelta(days=2)


def test_a_schedule_is_explained_as_a_whole():
    explained = schedules.explain("0 0 9 * * *", "Asia/Tokyo", after=NEW_YEAR, n=2)

    assert explained.expression == "0 0 9 * * *"
    assert explained.timezone == "Asia/Tokyo"
    assert (
        explained.description
        == schedules.describe("0 0 9 * * *")
        == "Every second, at 0 minutes past the hour, "
        "between 00:00 and 00:59, on day 9 of the month"
    )
    assert [time.isoformat() for time in explained.next_times] == [
        "2030-01-09T00:00:00+09:00",
        "2030-01-09T00:00:01+09:00",
    ]
    assert [warning.reason for warning in explained.warnings] == ["SecondsLast"]


def test_fewer_times_are_left_when_the_years_end():
    assert schedules.next_times("0 0 1 1 * 0 2029-2031", after=NEW_YEAR) == [
        datetime.datetime(2031, 1, 1, tzinfo=UTC)
    ]
    assert schedules.explain("0 0 1 1 * 0 2029", after=NEW_YEAR).next_times == ()


def test_a_hashed_value_is_that_of_the_key():
    (time,) = schedules.next_times("H H * * *", after=NEW_YEAR, n=1, key="reports/bob")

    assert f"{time:%H:%M}" == "12:24"
    assert schedules.describe("H H * * *", key="reports/bob") == "At 12:24"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("61 * * * *",), "out of range"),
        (("0 0 30 2 *",), "never fires: no date has day of month 30, month 2"),
        (("0 30 9 * * mon",), 'seconds come last here: write "30 9 * * mon"'),
        (("H 4 * * *",), "uses H, which needs the key of an instance"),
        (("*/5 2 29 3 * 0 2026", "Europe/Berlin"), "never fires in Europe/Berlin"),
        (("every 5 minutes",), "it has 3 fields"),
        (("1," * 3000 + "1 * * * *",), "it is longer than 4096 characters"),
        ((None,), "expression must be a str, not None"),
        (("0 9 * * *", UTC), "timezone must be a str, not datetime.timezone.utc"),
        (("0 9 * * *", "Dublin"), "Invalid timezone specifier 'Dublin'. Did you mean Europe/Dublin?"),
        (("0 9 * * *", "/etc/localtime"), "Invalid timezone specifier '/etc/localtime'."),
    ],
)
def test_what_a_task_would_be_refused_for_is_refused_with_the_reason(arguments, message):
    with pytest.raises(ValueError) as refused:
        schedules.validate(*arguments)

    assert message in str(refused.value)
    with pytest.raises(ValueError) as refused:
        schedules.explain(*arguments, after=NEW_YEAR)
    assert message in str(refused.value)


def test_an_invalid_expression_is_refused_with_the_error_of_croniter():
    with pytest.raises(CroniterBadCronError):
        schedules.describe("61 * * * *")


def test_a_time_without_a_zone_is_refused_since_it_means_another_one_on_each_machine():
    with pytest.raises(ValueError, match="after must have a time zone"):
        schedules.next_times("0 9 * * *", after=datetime.datetime(2030, 1, 1))  # noqa: DTZ001 - that is the point


def test_a_text_that_is_too_long_is_kept_in_no_cache():
    kept = uses_hash.cache_info().currsize

    for n in range(10):
        with pytest.raises(CroniterBadCronError):
            schedules.explain("* " * 5000 + str(n), after=NEW_YEAR)

    assert uses_hash.cache_info().currsize == kept


def test_a_negative_number_of_times_is_refused():
    with pytest.raises(ValueError, match="n must be at least 0, not -1"):
        schedules.next_times("0 9 * * *", after=NEW_YEAR, n=-1)


def test_what_is_valid_passes():
    schedules.validate("0 9 * * *")
    schedules.validate("0 9 * * mon-fri", "Europe/Dublin")
    schedules.validate("H 9 * * *", key="team/report")
    schedules.validate("0 9 * * *", "EST5EDT,M3.2.0,M11.1.0")
