"""Of a long list of tests each day plays a part, and all of it is played in so many days."""

import subprocess
import sys

from tests.rotation import VARIABLE, fix_rotation, part_of_today

ITEMS = tuple(range(10))


def test_all_items_are_played_in_as_many_days_as_there_are_parts(monkeypatch):
    played = []
    for day in range(20_000, 20_003):
        monkeypatch.setenv(VARIABLE, str(day))
        played += part_of_today(ITEMS, 3)

    assert sorted(played) == list(ITEMS)


def test_everything_is_played_on_request(monkeypatch):
    monkeypatch.setenv(VARIABLE, "all")

    assert part_of_today(ITEMS, 3) == list(ITEMS)


def test_a_list_that_is_shorter_than_its_parts_is_played_each_day(monkeypatch):
    monkeypatch.setenv(VARIABLE, "20001")

    assert part_of_today([7], 3) == [7]


def test_processes_that_a_run_starts_play_the_same_part(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    mine = fix_rotation()
    program = "from tests.rotation import fix_rotation; print(fix_rotation())"

    theirs = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert theirs.strip() == mine
