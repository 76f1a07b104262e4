"""A log line is a sentence with fields beside it, for people or for programs."""

import asyncio
import datetime
import io
import json
import logging
from contextlib import contextmanager

import pytest

from pyncette import Pyncette
from pyncette.errors import ConfigurationError
from pyncette.store.memory import MemoryStore
from pyncette.telemetry.logs import JsonFormatter, TextFormatter, set_up_logging
from pyncette.testing.clock import VirtualClock


def record(message="lease lost", *args, error=None, **extra):
    info = (type(error), error, error.__traceback__) if error else None
    made = logging.makeLogRecord(
        {"name": "pyncette.worker", "levelno": 30, "levelname": "WARNING", "msg": message, "args": args}
    )
    made.exc_info = info
    made.created = 1_700_000_000.25
    vars(made).update(extra)
    return made


def told(made):
    return json.loads(JsonFormatter().format(made))


def test_a_json_line_has_the_sentence_and_its_fields():
    line = told(record("lease of %s lost", "report", task="report", attempt=2))

    assert line == {
        "time": "2023-11-14T22:13:20.250000Z",
        "level": "warning",
        "logger": "pyncette.worker",
        "message": "lease of report lost",
        "task": "report",
        "attempt": 2,
    }


def test_an_instant_is_formatted_as_a_time():
    assert told(record(scheduled_at=1_700_000_000_000_000))["scheduled_at"] == "2023-11-14T22:13:20.000000Z"


def test_an_empty_field_is_left_out():
    assert "instance" not in told(record(instance=""))


def test_a_field_cannot_hide_the_time_or_the_level():
    assert told(record(level="forged", time="never"))["level"] == "warning"


def test_a_value_that_is_not_json_is_formatted_as_text():
    assert told(record(path=ValueError("odd")))["path"] == "odd"


def test_a_traceback_comes_along_in_one_line():
    try:
        raise ValueError("no such user")
    except ValueError as error:
        text = JsonFormatter().format(record("the handler failed", error=error))

    assert "\n" not in text
    assert json.loads(text)["traceback"].endswith("ValueError: no such user")


def test_a_text_line_puts_the_fields_after_the_sentence():
    line = TextFormatter().format(record(task="report", message_of="a b"))

    assert line.endswith('.250 WARNING pyncette.worker: lease lost  task=report message_of="a b"')


HOSTILE = "no\n12:00:00.000 ERROR   pyncette.worker: forged\r\x1b]52;c;cm0gLXJm\x07\x9b2J\u202e\u2028end"


def test_a_text_line_stays_one_line_whatever_its_message_and_its_fields_hold():
    line = TextFormatter().format(record("failed: %s", HOSTILE, task=HOSTILE, worker="a\x1b[2J"))

    assert line.isprintable()
    assert r"failed: no\n12:00:00.000 ERROR" in line
    assert r'task="no\n12:00' in line
    assert r"worker=a\x1b[2J" in line


def test_no_line_of_a_traceback_can_be_taken_for_a_record():
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        first, *others = TextFormatter().format(record("the handler failed", error=error)).split("\n")

    assert first.endswith("the handler failed")
    assert len(others) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_a_json_line_has_no_control_character_and_loses_nothing():
    text = JsonFormatter().format(record("failed: %s", HOSTILE, task=HOSTILE))

    assert text.isprintable()
    assert json.loads(text)["task"] == HOSTILE


async def test_a_log_line_of_a_handler_has_the_fields_of_its_run():
    lines = []
    app = Pyncette()

    @app.dynamic_task()
    async def report(context):
        await asyncio.gather(note(context.run_id))  # in a task of its own, too

    async def note(run_id):
        lines.append((run_id, told(record("sent")), TextFormatter().format(record("sent"))))

    clock = VirtualClock()
    async with app.create(clock=clock, new_store=MemoryStore) as context:
        running = asyncio.create_task(context.run())
        await context.schedule_task(report, "daily", execute_at=clock.utc)
        await clock.advance(datetime.timedelta(seconds=1))
        context.shutdown()
        await running

    ((run_id, line, text),) = lines
    assert (line["task"], line["instance"], line["run_id"]) == ("report", "daily", run_id)
    assert text.endswith("sent  task=report/daily")


@contextmanager
def bare_root():
    """The root logger as a program finds it that has set up nothing; pytest hangs its own handlers there for each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield root
    root.handlers[:], root.level = handlers, level


def test_logs_go_to_the_stream_in_the_format_asked_for():
    stream = io.StringIO()

    with bare_root():
        set_up_logging("json", "info", stream)
        logging.getLogger("mine").info("hello", extra={"n": 1})
        logging.getLogger("mine").debug("unheard")

    assert json.loads(stream.getvalue())["message"] == "hello"


def test_the_logging_of_a_program_that_set_it_up_is_left_alone():
    own = logging.NullHandler()

    with bare_root() as root:
        root.addHandler(own)
        set_up_logging("json")
        handlers = root.handlers[:]

    assert handlers == [own]


@pytest.mark.parametrize(("style", "level"), [("xml", "INFO"), ("text", "LOUD")])
def test_an_unknown_format_or_level_is_refused_with_what_there_is(style, level):
    with pytest.raises(ConfigurationError, match=r"unknown log .*: use .*(json|DEBUG)"):
        set_up_logging(style, level)
