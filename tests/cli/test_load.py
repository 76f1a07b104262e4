"""Instances that stand in a file are scheduled, line by line, and an interruption costs nothing."""

import json
import re
import signal
import time

import pytest

from pyncette.core.record import Key, Partition
from pyncette.store.backend import read_backend
from tests.cli import Program, TaskFolder, called

MODULE = """
    from pyncette import Pyncette

    app = Pyncette()

    @app.dynamic_task()
    async def remind(context): ...

    @app.task(schedule="* * * * *")
    async def sweep(context): ...
"""

MANY = 100_000
"""Some seconds of work, so that it can be interrupted near its beginning."""


NOTE = ".users.jsonl.pyncette-load"


@pytest.fixture
def folder(tmp_path):
    return TaskFolder(tmp_path).write("tasks.py", MODULE)


def load(folder, *args, task="remind", backend="sqlite:///tasks.db"):
    return called("load", "tasks", task, "users.jsonl", *args, cwd=folder.path, PYNCETTE_BACKEND=backend)


def interrupt_in_the_middle(folder):
    """Load, and end that by ctrl-C once the first few thousand instances are written."""
    written = folder / "tasks.db-wal"
    command = ("load", "tasks", "remind", "users.jsonl")
    with Program(*command, cwd=folder.path, PYNCETTE_BACKEND="sqlite:///tasks.db") as program:
        deadline = time.monotonic() + 30
        while not (written.exists() and written.stat().st_size > 2**20) and time.monotonic() < deadline:
            time.sleep(0.005)
        program.signal(signal.SIGINT)
        assert program.ended() == 130, program.output
        assert re.search(r"interrupted after line [\d,]+; run the same command to continue", program.output)


async def names_of(folder):
    """The instances that there are."""
    async with read_backend(f"sqlite:///{folder / 'tasks.db'}").new_store(create=False) as store:
        names, after = [], None
        while records := await store.scan(Partition("", "remind"), "remind", after, 1_000):
            names += [record.key.instance for record in records if record.key.instance]
            after = records[-1].key
    return names


def test_each_line_becomes_an_instance(folder):
    folder.write(
        "users.jsonl",
        """
        {"name": "ada", "schedule": "0 8 * * *", "timezone": "Asia/Tokyo", "args": {"id": 1}}
        {"name": "ben", "interval_seconds": 3600.5}

        {"name": "cyd", "execute_at": "2099-01-31T08:00:00+01:00"}
        """,
    )

    code, output = load(folder, "--output", "json")

    assert (code, json.loads(output)) == (0, {"scheduled": 3, "refused": 0})
    code, output = called(
        "tasks", "remind/ada", "--output", "json", cwd=folder.path, PYNCETTE_BACKEND="sqlite:///tasks.db"
    )
    ada = json.loads(output)
    assert (ada["schedule"], ada["timeZone"], ada["args"]) == ("0 8 * * *", "Asia/Tokyo", {"id": 1})


async def test_the_arguments_of_a_line_may_have_any_name_in_an_app_with_safe_defaults(folder):
    typed = MODULE.replace("Pyncette()", 'Pyncette(defaults="safe")').replace(
        "(context)", "(context, name: str)", 1
    )
    folder.write("tasks.py", typed)
    folder.write(
        "users.jsonl",
        """
        {"name": "ada", "interval_seconds": 60, "args": {"name": "Ada"}}
        {"name": "ben", "interval_seconds": 60, "args": {"name": 3}}
        """,
    )

    code, output = load(folder)

    assert code == 1
    assert "users.jsonl:2: the argument name is invalid: input should be a valid string, not 3" in output
    async with read_backend(f"sqlite:///{folder / 'tasks.db'}").new_store(create=False) as store:
        (record,) = await store.load([Key(Partition("", "remind"), "remind", "ada")])
    assert bytes(record.spec.args) == b'{"name":"Ada"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"name": "ada", "cron": "0 8 * * *"}', "unknown field cron; the fields are name, and schedule"),
        ('{"name": "ada", "interval": 3}', "unknown field interval; did you mean interval_seconds?"),
        ('{"name": 3, "interval_seconds": 3}', 'name must be text, as in "ada"'),
        ('{"name": "ada", "interval_seconds": "x"}', "interval_seconds must be a number, as in 3600"),
        ('{"name": "ada", "execute_at": "soon"}', "execute_at must be a time with its offset from UTC"),
        ("[1]", 'write an object, as in {"name": "ada"'),
        ('{"schedule": "0 8 * * *"}', "name is missing; the fields are"),
        ('{"name": "ada", "schedule": "61 8 * * *"}', "out of range"),
        ('{"name": "ada", "schedule": "0 8 * * *", "timezone": "Asia/Tokio"}', "did you mean Asia/Tokyo?"),
        ('{"name": "ada"}', "schedule"),
        ('{"name": "ada", "interval_seconds": 0}', "interval"),
        ('{"name": "ada", "interval_seconds": 1e300}', "interval_seconds is too large"),
        ('{"name": "ada", "execute_at": "2099-01-31T08:00:00"}', "execute_at needs a UTC offset"),
        (
            '{"name": "ada", "interval_seconds": 1, "args": {"schedule": 1}}',
            "cannot have the name of a task option: schedule",
        ),
        ('{"name": ""}', "must be a non-empty string"),
        ("not JSON", "JSON is malformed"),
    ],
)
def test_an_invalid_line_is_reported_with_its_number_and_skipped(folder, line, said):
    good = ['{"name": "ben", "interval_seconds": 60}', '{"name": "cyd", "interval_seconds": 60}']
    folder.write("users.jsonl", "\n".join([good[0], line, good[1]]))

    code, output = load(folder)

    assert code == 1
    assert "2 scheduled, 1 refused" in output
    (told,) = re.findall(r"users.jsonl:2: (.*)", output)
    assert said in told
    assert "Traceback" not in output


async def test_an_interrupted_load_continues_and_schedules_each_instance_once(folder):
    lines = (f'{{"name": "u{number}", "interval_seconds": 3600}}' for number in range(MANY))
    folder.write("users.jsonl", "\n".join(lines))
    interrupt_in_the_middle(folder)

    code, output = load(folder, "--output", "json")

    (line,) = re.findall(r"continuing after line ([\d,]+)", output)
    assert 0 < int(line.replace(",", "")) < MANY
    assert code == 0
    assert json.loads(output[output.index("{") :]) == {"scheduled": MANY, "refused": 0}
    assert sorted(await names_of(folder)) == sorted(f"u{number}" for number in range(MANY))
    assert not (folder / NOTE).exists()


def test_a_note_about_another_file_or_another_task_is_not_gone_on_from(folder):
    folder.write("users.jsonl", '{"name": "ada", "interval_seconds": 60}')
    (folder / NOTE).write_text('["of another load",[40,1,1,0]]')

    code, output = load(folder)

    assert code == 0
    assert "1 scheduled, 0 refused" in output
    assert "going on" not in output


@pytest.mark.parametrize(
    ("task", "backend", "said"),
    [
        ("sweep", "sqlite:///tasks.db", "task sweep is not a dynamic task; dynamic tasks: remind"),
        ("remnd", "sqlite:///tasks.db", "task remnd not found in the module; dynamic tasks: remind"),
        ("remind", "sqlite://", "is lost when this process ends: use a file or a server"),
        ("remind", "postgresql://ada:hunter2@127.0.0.1:1/db", "127.0.0.1:1"),
    ],
)
def test_an_invalid_target_of_a_load_is_reported_in_one_sentence(folder, task, backend, said):
    folder.write("users.jsonl", '{"name": "ada", "interval_seconds": 60}')

    code, output = load(folder, task=task, backend=backend)

    assert code in {2, 3}
    assert said in output
    assert "hunter2" not in output
    assert "Traceback" not in output
