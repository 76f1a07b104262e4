"""What is known of a zone's clocks, against the files of the time zone database."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import available_timezones

import pytest

from pyncette.core.zone import BLOCK, PROBE_STEP, Zone, resolve_zone
from tests.core.oracles import listed_changes

SOME = [
    "Europe/Berlin",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "America/Juneau",
    "Asia/Manila",
]
ALL = sorted(name for name in available_timezones() if not name.startswith(("posix", "right", "localtime")))


def counted(text: str) -> int:
    return int(datetime.fromisoformat(text if text.endswith("Z") else text + "Z").timestamp())


class Changing(tzinfo):
    """A zone with these offsets in seconds from these instants on, the first of them for ever before."""

    def __init__(self, *changes: tuple[int, int]) -> None:
        self._changes = changes

    def fromutc(self, dt: datetime) -> datetime:
        second = int(dt.replace(tzinfo=UTC).timestamp())
        self._now = next(
            (offset for at, offset in reversed(self._changes) if at <= second), self._changes[0][1]
        )
        return dt + timedelta(seconds=self._now)

    def utcoffset(self, dt: datetime | None) -> timedelta:
        return timedelta(seconds=self._now)


def found_changes(name: str, begin: int, end: int) -> list[tuple[int, int]]:
    zone, at, changes = Zone(resolve_zone(name)), begin, []
    offset = zone.stretch_at(begin).offset
    while at < end:
        stretch = zone.stretch_at(at)
        if stretch.offset != offset:
            changes.append((stretch.start, stretch.offset))
        at, offset = stretch.end, stretch.offset
    return changes


@pytest.mark.parametrize(
    "names", [pytest.param(SOME, id="some"), pytest.param(ALL, id="all", marks=pytest.mark.long)]
)
def test_every_listed_change_is_found_and_no_other(names):
    for name in names:
        listed = listed_changes(name)
        begin, end = (listed[0][0] - 1, listed[-1][0] + 1) if listed else (0, 1)

        assert found_changes(name, begin, end) == listed, name


def test_changes_that_undo_each_other_are_further_apart_than_the_probes():
    for name in ALL:
        changes = listed_changes(name)
        for before, (begin, _), (end, offset) in zip(changes, changes[1:], changes[2:], strict=False):
            assert end - begin > PROBE_STEP or offset != before[1], name


@pytest.mark.parametrize(
    "name", ["Europe/Berlin", "Australia/Lord_Howe", "America/New_York", "America/Santiago"]
)
def test_the_rule_at_the_end_of_a_file_goes_on_for_ever(name):
    year_2500 = 16_725_225_600

    changes = found_changes(name, year_2500, year_2500 + 10 * 31_556_952)

    assert len(changes) == 20


@pytest.mark.parametrize(
    ("name", "second", "unseen", "skipped"),
    [
        pytest.param(
            "Europe/Berlin", "2026-03-29T01:00Z", "2026-03-29T03:00", "2026-03-29T02:00", id="forward"
        ),
        pytest.param("Europe/Berlin", "2026-10-25T01:00Z", "2026-10-25T03:00", "2026-10-25T02:00", id="back"),
        pytest.param("Pacific/Apia", "2011-12-30T10:00Z", "2011-12-31T00:00", "2011-12-30T00:00", id="a day"),
    ],
)
def test_a_stretch_knows_which_times_its_clocks_skip_and_repeat(name, second, unseen, skipped):
    stretch = Zone(resolve_zone(name)).stretch_at(counted(second))

    assert stretch.start == counted(second)
    assert (stretch.unseen, stretch.skipped) == (counted(unseen), counted(skipped))


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("America/New York", -5),
        ("UTC+3", 3),
        ("EST5EDT,M3.2.0,M11.1.0", -5),
        ("GMT", 0),
        ("Etc/GMT+12", -12),
    ],
)
def test_a_zone_is_a_name_of_the_database_or_what_dateutil_takes(name, offset):
    january_2026 = 1_767_225_600

    assert Zone(resolve_zone(name)).stretch_at(january_2026).offset == offset * 3600


@pytest.mark.parametrize(
    "name",
    [
        "Mars/Olympus",
        "Europe",
        "",
        ":",
        "/etc/localtime",
        ":/etc/localtime",
        "../UTC",
        "a\0b",
        "x" * 300,
        "7",
    ],
)
def test_what_is_no_zone_is_refused_with_its_name(name):
    with pytest.raises(ValueError) as refused:
        resolve_zone(name)

    assert str(refused.value) == f"Invalid timezone specifier '{name}'."


@pytest.mark.parametrize("before_the_edge", [0, 1, 3599, 3600, 3601])
def test_what_was_shown_is_not_forgotten_where_the_search_for_changes_is_cut(before_the_edge):
    edge = 13 * BLOCK
    back = edge - before_the_edge
    zone = Zone(Changing((0, 7200), (back, 3600)))

    second_pass = zone.stretch_at(edge)

    assert second_pass.start == edge
    assert second_pass.unseen == max(back + 7200, edge + 3600)
    assert second_pass.skipped == edge + 3600


@pytest.mark.parametrize("before_the_edge", [0, 1, 3600])
def test_a_gap_is_found_once_where_the_search_for_changes_is_cut(before_the_edge):
    edge = 13 * BLOCK
    forward = edge - before_the_edge
    zone = Zone(Changing((0, 3600), (forward, 7200)))

    skipping = [zone.stretch_at(at) for at in {forward - 1, forward, edge - 1, edge, edge + 7200}]

    assert {stretch.start for stretch in skipping if stretch.skipped < stretch.start + stretch.offset} == {
        forward
    }


def test_a_second_change_amid_a_repeated_time_leaves_it_repeated():
    back, forth = 1_800_000_000, 1_800_003_600
    zone = Zone(Changing((0, 0), (back, -3 * 3600), (forth, -2 * 3600)))

    first_pass, again, once_more = (zone.stretch_at(at) for at in (back - 1, back, forth))

    assert first_pass.unseen < back
    assert again.unseen == once_more.unseen == back
    assert once_more.skipped == forth - 2 * 3600
