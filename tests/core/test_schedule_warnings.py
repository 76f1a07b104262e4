"""Expressions that are easily misread are warned of, others are not, and no change of the clocks goes unmentioned."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pyncette.clock import SECOND
from pyncette.core.misreadings import misreadings
from pyncette.core.schedule import Cron, CroniterBadCronError, check, resolve_zone, upcoming
from pyncette.core.schedule_warnings import warnings_of
from tests.core.oracles import EFFORT, Expression, expressions
from tests.core.test_schedule_properties import possible, starts

HOURS = 36


def reasons(expression, seed=""):
    return [warning.reason for warning in misreadings(expression, seed)]


def messages(expression, seed=""):
    return [warning.message for warning in misreadings(expression, seed)]


@pytest.mark.parametrize(
    ("expression", "instead"),
    [
        ("0 0 9 * * *", "0 9 * * *"),
        ("30 0 9 * * *", "0 9 * * * 30"),
        ("0 9 * * * *", "9 * * * *"),
        ("*/10 * * * * *", "* * * * * */10"),
        ("* 0 9 * * *", "0 9 * * * *"),
        ("0 0 9 * * 1-5", "0 9 * * 1-5"),
        ("0 0 9 * * 1,3,5", "0 9 * * 1,3,5"),
        ("0 0 9 * * 0", "0 9 * * 0"),
        ("0 0 9 * * 7", "0 9 * * 7"),
        ("0 0 9 1 * *", "0 9 1 * *"),
        ("0 0 9 * * * 2027", "0 9 * * * 0 2027"),
    ],
)
def test_six_fields_that_look_like_seconds_first_are_warned_of_with_the_order_of_this_product(
    expression, instead
):
    (message, *_) = messages(expression)

    assert reasons(expression)[0] == "SecondsLast"
    assert f'write "{instead}" if' in message


@pytest.mark.parametrize(
    "expression",
    [
        "0 9 * * *",
        "* * * * * *",
        "0 9 * * * 0",
        "0 9 * * * 5",
        "0 9 * * * 30",
        "0 9 * * * */30",
        "0 9 * * * 0,30",
        "0 9 * * * 0-59",
        "* * * * * */10",
        "0 0 1 1 * 0 2027",
        "@daily",
    ],
)
def test_usual_expressions_with_seconds_last_are_not_warned_of(expression):
    assert reasons(expression) == []


@pytest.mark.parametrize("expression", ["0 0 9 * * *", "0 9 * * * *", "*/10 * * * * *", "0 0 9 * * 0"])
def test_each_expression_that_a_warning_of_seconds_suggests_is_clear(expression):
    (message,) = messages(expression)

    suggested = message.split('"')[1::2]

    assert len(suggested) == 2
    assert [text for text in suggested if "SecondsLast" in reasons(text)] == []


@pytest.mark.parametrize(
    ("expression", "instead"),
    [
        ("30 8 1-7 * mon", "30 8 * * mon#1"),
        ("0 0 8-14 3 2", "0 0 * 3 2#2"),
        ("0 0 15-21 * sun", "0 0 * * sun#3"),
        ("0 0 22-28 * 7", "0 0 * * 7#4"),
        ("0 0 1-7 * mon 30", "0 0 * * mon#1 30"),
        ("0 0 1-7 * mon 0 2027", "0 0 * * mon#1 0 2027"),
    ],
)
def test_the_nth_weekday_is_suggested_for_a_week_of_days_and_a_weekday(expression, instead):
    (message,) = messages(expression)

    assert f'write "{instead}"' in message
    assert reasons(instead) == []


@pytest.mark.parametrize("expression", ["0 0 13 * fri", "0 0 */2 * mon", "0 0 L * 5", "0 0 1-7,15 * mon"])
def test_both_day_fields_are_warned_of_since_either_is_enough(expression):
    assert "EitherDay" in reasons(expression)


@pytest.mark.parametrize("expression", ["0 0 13 * *", "0 0 * * fri", "0 0 13 * ?", "0 0 1-7 * mon#1"])
def test_one_day_field_is_not_warned_of(expression):
    assert "EitherDay" not in reasons(expression)


@pytest.mark.parametrize(
    ("expression", "follows"),
    [
        ("*/7 * * * *", "56 is followed by 0"),
        ("0-59/7 * * * *", "56 is followed by 0"),
        ("3/25 * * * *", "53 is followed by 3"),
        ("0 */5 * * *", "20 is followed by 0"),
        ("0 0 */2 * *", "31 is followed by 1"),
        ("0 0 1 */5 *", "11 is followed by 1"),
        ("0 0 * * */2", "6 is followed by 0"),
        ("0 0 * * 7/2", "6 is followed by 0"),
        ("0 0 * * 1/3", "4 is followed by 1"),
        ("* * * * * */7", "56 is followed by 0"),
        ("*/40 9-10 * * *", "40 is followed by 0"),
        ("*/90 * * * *", "names 0 alone, so once each hour"),
        ("59/15 * * * *", "names 59 alone, so once each hour"),
        ("0 */30 * * *", "names 0 alone, so once each day"),
        ("15,*/7 * * * *", "56 is followed by 0"),
    ],
)
def test_a_step_that_falters_at_the_end_of_its_field_is_warned_of(expression, follows):
    assert reasons(expression) == ["UnevenStep"]
    assert follows in messages(expression)[0]


@pytest.mark.parametrize(
    "expression",
    [
        "*/15 * * * *",
        "5/15 * * * *",
        "0 */6 * * *",
        "0 0 1 */3 *",
        "*/7 9 * * *",
        "*/7 9,17 * * *",
        "10-50/7 * * * *",
        "0 9-17/3 * * *",
        "0 0 */2 2 *",
        "30 9 * * * */7",
        "*/1 * * * *",
        "0 0 1 1 * 0 */4",
    ],
)
def test_an_even_step_and_one_that_never_reaches_the_end_are_not_warned_of(expression):
    assert reasons(expression) == []


def test_a_hashed_step_is_shown_as_it_is_written():
    (message,) = messages("H/7 * * * *", "team/report")

    assert message.startswith("H/7 in the minute field begins again with each hour")
    assert reasons("H/20 * * * *", "team/report") == []


@pytest.mark.parametrize(
    ("expression", "months"),
    [
        ("0 0 31 * *", "February, April, June, September and November have no day 31:"),
        ("0 0 31 3,4 *", "April has no day 31:"),
        ("0 0 1,15,30 * *", "February has no day 30:"),
        ("0 0 29 * *", "February has no day 29 in most years:"),
        ("0 0 30-31 * *", "February has no day 30:"),
        ("0 0 29 2 *", "29 February comes in leap years only:"),
    ],
)
def test_a_day_that_some_months_lack_is_warned_of(expression, months):
    assert reasons(expression) == ["RareDay"]
    assert messages(expression)[0].startswith(months)


@pytest.mark.parametrize(
    "expression",
    ["0 0 31 1 *", "0 0 28-31 * *", "0 0 1-31 * *", "0 0 31W * *", "0 0 28,29 * *", "0 0 30,L * *"],
)
def test_a_day_that_each_month_has_is_not_warned_of(expression):
    assert reasons(expression) == []


@pytest.mark.parametrize(
    ("expression", "instead"),
    [
        ("10-10 * * * *", "10"),
        ("0 0 * * mon-mon", "mon"),
        ("0 0 1 1 * 0 2027-2027", "2027"),
        ("0 1,5-5 * * *", "5"),
    ],
)
def test_a_range_that_ends_where_it_begins_is_warned_of_since_it_is_the_whole_field(expression, instead):
    assert reasons(expression) == ["WholeField"]
    assert messages(expression)[0].endswith(f"is the whole field: write {instead}")


@EFFORT
def test_each_valid_expression_has_warnings_or_none_but_no_error(effort):
    @effort
    @given(expressions(st.booleans()))
    def holds(expression: Expression) -> None:
        assume(possible(Cron(str(expression))))

        assert all(reason and message for reason, message in misreadings(str(expression)))

    holds()


def test_an_invalid_expression_is_refused_as_the_engine_does():
    with pytest.raises(CroniterBadCronError, match="never fires"):
        misreadings("0 0 30 2 *")


@pytest.mark.parametrize(
    ("expression", "instead"),
    [
        ("0 30 9 * * mon-fri", "30 9 * * mon-fri"),
        ("0 0 9 ? * *", "0 9 ? * *"),
        ("15 30 9 * * ?", "30 9 * * ? 15"),
        ("0 0 12 1/5 * ? *", "0 12 1/5 * ? 0 *"),
    ],
)
def test_an_expression_that_is_valid_with_seconds_first_is_refused_with_the_order_of_this_product(
    expression, instead
):
    with pytest.raises(CroniterBadCronError) as refused:
        check(Cron(expression))

    assert str(refused.value).endswith(f'; seconds come last here: write "{instead}"')
    check(Cron(instead))


@pytest.mark.parametrize("expression", ["61 * * * *", "0 61 9 * * *", "x 0 9 * * *", "0 9 * *"])
def test_an_expression_that_is_invalid_either_way_is_refused_without_that(expression):
    with pytest.raises(CroniterBadCronError) as refused:
        check(Cron(expression))

    assert "seconds come last here" not in str(refused.value)


# --- Changes of clocks -----------------------------------------------------------------------------------------------


def changes(schedule, after, n):
    return {warning.reason for warning in warnings_of(schedule, after, n)} & {"SkippedTime", "RepeatedTime"}


def affected(expression: Expression, zone, after: int, until: int) -> Iterator[str]:
    """What clocks do to the times of an expression, found by looking at them at every quarter of an hour."""
    everything = expression.elapsed and len(expression.fields[1].numbers) == 24
    minute, quarter, day = timedelta(minutes=1), timedelta(minutes=15), 86_400
    begin = (after - 2 * day) // 900 * 900
    before = clock(zone, begin)
    for second in range(begin + 900, until + 2 * day, 900):
        now = clock(zone, second)
        jump = now - before - quarter
        before = now
        if not jump or (everything and jump % timedelta(hours=1) == timedelta()):
            continue
        forward = jump > timedelta()
        first = now - jump if forward else now
        walls = [first + n * minute for n in range(abs(jump) // minute)]
        named = [wall for wall in walls if expression.names(wall)]
        if forward:
            moments = [second] if named else []
        else:
            again = [second + (wall - now) // timedelta(seconds=1) for wall in named]
            moments = [moment + jump // timedelta(seconds=1) for moment in again]
            moments += again if expression.elapsed else []
        if any(after < moment <= until for moment in moments):
            yield "SkippedTime" if forward else "RepeatedTime"


def clock(zone, second):
    return datetime.fromtimestamp(second, zone).replace(tzinfo=None)


@EFFORT
def test_each_change_of_the_clocks_that_affects_the_next_times_is_warned_of_and_no_other(effort):
    @effort
    @given(expressions(st.just(False)), starts(hours=HOURS))
    def holds(expression: Expression, start: tuple[str, int]) -> None:
        zone, begin = start
        schedule, after = Cron(str(expression), zone), begin * SECOND
        assume(possible(schedule))
        end = after + HOURS * 3600 * SECOND
        due = [at for at in upcoming(schedule, after, 2 * HOURS, after) if at <= end]
        assume(due)

        found = changes(schedule, after, len(due))

        assert found == set(affected(expression, resolve_zone(zone), begin, due[-1] // SECOND))

    holds()


def test_a_change_after_the_times_that_are_shown_is_not_warned_of():
    schedule = Cron("30 2 * * *", "Europe/Berlin")
    after = int(datetime(2026, 3, 26, 12, tzinfo=UTC).timestamp()) * SECOND

    assert changes(schedule, after, 2) == set()
    assert changes(schedule, after, 3) == {"SkippedTime"}


@pytest.mark.parametrize(
    ("expression", "after", "warned"),
    [
        ("30 2 * * *", "2026-10-25T00:29Z", True),  # the first pass, before the clocks go back
        ("30 2 * * *", "2026-10-25T00:30Z", False),  # the second pass, on which it is not due
        ("*/30 2 * * *", "2026-10-25T00:20Z", True),
        ("*/30 2 * * *", "2026-10-25T01:10Z", True),  # the second pass
        ("*/30 2 * * *", "2026-10-25T01:30Z", False),
    ],
)
def test_a_repeated_time_is_warned_of_if_it_is_the_only_one_that_is_shown(expression, after, warned):
    after = int(datetime.fromisoformat(after).timestamp()) * SECOND

    assert changes(Cron(expression, "Europe/Berlin"), after, 1) == ({"RepeatedTime"} if warned else set())


def test_a_schedule_whose_years_have_passed_has_no_change_of_clocks():
    schedule = Cron("30 2 * * * 0 2020", "Europe/Berlin")

    assert warnings_of(schedule, int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND) == ()


@pytest.mark.parametrize("year", [1, 1900, 9999])
def test_there_are_warnings_at_the_ends_of_time_too(year):
    after = int(datetime(year, 12, 1, tzinfo=UTC).timestamp()) * SECOND

    assert [warning.reason for warning in warnings_of(Cron("0 0 31 * *", "Europe/Berlin"), after)] == [
        "RareDay"
    ]
