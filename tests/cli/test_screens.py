"""What dev shows fits the terminal and says what matters; without a terminal, each thing is said once."""

import datetime
import io
import re

import pytest
from rich.console import Console

from pyncette.cli.dev.screens import LiveScreen, PlainScreen
from pyncette.cli.dev.state import Line, Picture
from pyncette.cli.survey import StoredTask, describe
from pyncette.clock import SECOND
from pyncette.core import edits
from pyncette.core.record import Counts, Key, Lease, Outcome, Owner, Partition, Started, Summary, replace
from pyncette.core.schedule import Cron, Once
from pyncette.core.spec import Policies, Spec

pytestmark = pytest.mark.usefixtures("in_dublin")

NOON = int(datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.UTC).timestamp()) * SECOND
AT_NOON = datetime.datetime(2024, 7, 1, 12, tzinfo=datetime.UTC)


def record(name="hello", schedule=None, policies=None, **state):
    policies = policies or Policies(keep_finished=True)
    spec = Spec(schedule or Cron("*/5 * * * *", "Europe/Dublin"), policies=policies)
    made = edits.created(Key(Partition("", "greet"), name), spec, policies, NOON, owner=Owner("", 0, "x"))
    return replace(made, state=replace(made.state, **state)) if state else made


def ran(outcome=Outcome.SUCCEEDED, **more):
    summary = Summary(
        last_scheduled_at=NOON - 60 * SECOND,
        last_started_at=NOON - 60 * SECOND + 4000,
        last_ended_at=NOON - 59 * SECOND,
        last_outcome=outcome,
        counts=Counts(succeeded=3, missed=2),
    )
    return replace(summary, **more)


def view(home, *beside):
    return describe(StoredTask(home.key.task, home.key.partition.handler, [home], list(beside)), NOON)


def picture(*views, **more):
    return Picture(NOON, "pyncette: jobs", "running", views, **more)


HOSTILE = "no\r\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b2J\u202eend"


# --- A terminal ------------------------------------------------------------------------------------------------------


def drawn(shown, lines=(), width=140, height=30):
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    screen = LiveScreen(console)
    for line in lines:
        screen.line(line)
    screen.draw(shown)
    with console.capture() as capture:
        console.print(screen._live.renderable, end="")
    return [text.rstrip() for text in capture.get().splitlines()]


def said(count):
    return [Line(AT_NOON, f"line {number}") for number in range(count)]


def test_a_task_is_reported_with_its_schedule_next_time_last_outcome_lateness_and_counts():
    rows = drawn(picture(view(record(summary=ran()))))

    (row,) = [row for row in rows if row.startswith("hello")]
    assert row.split("  ")[0] == "hello"
    for part in (
        "*/5 * * * * Europe/Dublin",
        "in 5 min (13:05:00 IST)",
        "succeeded 59 s ago",
        "4 ms",
        "3 ok, 2 missed",
    ):
        assert part in row


@pytest.mark.parametrize(
    ("home", "next_is"),
    [
        (record(policies=Policies(suspend=True)), "suspended"),
        (record(exhausted=True), "suspended: attempts exhausted"),
        (record(withdrawn_at=NOON), "stopped"),
        (replace(record(schedule=Once(NOON)), due_at=None), "finished"),
        (
            replace(record(started=Started(NOON - SECOND, NOON)), attempt=1, claimable_at=NOON + 8 * SECOND),
            "attempt 2 in 8 s",
        ),
        (record(schedule=Once(NOON - 9 * SECOND)), "due 9 s ago (12:59:51 IST)"),
    ],
)
def test_what_is_not_simply_scheduled_says_so(home, next_is):
    assert any(next_is in row for row in drawn(picture(view(home))))


def test_a_one_off_whose_time_had_passed_is_late_from_when_it_was_scheduled():
    long_ago = NOON - 700 * 24 * 3600 * SECOND
    summary = ran(last_scheduled_at=long_ago, last_started_at=NOON + SECOND)

    assert view(record(schedule=Once(long_ago), summary=summary)).late == SECOND


def test_lateness_is_that_of_the_last_run_also_after_an_edit():
    edited = replace(record(summary=ran()), schedule_since=NOON)

    assert view(edited).late == 4000


def test_a_running_task_shows_how_many_run_and_when_the_next_begins():
    lease = Lease("l", "me", NOON + 60 * SECOND)
    home = replace(record(), due_at=NOON, attempt=1, began_at=NOON, lease=lease)
    beside = replace(edits.on_demand(home, Policies(), "x", NOON), lease=lease)

    shown = view(home, beside)

    assert shown.running == 2
    assert shown.next_at == NOON + 300 * SECOND


def test_the_latest_lines_fill_what_the_table_leaves():
    rows = drawn(picture(view(record())), said(100), height=20)

    assert len(rows) <= 20
    assert rows[-1].endswith("line 99") or rows[-2].endswith("line 99")
    assert any(row.endswith("line 90") for row in rows)


def test_more_tasks_than_fit_leave_room_for_lines_and_say_how_many_are_left_out():
    views = [view(record(f"task-{number}")) for number in range(100)]
    failing = view(record("failing", summary=ran(Outcome.FAILED, consecutive_failures=2)))

    rows = drawn(picture(*views, failing), said(100), height=30)

    assert len(rows) <= 30
    assert any(row.startswith("failing") for row in rows)
    assert any("more, which `pyncette tasks` lists" in row for row in rows)
    assert sum("line " in row for row in rows) >= 5


def test_more_problems_than_fit_are_counted():
    rows = drawn(picture(problems=tuple(f"a.yaml:{line}:1: wrong" for line in range(50))), said(10))

    assert "and 42 more" in rows
    assert any("line 9" in row for row in rows)


def test_a_narrow_terminal_shows_what_matters_most():
    rows = drawn(picture(view(record(summary=ran()))), width=80)

    assert "in 5 min (13:05:00 IST)" in "".join(rows)
    assert "succeeded" in "".join(rows)
    assert max(map(len, rows)) <= 80


@pytest.mark.parametrize("width", [30, 50, 60, 80])
def test_the_table_fits_a_narrow_terminal_and_cuts_no_time_in_half(width):
    views = [view(record(f"nightly-report-{number}", summary=ran())) for number in range(8)]

    rows = drawn(picture(*views), width=width)

    (head,) = [row for row in rows if row.startswith("TASK"[: width // 10])]
    assert max(map(len, [head, *rows])) <= width
    if width >= 60:
        assert "RUNNING" in head
        assert all(
            re.search("in 5 min( [(]13:05:00 IST[)])?  ", row) for row in rows if row.startswith("nightly")
        )


@pytest.mark.parametrize("width", [80, 120])
def test_names_of_tasks_are_cut_last(width):
    long = Counts(succeeded=1234, failed=10, missed=16, withdrawn=2)
    views = [view(record(f"nightly-report-{number}", summary=ran(counts=long))) for number in range(8)]

    rows = drawn(picture(*views), width=width)

    for number in range(8):
        (row,) = [row for row in rows if row.startswith(f"nightly-report-{number} ")]
        assert "in 5 min (13:05:00 IST)" in row
        assert len(row) <= width


# --- None ------------------------------------------------------------------------------------------------------------


def plain(*shown):
    stream = io.StringIO()
    screen = PlainScreen(stream)
    for item in shown:
        screen.line(item) if isinstance(item, Line) else screen.draw(item)
    return stream.getvalue().splitlines()


def test_each_thing_is_said_once():
    same = picture(view(record()), problems=("a.yaml:1:1: wrong",), notes=("passed over",))

    assert plain(same, same) == [
        "pyncette: jobs; running",
        "problem: a.yaml:1:1: wrong",
        "note: passed over",
        "task: hello: */5 * * * * Europe/Dublin, next in 5 min (13:05:00 IST)",
    ]


def test_a_fixed_problem_is_printed():
    assert plain(picture(problems=("wrong",)), picture())[-1] == "fixed: wrong"


def test_a_task_is_reported_again_when_what_is_wanted_changes_and_not_when_it_runs():
    going = view(record(summary=ran()))
    edited = view(record(schedule=Cron("0 12 * * *")))

    lines = plain(picture(view(record())), picture(going), picture(edited))

    assert [line for line in lines if line.startswith("task")][1:] == [
        "task: hello: 0 12 * * *, next in 1 d (2024-07-02 13:00:00 IST)"
    ]


def test_very_many_tasks_are_counted():
    lines = plain(picture(*(view(record(f"task-{number}")) for number in range(150))))

    assert len(lines) == 102
    assert lines[-1] == "and 50 more tasks, which `pyncette tasks` lists"


def test_lines_carry_their_time_and_what_is_no_information_its_level():
    assert plain(Line(AT_NOON, "hello"), Line(AT_NOON, "no luck", "ERROR")) == [
        "12:00:00 hello",
        "12:00:00 ERROR no luck",
    ]


def test_neither_screen_hands_on_what_a_terminal_obeys():
    shown = picture(view(record(HOSTILE)), problems=(HOSTILE,), notes=(HOSTILE,))._replace(title=HOSTILE)
    stream = io.StringIO()
    screen = PlainScreen(stream)
    screen.line(Line(AT_NOON, HOSTILE))
    screen.draw(shown)

    for lines in (drawn(shown, [Line(AT_NOON, HOSTILE)]), stream.getvalue().splitlines()):
        assert all(line.isprintable() for line in lines)
        assert sum(r"no\r\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b2J\u202eend" in line for line in lines) >= 4
