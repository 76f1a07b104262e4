"""Tables fit a terminal, and are never cut elsewhere."""

import re
from pathlib import Path

import pytest

from pyncette import cli
from pyncette.cli.output import Table, fitted, lines_of, print_table, shortened
from pyncette.cli.tables import RUNS, TASKS, WORKERS
from tests.cli import ESCAPE

TABLE = Table(
    ("NAME", "WORKER", "MESSAGE"),
    [("ada", "host-1-of-many", "no luck " * 20), ("grace", "host-2-of-many", "")],
    narrowable=("MESSAGE", "NAME"),
    droppable=("WORKER",),
)


@pytest.fixture
def terminal(monkeypatch, capsys):
    """A function that prints the table on a terminal of so many columns and returns the lines."""

    def printed(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        print_table(TABLE)
        return ESCAPE.sub("", capsys.readouterr().out).splitlines()

    return printed


def test_without_a_terminal_each_row_is_one_whole_line(capsys):
    print_table(TABLE)

    _, ada, grace = capsys.readouterr().out.splitlines()
    assert ada.count("no luck") == 20
    assert grace == "grace  host-2-of-many"


def test_a_terminal_gets_rows_that_fit_it(terminal):
    _, ada, grace = terminal(60)

    assert len(ada) <= 60
    assert ada.startswith("ada    host-1-of-many  no luck no luck")
    assert ada.endswith("…")
    assert grace == "grace  host-2-of-many"


def test_droppable_columns_are_dropped_if_narrowing_is_not_enough(terminal):
    names, ada, _ = terminal(24)

    assert names == "NAME   MESSAGE"
    assert ada == "ada    no luck no luck…"


@pytest.mark.parametrize(
    ("room", "widths"),
    [(100, [20, 30, 4]), (50, [20, 22, 4]), (30, [12, 10, 4]), (20, [10, 2, 4]), (10, [1, 1, 4])],
)
def test_columns_are_narrowed_one_after_another_down_to_the_least_width(room, widths):
    assert fitted([20, 30, 4], room, narrowable=[1, 0]) == widths


@pytest.mark.parametrize("columns", [60, 72, 100])
@pytest.mark.parametrize("table", [TASKS, RUNS, WORKERS], ids=["tasks", "runs", "workers"])
def test_lists_fit_a_terminal_with_their_headers(table, columns):
    rows = [[WIDE[name] for name in table.names]] * 2

    lines = lines_of(table._replace(rows=rows), columns)

    assert max(map(len, lines)) <= columns
    assert all(re.fullmatch(r"(\S+|SO FAR)(  +(\S+|SO FAR))*", line) for line in lines[:1]), lines[0]


WIDE = {
    "TASK": "reminders/user-100000", "HANDLER": "send_reminder", "SCHEDULE": "0 12 * * 1-5 Europe/Dublin",
    "NEXT": "in 13 min (2026-12-02 12:00:00 UTC)", "LAST": "succeeded 13 min ago", "LATE": "1.2 s", "RUNNING": "12",
    "SO FAR": "1234567 ok, 12 failed, 100 missed",
    "RUN": "84f5be43cc7d0a44d58c", "OUTCOME": "deadLettered", "SCHEDULED": "2026-12-02 12:00:00 UTC", "TOOK": "120 ms",
    "ENDED": "13 min ago", "ATTEMPTS": "5", "WORKER": "worker-7d9f8b5c4-x2x9k:1:563b7b", "MESSAGE": "ValueError: no luck",
    "VERSION": "0.1.0", "SLOTS": "100", "STARTED": "2 h 10 min ago", "HANDLERS": "send_reminder, daily_report",
}  # fmt: skip


def test_a_time_that_does_not_fit_is_left_out_whole():
    assert shortened("in 13 s (12:00:13 CET)", 22) == "in 13 s (12:00:13 CET)"
    assert shortened("in 13 s (12:00:13 CET)", 21) == "in 13 s"
    assert shortened("ValueError: wrong (12)", 21) == "ValueError: wrong (1…"


def test_no_command_prints_around_the_functions_that_make_text_printable():
    sources = {path.name: path.read_text() for path in Path(cli.__path__[0]).rglob("*.py")}
    printing = {
        name
        for name, source in sources.items()
        if re.search(r"click\.(echo|secho)\(|(?<!\.)\bprint\(", source)
    }

    assert printing == {"output.py", "failures.py"}
