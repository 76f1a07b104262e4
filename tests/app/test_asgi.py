"""An app within FastAPI, as docs/how-to/fastapi.md shows it: with uvicorn, on real backends."""

import asyncio
import datetime
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest

from pyncette import Pyncette
from pyncette.asgi import STATE, context_of, lifespan
from pyncette.errors import ConfigurationError, StoreUnavailableError
from pyncette.worker.service import Worker
from tests.app.pages import write_project
from tests.app.servers import SOURCE, serving

UVICORN = ["-m", "uvicorn", "--port", "{port}", "--log-level", "info"]
STOPPED = -signal.SIGTERM
"""When all has ended, uvicorn ends itself by the signal that it was sent."""

EVERY_SECOND = {"text": "stretch", "schedule": "* * * * * *"}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/reminders.sqlite"


@pytest.fixture
def project(tmp_path):
    assert write_project("fastapi.md", tmp_path) == [
        "tasks.py",
        "main.py",
        "test_main.py",
        "with_database.py",
    ]
    return tmp_path


def test_a_reminder_that_is_put_runs_until_it_is_deleted(project, url):
    with serving([*UVICORN, "main:api"], project, url) as server:
        server.wait_until(lambda: server.request("GET", "/readyz")[0] == 200)
        assert server.request("PUT", "/reminders/ada", EVERY_SECOND) == (204, "")
        server.wait_until(lambda: "ada: stretch" in server.output)
        status, text = server.request("GET", "/reminders/ada")
        assert (status, json.loads(text)["text"]) == (200, "stretch")
        assert server.request("DELETE", "/reminders/ada") == (204, "")
        assert server.request("GET", "/reminders/ada")[0] == 404
        status, text = server.request("PUT", "/reminders/bob", {**EVERY_SECOND, "timezone": "Nowhere"})
        assert status == 422
        assert "Invalid timezone specifier" in text
        assert server.stop() == STOPPED


SLOW = """
import asyncio
from tasks import app, remind

@app.middleware
async def slowly(context, run):
    print("begun", flush=True)
    await asyncio.sleep({seconds})
    await run()

from main import api
"""


@pytest.mark.parametrize("seconds", [1.5, 600])
def test_sigterm_lets_a_handler_finish_within_the_grace_and_releases_it_afterwards(project, url, seconds):
    project.joinpath("main.py").write_text(
        project.joinpath("main.py").read_text().replace("seconds=20", "seconds=4")
    )
    project.joinpath("slow.py").write_text(SLOW.format(seconds=seconds))

    with serving([*UVICORN, "slow:api"], project, url) as server:
        server.wait_until(lambda: server.request("GET", "/readyz")[0] == 200)
        server.request("PUT", "/reminders/ada", EVERY_SECOND)
        server.wait_until(lambda: "begun" in server.output)
        code = server.stop()

    assert code == STOPPED, server.output
    assert ("ada: stretch" in server.output) == (seconds < 4)
    assert "Application shutdown complete" in server.output


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("postgresql://nobody@127.0.0.1:1/nothing", "StoreUnavailableError"),
        ("nonsense://", "ConfigurationError"),
    ],
)
def test_a_program_whose_backend_cannot_be_used_does_not_start(project, backend, message):
    with serving([*UVICORN, "main:api"], project, backend) as server:
        assert server.process.wait(60) == 3

    assert message in server.output
    assert "Application startup failed" in server.output


def test_the_test_of_the_page_passes(project):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "asyncio_mode=auto",
            "test_main.py",
        ],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )

    assert "1 passed" in done.stdout, done.stdout


def test_a_lifespan_of_the_user_is_around_that_of_the_app(project, url):
    program = "from with_database import api, app, events\n\n@app.fixture()\nasync def note(context):\n"
    program += "    events.append('the app has started')\n    yield\n    print(events, flush=True)\n"
    project.joinpath("noted.py").write_text(program)

    with serving([*UVICORN, "noted:api"], project, url) as server:
        server.wait_until(lambda: server.request("GET", "/") == (200, '"a pool of connections"'))
        assert server.stop() == STOPPED

    assert "['the database is open', 'the app has started']\n" in server.output


# --- Without a server ----------------------------------------------------------------------------------------------------


async def test_without_run_it_only_schedules():
    app, ran = Pyncette(), []

    @app.dynamic_task()
    async def remind(context):
        ran.append(context.task.name)

    async with lifespan(app, run=False)(None) as state:
        await state[STATE].schedule_task(remind, "ada", execute_at=datetime.datetime.now(datetime.UTC))
        assert not state[STATE].ready
        assert await state[STATE].get_task(remind, "ada") is not None
    assert ran == []


async def test_it_starts_with_its_fixtures_and_ends_with_them():
    app, events = Pyncette(), []

    @app.fixture()
    async def database(context):
        events.append("open")
        yield "a pool"
        events.append("closed")

    async with lifespan(app)(None) as state:
        assert events == ["open"]
        assert state[STATE].database == "a pool"
    assert events == ["open", "closed"]


async def test_a_fixture_that_fails_keeps_the_program_from_starting():
    app = Pyncette()

    @app.fixture()
    async def database(context):
        raise ValueError("no such database")
        yield

    with pytest.raises(ValueError, match="no such database"):
        async with lifespan(app)(None):
            raise AssertionError("it must not start")


async def test_a_start_that_is_cancelled_does_not_wait_for_a_fixture_that_hangs():
    app, events = Pyncette(), []

    @app.fixture()
    async def database(context):
        events.append("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            events.append("cancelled")
        yield

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), lifespan(app)(None):
            raise AssertionError("it must not start")
    assert events == ["begun", "cancelled"]


async def test_an_app_that_ends_early_is_reported_at_once_and_raises_at_the_end(caplog, monkeypatch):
    app = Pyncette()

    async def broken(worker):
        await asyncio.sleep(0.01)
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(Worker, "run", broken)
    serving = lifespan(app)(None)
    await serving.__aenter__()
    await asyncio.sleep(0.1)

    (record,) = caplog.records
    assert record.message == "the app has ended: this process runs no more tasks"
    assert "gone" in caplog.text
    with pytest.raises(StoreUnavailableError, match="gone"):
        await serving.__aexit__(None, None, None)


async def test_the_state_of_the_user_is_kept():
    @asynccontextmanager
    async def own(program):
        yield {"database": program}

    async with lifespan(Pyncette(), within=own)("the program") as state:
        assert state["database"] == "the program"
        assert set(state) == {"database", STATE}


async def test_a_backend_that_is_misconfigured_closes_what_the_user_has_opened():
    events = []

    @asynccontextmanager
    async def own(program):
        events.append("open")
        try:
            yield
        finally:
            events.append("closed")

    app = Pyncette(sqlite_table_name="No Name")
    with pytest.raises(ConfigurationError):
        async with lifespan(app, within=own)(None):
            pass
    assert events == ["open", "closed"]


def test_a_request_without_the_lifespan_is_an_error_that_says_what_to_write():
    class Request:
        state = object()

    with pytest.raises(RuntimeError, match=r"pass lifespan=pyncette\.asgi\.lifespan\(app\)"):
        context_of(Request)


def test_it_imports_nothing_of_starlette():
    program = "import sys, pyncette.asgi; print([name for name in sys.modules if name.startswith(('starlette', 'fastapi'))])"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown == "[]\n"
