"""Whether other evaluations of cron agree: cronsim around changes of clocks, croniter where none change."""

from datetime import UTC, datetime, timedelta
from itertools import groupby, islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest
from croniter import CroniterBadDateError, croniter
from cronsim import CronSim
from hypothesis import given, reject
from hypothesis import strategies as st

from pyncette.clock import SECOND
from pyncette.core.schedule import Cron, CroniterBadCronError, check, upcoming
from pyncette.core.zone import Zone, resolve_zone
from tests.core.oracles import EFFORT, Expression, expressions, seconds

ONE_OF_A_KIND = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Jerusalem",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Dublin",
    "Pacific/Chatham",
    "Pacific/Easter",
]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AROUND = timedelta(hours=6)
YEAR = 31_556_952

# One day field or none is restricted: where both are, Debian's cron and croniter differ.
WALL_TIME = [
    "30 2 * * *",  # at a time that changes skip and repeat
    "0 0 * * *",
    "59 23 * * *",
    "5,35 0-3 * * *",
    "15,45 1,2,3 * * *",
    "0 3 * * *",
]
ELAPSED_TIME = [
    "0 */2 * * *",
    "*/20 * * * *",
    "*/7 2 * * *",
    "10 * * * *",
    "* 1-3 * * 0,6",
    "30 */5 L * *",
]


def changes_of(names: list[str], until: datetime) -> list[tuple[str, datetime, timedelta]]:
    """The changes of clocks, by how much; one zone for those that make the same one at the same instant."""
    changes: dict[tuple[int, int, int], str] = {}
    for name in names:
        zone, at = Zone(resolve_zone(name)), seconds(NOW)
        while at < seconds(until):
            before = zone.stretch_at(at)
            after = zone.stretch_at(before.end)
            if before.offset != after.offset:
                changes.setdefault((after.start, before.offset, after.offset), name)
            at = before.end
    return [
        (name, NOW + timedelta(seconds=at - seconds(NOW)), timedelta(seconds=after - before))
        for (at, before, after), name in changes.items()
    ]


@pytest.mark.parametrize(
    ("zones", "years", "at_least"),
    [
        pytest.param(ONE_OF_A_KIND, 3, 80, id="each kind"),
        pytest.param(sorted(available_timezones()), 15, 500, id="all zones", marks=pytest.mark.long),
    ],
)
def test_cronsim_agrees_at_all_changes_of_clocks_of_the_next_years(zones, years, at_least):
    changes = changes_of(zones, NOW + timedelta(days=366 * years))
    assert len(changes) >= at_least
    for name, change, length in changes:
        zone, begin, end = ZoneInfo(name), change - AROUND, change + AROUND
        # cronsim counts elapsed time in whole hours, and so misses 2:00 when Lord Howe goes back by half an hour.
        whole_hours = length % timedelta(hours=1) == timedelta(0)
        for expression in WALL_TIME + ELAPSED_TIME * whole_hours:
            theirs = map(in_utc, islice(CronSim(expression, begin.astimezone(zone)), 500))
            # cronsim gives one result for each time that was skipped, all at the same instant. Here they are one.
            expected = [at for at, _ in groupby(takewhile(end.__ge__, theirs))]

            ours = upcoming(Cron(expression, name), seconds(begin) * SECOND, len(expected), 0)

            assert list(map(as_datetime, ours)) == expected, (expression, name, str(change))


def in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def as_datetime(instant: int) -> datetime:
    return datetime.fromtimestamp(instant // SECOND, UTC)


def test_seconds_do_not_change_the_rule_for_changed_clocks_unlike_in_cronsim():
    """cronsim counts elapsed time in any expression of six fields, so it would skip this one in spring."""
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)

    theirs = next(CronSim("0 30 2 * * *", spring.astimezone(ZoneInfo("Europe/Berlin"))))
    ours = upcoming(Cron("30 2 * * * 0", "Europe/Berlin"), seconds(spring) * SECOND, 1, 0)

    assert in_utc(theirs) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)
    assert as_datetime(ours[0]) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


@EFFORT
def test_croniter_agrees_where_no_clock_changes(effort):
    @effort
    @given(
        expressions(st.booleans()),
        st.integers(0, 128 * YEAR).map(lambda at: as_datetime(at * SECOND)),
    )
    def holds(expression: Expression, after: datetime) -> None:
        schedule = Cron(str(expression))
        theirs = croniter(str(expression), after, ret_type=datetime)
        try:
            check(schedule)
        except CroniterBadCronError:
            with pytest.raises(CroniterBadDateError):
                theirs.get_next()
            reject()

        ours = upcoming(schedule, seconds(after) * SECOND, 4, -(2**60))

        assert list(map(as_datetime, ours)) == [theirs.get_next() for _ in range(4)]

    holds()


@pytest.mark.parametrize(
    "expression",
    [
        "0 0 1-7 * mon#1",
        "0 0 8,9 * tue#2,L5",
        "0 0 15W * mon-fri",
        "0 0 1-31 * mon#3",
        "0 0 10-20W * *",
        "0 0 L * mon#5",
        "0 0 31 * 0-6",
        "0 0 */2 * mon",
        "0 0 5 * */2",
        "0 0 ? * 1-7",
        "0 0 1 * 0-6,mon#1",
        "0 0 L,15 2 fri",
        "0 0 29,30,31 */2 *",
        "0 0 1 4-1/3 5-1",
        "0 22 * * 6-7",
        "0 0 1 1 * 0 2020/2",
        "*/10 4 29 2 * 30 2000-2099/4",
        "0 0 1 1-1 mon-mon",
        "59/15 23/9 * * * 50/4",
    ],
)
def test_croniter_agrees_on_how_fields_combine(expression):
    after = datetime(2026, 1, 1, tzinfo=UTC)
    try:
        theirs = croniter(expression, after, ret_type=datetime)
    except CroniterBadCronError:
        with pytest.raises(CroniterBadCronError):
            check(Cron(expression))
        return

    ours = upcoming(Cron(expression), seconds(after) * SECOND, 12, 0)

    assert list(map(as_datetime, ours)) == [theirs.get_next() for _ in range(12)]
