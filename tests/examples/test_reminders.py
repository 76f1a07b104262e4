"""The example reminders/, run by the commands that its README and its guide give, to the letter."""

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.servers import machine

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "reminders"
README = EXAMPLE / "README.md"
GUIDE = ROOT / "docs" / "how-to" / "per-user-schedules.md"

UNTIL_CTRL_C = "# until ctrl-C"
RUNS = "running a worker|running handlers"

A_WHILE_SECONDS = 1.0
"""That a worker runs before somebody ends it."""

LEASE_SECONDS = 60
RETRIES_SECONDS = 20
"""Until what a killed worker held is free, and what was to be tried again has been."""

END_SECONDS_MAX = 60
COMMAND_SECONDS_MAX = 1800
"""A message takes some milliseconds on a slow machine, whoever scheduled it; there are 100,000 of them in a day."""


class Reader:
    """Does what the README says, in what looks like the root of a repository that nobody has worked in yet."""

    def __init__(self, folder: Path, **environment: str) -> None:
        for entry in ROOT.iterdir():
            if entry.name != ".pyncette":
                (folder / entry.name).symlink_to(entry)
        self.folder = folder
        self.data = folder / ".pyncette" / "reminders"
        smtp = f"127.0.0.1:{machine.free_port()}"
        # As in a shell of its own: a make around the tests hands its flags and variables down.
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAKE", "MFLAGS", "ARGS"))
        }
        self.environment = {**ours, "REMINDERS_SMTP": smtp, **environment}

    def run(self, command: str, *, fails: bool = False, seconds: float = A_WHILE_SECONDS) -> str:
        """Run a command to its end, or for some *seconds* if it says that ctrl-C ends it; return what it printed."""
        if command.endswith(UNTIL_CTRL_C):
            return self._run_until_ctrl_c(command, seconds)
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, timeout=COMMAND_SECONDS_MAX,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == fails, f"{command}\n{done.stdout}"
        return done.stdout

    def rows(self, database: str, statement: str) -> list:
        with closing(sqlite3.connect(self.data / database, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    @contextmanager
    def running(self, command: str, until: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs and has printed a line that says so; whatever happens, it does not outlive the block."""
        program = subprocess.Popen(
            f"exec env {command}", shell=True, cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert program.stdout is not None
        try:
            printed = []
            for line in program.stdout:
                printed.append(line)
                if re.search(until, line):
                    break
            else:
                pytest.fail(f"{command} ended too soon\n{''.join(printed)}")
            yield program
        finally:
            program.kill()
            program.communicate()

    def _run_until_ctrl_c(self, command: str, seconds: float) -> str:
        with self.running(command, RUNS) as program:
            time.sleep(seconds)
            program.send_signal(signal.SIGINT)
            printed, _ = program.communicate(timeout=END_SECONDS_MAX)
            assert program.returncode == 0, f"{command}\n{printed}"
            return printed


def blocks(page: Path, language: str) -> list[str]:
    """What stands in the fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def accounted(printed: str) -> dict[str, int]:
    """The numbers of an account."""
    words = "reminders were due|came,|came a second time|were refused|are on their way|reports were written|are scheduled|faults"
    found = re.findall(rf"^ +([\d,]+)  .*?({words})", printed, re.MULTILINE)
    return {word: int(number.replace(",", "")) for number, word in found}


A_DAY, REAL_TIME, A_WORKER, ANOTHER_WORKER, ON_POSTGRESQL, A_MILLION = (
    block.splitlines() for block in blocks(README, "shell")
)
FEW = "500"
"""People of a day that is over in seconds."""


def check_that_a_day_is_as_it_should_be(reader: Reader, printed: str) -> None:
    account = accounted(printed)
    assert account["faults"] == 0
    assert account["came,"] > 0.8 * int(reader.environment["REMINDERS_PEOPLE"])
    assert account["reminders were due"] == sum(
        account[word] for word in ("came,", "were refused", "are on their way")
    )

    preferences = {
        row[0]: row[1:]
        for row in reader.rows("service.sqlite", "SELECT address, zone, remind_at FROM people")
    }
    messages = reader.rows("mailbox.sqlite", "SELECT message_id, recipient, date, content FROM messages")
    assert len(messages) == len({message_id for message_id, *_ in messages}) == account["came,"]
    for _, address, dated, content in messages:
        zone, remind_at = preferences[address]
        due = parsedate_to_datetime(dated)
        assert f"{due:%H:%M:%S}" == (remind_at if exists(due.date(), remind_at, zone) else f"{due:%H}:00:00")
        assert due.utcoffset() == due.astimezone(ZoneInfo(zone)).utcoffset()
        assert f"It is {due:%H:%M} in {zone}." in content.decode()
    greylisted = [address for _, address, *_ in messages if address.endswith("@greylisting.example")]
    assert greylisted
    assert not any(address.endswith("@gone.example") for _, address, *_ in messages)


def exists(day: date, time: str, zone: str) -> bool:
    """Whether clocks in a zone show a time on a day; if not, a change of clocks leaves it out."""
    wall = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=ZoneInfo(zone))
    return wall.astimezone(UTC).astimezone(ZoneInfo(zone)).timetz() == wall.timetz()


def check_that_reports_say_what_people_did(reader: Reader) -> None:
    reports = reader.rows("service.sqlite", "SELECT person_id, week, text FROM reports")
    done = dict(
        reader.rows(
            "service.sqlite",
            "SELECT person_id, count(*) FROM check_ins JOIN habits ON habits.id = habit_id"
            " WHERE day BETWEEN '2026-10-19' AND '2026-10-25' GROUP BY person_id",
        )
    )
    assert reports
    for person_id, week, text in reports:
        assert week == "2026-W43"
        assert text.count("#") == done.get(person_id, 0)


def test_in_a_simulated_day_everyone_is_reminded_once_at_their_own_time(tmp_path):
    reader = Reader(tmp_path, REMINDERS_PEOPLE=FEW)

    (printed,) = [reader.run(command) for command in A_DAY]

    check_that_a_day_is_as_it_should_be(reader, printed)
    check_that_reports_say_what_people_did(reader)


@pytest.mark.long
@pytest.mark.timeout(COMMAND_SECONDS_MAX)
def test_in_a_simulated_day_100_000_people_are_reminded_once_at_their_own_time(tmp_path):
    reader = Reader(tmp_path, REMINDERS_PEOPLE="100000")

    (printed,) = [reader.run(command) for command in A_DAY]

    check_that_a_day_is_as_it_should_be(reader, printed)
    check_that_reports_say_what_people_did(reader)


def test_100_000_people_are_scheduled_a_thousand_change_their_minds_and_workers_come_and_go(tmp_path):
    reader = Reader(tmp_path)

    signed_up, rush, moved, seen, _, account = [reader.run(command) for command in REAL_TIME]
    assert "100,000 people" in signed_up
    assert "1,000 people have just chosen" in rush
    assert "person 17 lives in Asia/Tokyo now" in moved
    assert "Asia/Tokyo" in seen
    numbers = accounted(account)
    assert numbers["faults"] == 0
    assert numbers["reminders were due"] >= 998  # who moved and who left may be of the thousand
    assert numbers["came,"] >= 970
    assert 99_000 < numbers["are scheduled"] < 100_000

    for command in A_WORKER + ANOTHER_WORKER:
        reader.run(command)

    # The account itself: a message that is lost and one that comes twice do not escape it.
    ((lost,), (twice,)) = reader.rows(
        "mailbox.sqlite",
        "SELECT recipient FROM messages WHERE recipient NOT LIKE 'person17@%' AND recipient NOT LIKE 'person18@%'"
        " ORDER BY number DESC LIMIT 2",
    )
    reader.rows("mailbox.sqlite", f"DELETE FROM messages WHERE recipient = '{lost}'")
    reader.rows(
        "mailbox.sqlite",
        "INSERT INTO messages (message_id, recipient, date, content)"
        f" SELECT '<another@habits.example>', recipient, date, content FROM messages WHERE recipient = '{twice}'",
    )

    printed = reader.run(REAL_TIME[-1], fails=True)

    assert f"{lost} was not reminded" in printed
    assert f"{twice} was reminded 2 times" in printed


@pytest.mark.long
@pytest.mark.timeout(COMMAND_SECONDS_MAX)
def test_a_worker_that_is_killed_in_mid_rush_loses_no_reminder_and_repeats_none_under_another_id(tmp_path):
    reader = Reader(tmp_path, REMINDERS_PEOPLE="5000")
    sign_up, rush, *_, account = REAL_TIME
    reader.run(sign_up)

    with reader.running(rush, until=" sent ") as program:
        program.kill()
    (worker,) = A_WORKER
    reader.run(worker, seconds=LEASE_SECONDS + RETRIES_SECONDS)

    numbers = accounted(reader.run(account))
    assert numbers["faults"] == 0
    assert numbers["reminders were due"] >= 1000
    assert numbers["came,"] >= 970  # the others were refused, or are asked for a third try
    assert numbers["came a second time"] < 200  # what one worker has in its hands at once, at most


def test_on_postgresql_it_is_the_same(tmp_path, postgres_url):
    reader = Reader(tmp_path, REMINDERS_PEOPLE=FEW, PYNCETTE_BACKEND=postgres_url)
    export, day = ON_POSTGRESQL
    assert export.startswith("export PYNCETTE_BACKEND=postgresql://")

    printed = reader.run(day)

    check_that_a_day_is_as_it_should_be(reader, printed)


def test_the_commands_for_a_million_do_on_redis_what_they_say(tmp_path, redis_url):
    export, sign_up, rush, account = A_MILLION
    assert "PYNCETTE_BACKEND=postgresql://" in export
    assert "REMINDERS_PEOPLE=1000000" in export
    reader = Reader(tmp_path, REMINDERS_PEOPLE="1500", PYNCETTE_BACKEND=redis_url)

    reader.run(sign_up)
    reader.run(rush)

    numbers = accounted(reader.run(account))
    assert numbers["faults"] == 0
    assert numbers["reminders were due"] >= 1000


def test_the_guide_shows_code_and_commands_of_the_example_alone():
    code = [path.read_text() for path in EXAMPLE.glob("*.py")]
    shown = blocks(GUIDE, "python")
    assert shown

    for block in shown:
        assert any(block.strip() in text for text in code), block
    assert {*blocks(GUIDE, "shell")} <= {*blocks(README, "shell")}
