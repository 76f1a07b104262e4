"""The example fastapi/: its own tests, its types, its size, and the service on uvicorn and PostgreSQL."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.servers import SOURCE, serving

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fastapi"

LINES_MAX = 150
"""Lines of Python that are not blank, with tests, comments and docstrings."""

UVICORN = ["-m", "uvicorn", "--port", "{port}"]
STOPPED = -signal.SIGTERM
"""When all has ended, uvicorn ends itself by the signal that it was sent."""

REMINDERS = "/users/ada/reminders"
EVERY_SECOND = {"text": "stretch", "schedule": "* * * * * *", "timezone": "Asia/Kolkata"}

SLOW = """
import asyncio
import tasks

send = tasks.send

async def send_slowly(user, text):
    print("begun", flush=True)
    await asyncio.sleep(3)
    await send(user, text)

tasks.send = send_slowly

from main import api
"""


WITHOUT_A_DATABASE = """
import asyncio
from httpx2 import ASGITransport, AsyncClient
from main import api, scheduler
from pyncette.errors import StoreUnavailableError

class Scheduler:
    async def list_tasks(self, *args, **options):
        raise StoreUnavailableError("gone")

async def main():
    api.dependency_overrides[scheduler] = Scheduler
    async with AsyncClient(transport=ASGITransport(api), base_url="http://test") as client:
        print(await client.get("/users/ada/reminders"))

asyncio.run(main())
"""


@pytest.fixture
def project(tmp_path):
    """The example alone, as somebody has copied it."""
    return shutil.copytree(
        EXAMPLE, tmp_path / "service", ignore=shutil.ignore_patterns(".venv", "__pycache__", ".*cache")
    )


@pytest.fixture
def server(project, postgres_url):
    """The service, on PostgreSQL."""
    with serving([*UVICORN, "main:api"], project, postgres_url) as server:
        server.wait_until(lambda: server.request("GET", REMINDERS)[0] == 200)
        yield server
        assert server.stop() == STOPPED, server.output


def run(project, *command):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_its_own_tests_pass(project):
    done = run(project, "pytest", "-q", "-p", "no:cacheprovider")

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[5-9] passed in", done.stdout, re.MULTILINE), done.stdout


def test_its_types_are_right_where_it_was_copied_to(project):
    done = run(project, "mypy", "--strict", ".")

    assert done.stdout == "Success: no issues found in 3 source files\n", done.stdout + done.stderr


def test_it_is_short():
    lines = [line for path in EXAMPLE.glob("*.py") for line in path.read_text().splitlines() if line.strip()]

    assert 0 < len(lines) < LINES_MAX


def test_reminders_are_created_listed_changed_and_deleted_over_http(server):
    status, text = server.request("POST", REMINDERS, EVERY_SECOND)
    created = json.loads(text)
    assert status == 201
    assert created["text"] == "stretch"
    assert [time[-6:] for time in created["next_times"]] == ["+05:30"] * 3
    server.wait_until(lambda: server.output.count("ada: stretch") >= 2)
    (listed,) = json.loads(server.request("GET", REMINDERS)[1])["reminders"]
    assert listed["id"] == created["id"]
    assert listed["next_times"][0] > created["next_times"][0]

    url = f"{REMINDERS}/{created['id']}"
    assert server.request("PUT", url, {**EVERY_SECOND, "text": "swim"})[0] == 200
    server.wait_until(lambda: "ada: swim" in server.output)
    assert server.request("DELETE", url) == (204, "")
    assert server.request("PUT", url, EVERY_SECOND)[0] == 404
    assert server.request("DELETE", url)[0] == 404
    assert json.loads(server.request("GET", REMINDERS)[1])["reminders"] == []


@pytest.mark.parametrize(
    ("method", "path", "changed", "reason"),
    [
        ("POST", REMINDERS, {"schedule": "* * *"}, "3"),
        ("POST", REMINDERS, {"schedule": "H 8 * * *"}, "uses H"),
        ("POST", REMINDERS, {"timezone": "Nowhere"}, "Nowhere"),
        ("POST", REMINDERS, {"text": ""}, "at least 1 character"),
        ("POST", "/users/%00/reminders", {}, "pattern"),
        ("POST", f"/users/{'a' * 65}/reminders", {}, "pattern"),
        ("PUT", f"{REMINDERS}/%00", {}, "pattern"),
        ("GET", f"{REMINDERS}?limit=101", {}, "less than or equal to 100"),
        ("GET", f"{REMINDERS}?page=WzFd", {}, "not a continuation token"),
    ],
)
def test_an_invalid_request_is_refused_with_the_reason(server, method, path, changed, reason):
    status, text = server.request(method, path, None if method == "GET" else {**EVERY_SECOND, **changed})

    assert status == 422, text
    assert reason in text


def test_a_request_is_answered_with_503_while_the_database_is_away(project):
    project.joinpath("away.py").write_text(WITHOUT_A_DATABASE)

    done = run(project, "away")

    assert done.stdout == "<Response [503 Service Unavailable]>\n", done.stderr


def test_sigterm_lets_a_reminder_finish_that_is_on_its_way(project, postgres_url):
    project.joinpath("slow.py").write_text(SLOW)

    with serving([*UVICORN, "slow:api"], project, postgres_url) as server:
        server.wait_until(lambda: server.request("POST", REMINDERS, EVERY_SECOND)[0] == 201)
        server.wait_until(lambda: "begun" in server.output)
        code = server.stop()

    assert code == STOPPED, server.output
    assert server.output.count("begun") == server.output.count("ada: stretch")
    assert "Application shutdown complete" in server.output


def test_the_commands_of_the_readme_create_and_list_a_reminder(server):
    commands = re.findall(r"^curl (?:.*\\\n)*.*", (EXAMPLE / "README.md").read_text(), re.MULTILINE)

    create, listing = (
        subprocess.run(
            f"{command.replace('localhost:8000', f'127.0.0.1:{server.port}')} --silent --show-error --fail",
            shell=True, capture_output=True, text=True, check=True,
        ).stdout
        for command in commands
    )  # fmt: skip

    assert json.loads(create)["id"] in {one["id"] for one in json.loads(listing)["reminders"]}
