"""Promises that hold for any expression in any zone, against looking at the clock at every step."""

from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from pyncette.clock import SECOND
from pyncette.core.schedule import (
    Cron,
    CroniterBadCronError,
    Interval,
    check,
    count,
    first_after,
    latest,
    nth_latest,
    resolve_zone,
    upcoming,
)
from tests.core.oracles import CHANGES, EFFORT, Expression, Field, expressions, occurrences, seconds

ONE_YEAR = 366 * 86_400 * SECOND
EXACT = 10**18

MIDNIGHT = Field("0", frozenset({0}))

zones = st.sampled_from(sorted({zone for zone, _ in CHANGES}))
instants = st.integers(-(2**31) * SECOND, 2**32 * SECOND)


crons = st.builds(Cron, expressions(st.booleans()).map(str), zones)


def _near(change: tuple[str, str], lead: timedelta) -> tuple[str, int]:
    zone, moment = change
    return zone, seconds(datetime.fromisoformat(moment) - lead)


def starts(hours: int) -> st.SearchStrategy[tuple[str, int]]:
    leads = st.integers(-60, 60 * hours).map(lambda minutes: timedelta(minutes=minutes))
    return st.builds(_near, st.sampled_from(CHANGES), leads)


def possible(schedule: Cron) -> bool:
    try:
        check(schedule)
    except CroniterBadCronError:
        return False
    return True


def all_agree_with(expected: list[int], schedule: Cron, begin: int, end: int) -> None:
    """Each function gives what *expected* holds for the seconds from *begin* to before *end*."""
    due = [second * SECOND for second in expected]
    after, until = begin * SECOND - 1, end * SECOND - 1
    assert upcoming(schedule, after, len(due), after) == due
    further = first_after(schedule, due[-1] if due else after, after)
    assert further is None or further > until
    assert count(schedule, after, until, after, limit=len(due)) == (len(due), True)
    assert [nth_latest(schedule, until, n + 1, after) for n in range(len(due))] == due[::-1]
    assert nth_latest(schedule, until, len(due) + 1, after) is None
    middle = (begin + end) // 2 * SECOND
    assert latest(schedule, middle, after) == max((at for at in due if at <= middle), default=None)
    assert count(schedule, middle, until, after)[0] == sum(at > middle for at in due)
    assert count(schedule, after, middle, after)[0] == sum(at <= middle for at in due)
    assert first_after(schedule, after, middle) == next((at for at in due if at > middle), further)


@EFFORT
def test_around_a_change_of_clocks_all_is_as_the_clock_shows_it_minute_by_minute(effort):
    @effort
    @given(expressions(st.just(False)), starts(hours=36))
    def holds(expression: Expression, start: tuple[str, int]) -> None:
        zone, begin = start
        schedule, end = Cron(str(expression), zone), begin + 36 * 3600
        assume(possible(schedule))

        all_agree_with(occurrences(expression, resolve_zone(zone), begin, end), schedule, begin, end)

    holds()


@EFFORT
def test_around_a_change_of_clocks_all_is_as_the_clock_shows_it_second_by_second(effort):
    @effort
    @given(expressions(st.just(True)), starts(hours=2))
    def holds(expression: Expression, start: tuple[str, int]) -> None:
        zone, begin = start
        schedule, end = Cron(str(expression), zone), begin + 300
        assume(possible(schedule))

        all_agree_with(occurrences(expression, resolve_zone(zone), begin, end), schedule, begin, end)

    holds()


@EFFORT
def test_far_from_changes_days_are_those_of_the_calendar(effort):
    @effort
    @given(expressions(st.just(False)), st.integers(0, 40_000).map(lambda day: day * 86_400))
    def holds(expression: Expression, begin: int) -> None:
        daily = Expression((MIDNIGHT, MIDNIGHT, *expression.fields[2:]))
        schedule, after = Cron(str(daily)), begin * SECOND - 1
        assume(possible(schedule))
        days = range(begin, begin + 430 * 86_400, 86_400)
        expected = [at for at in days if daily.names(datetime.fromtimestamp(at, UTC))]

        due = upcoming(schedule, after, len(expected), after)

        assert due == [at * SECOND for at in expected]
        assert count(schedule, after, days[-1] * SECOND, after) == (len(expected), True)

    holds()


@EFFORT
def test_first_and_latest_mirror_each_other(effort):
    @effort
    @given(st.one_of(crons, st.builds(Interval, st.integers(1, ONE_YEAR))), instants, instants)
    def holds(schedule: Cron | Interval, after: int, since: int) -> None:
        assume(not isinstance(schedule, Cron) or possible(schedule))
        due = first_after(schedule, after, since)
        assume(due is not None)

        assert due is not None
        assert due > max(after, since)
        assert latest(schedule, due, since) == due
        before = latest(schedule, due - 1, since)
        assert before is None or since < before <= after
        assert count(schedule, max(after, since), due, since) == (1, True)
        assert count(schedule, max(after, since), due - 1, since) == (0, True)

    holds()


@EFFORT
def test_counts_add_up_and_the_nth_latest_leaves_n_behind(effort):
    @effort
    @given(
        st.one_of(crons, st.builds(Interval, st.integers(1, ONE_YEAR))),
        instants,
        st.integers(0, ONE_YEAR),
        st.integers(0, ONE_YEAR),
        st.integers(1, 5000),
    )
    def holds(schedule: Cron | Interval, begin: int, more: int, most: int, n: int) -> None:
        assume(not isinstance(schedule, Cron) or possible(schedule))
        middle, end = begin + more, begin + more + most
        whole, exact = count(schedule, begin, end, begin, limit=EXACT)
        assert exact

        parts = [count(schedule, *part, begin, limit=EXACT) for part in ((begin, middle), (middle, end))]
        bounded, is_exact = count(schedule, begin, end, begin, limit=n)
        nth = nth_latest(schedule, end, n, begin)

        assert sum(number for number, _ in parts) == whole
        assert (bounded == whole) if is_exact else (n < bounded <= whole)
        assert (nth is None) == (n > whole)
        assert nth is None or count(schedule, nth - 1, end, begin, limit=n) == (n, True)

    holds()
