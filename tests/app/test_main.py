"""`app.main()` in a process of its own: signals, exit codes, what is said."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyncette.app.process import Signals

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import asyncio, datetime, os, sys, time
from pyncette import Pyncette
from pyncette.store.memory import MemoryStore

app = Pyncette(lambda: MemoryStore())

@app.fixture()
async def database(app_context):
    print("up", flush=True)
    yield
    print("down", flush=True)

@app.task(interval=datetime.timedelta(milliseconds=50))
async def work(context):
    print("begins", type(asyncio.get_running_loop()).__module__, flush=True)
    try:
        if os.environ.get("BLOCKS"):
            time.sleep(float(os.environ["TAKES"]))
        await asyncio.sleep(float(os.environ.get("TAKES", 0)))
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
    print("ends", flush=True)

if __name__ == "__main__":
    app.main()
    print("left", flush=True)
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start(module=MODULE, **environment):
        path = tmp_path / "tasks.py"
        path.write_text(module)
        process = subprocess.Popen(
            [sys.executable, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "operator"), **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def read_until(process, word):
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if word in line:
            return lines
    raise AssertionError(f"no {word!r} in {lines}\n{process.stderr.read()}")


def end_of(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out.split("\n"), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(start, number):
    process = start(TAKES="0.5")
    assert read_until(process, "begins")[0] == "up"

    process.send_signal(number)
    code, out, err = end_of(process)

    assert code == 0
    assert out == ["ends", "down", "left", ""]
    assert f"{signal.Signals(number).name}: draining; no more tasks are claimed" in err


def test_a_sigterm_that_is_sent_twice_drains(start):
    process = start(TAKES="1")
    read_until(process, "begins")

    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, out, err = end_of(process)

    assert code == 0
    assert out == ["ends", "down", "left", ""]
    assert "ended" in err.splitlines()[-1]
    assert "ended immediately" not in err


def test_only_a_sigterm_soon_after_another_one_is_repeated():
    times = iter([0.0, 0.4, 0.6, 0.7, 2.0])
    signals = Signals(lambda: next(times))

    assert [signals.is_repeated(signal.SIGTERM) for _ in range(5)] == [False, True, False, True, False]
    assert [signals.is_repeated(signal.SIGINT) for _ in range(2)] == [False, False]


@pytest.mark.parametrize(("number", "pause"), [(signal.SIGINT, 0.2), (signal.SIGTERM, 0.7)])
def test_the_second_signal_cancels_what_runs(start, number, pause):
    process = start(TAKES="60")
    read_until(process, "begins")

    process.send_signal(number)
    time.sleep(pause)
    process.send_signal(number)
    code, out, err = end_of(process)

    assert code == 130
    assert out == ["cancelled", "down", ""]
    assert "Traceback" not in err


def test_the_second_signal_ends_a_handler_that_blocks(start):
    process = start(TAKES="60", BLOCKS="1")
    read_until(process, "begins")

    process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _, err = end_of(process)

    assert code == 130
    assert time.monotonic() - began < 5
    assert "ended immediately" in err


@pytest.mark.parametrize(("choice", "loop"), [("0", "asyncio"), ("1", "uvloop"), (None, "uvloop")])
def test_uvloop_is_used_unless_it_is_switched_off(start, choice, loop):
    process = start(**({} if choice is None else {"USE_UVLOOP": choice}))

    assert loop in read_until(process, "begins")[-1]


def test_the_log_level_is_taken_from_the_environment(start):
    process = start(LOG_LEVEL="ERROR")
    read_until(process, "begins")
    process.send_signal(signal.SIGTERM)

    code, _, err = end_of(process)

    assert (code, err) == (0, "")


def test_a_log_level_that_there_is_not_is_named(start):
    code, _, err = end_of(start(LOG_LEVEL="LOUD"))

    assert code == 1
    assert err.startswith("pyncette: unknown log level 'LOUD'")


BAD = """
import datetime
from pyncette import Pyncette
from pyncette.postgres import postgres_repository

app = Pyncette(postgres_repository, {configuration})

@app.task(interval=datetime.timedelta(seconds=1))
async def work(context):
    pass

app.main()
"""


@pytest.mark.parametrize(
    ("configuration", "sentence"),
    [
        ("", "needs postgres_url"),
        ("postgres_url='postgresql://u:secret@127.0.0.1:1/db'", "127.0.0.1"),
        ("postgres_url='postgresql://127.0.0.1:1/db', postgres_table_name='A'", "postgres_table_name"),
    ],
)
def test_an_error_at_the_start_is_one_sentence_without_a_password(start, configuration, sentence):
    code, _, err = end_of(start(BAD.replace("{configuration}", configuration)))

    assert code == 1
    assert "Traceback" not in err
    assert "secret" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("pyncette: ")]
    assert sentence in line
