"""Tables fit a terminal, and are never cut elsewhere."""

import re
from pathlib import Path

import pytest

from pyncette import cli
from pyncette.cli.output import Table, fitted, print_table
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
    ("room", "widths"), [(100, [20, 30, 4]), (50, [20, 22, 4]), (30, [12, 10, 4]), (5, [10, 10, 4])]
)
def test_columns_are_narrowed_one_after_another_down_to_the_least_width(room, widths):
    assert fitted([20, 30, 4], room, narrowable=[1, 0]) == widths


def test_no_command_prints_around_the_functions_that_make_text_printable():
    sources = {path.name: path.read_text() for path in Path(cli.__path__[0]).rglob("*.py")}
    printing = {
        name
        for name, source in sources.items()
        if re.search(r"click\.(echo|secho)\(|(?<!\.)\bprint\(", source)
    }

    assert printing == {"output.py", "failures.py"}
