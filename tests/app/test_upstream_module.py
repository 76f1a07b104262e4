"""A task module of the old style runs unchanged."""

import ast
import contextlib
import datetime
import importlib.util
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pyncette.testing import VirtualClock
from tests.app.harness import free_port, running, seconds

ROOT = Path(__file__).resolve().parents[2]
MODULE = Path(__file__).with_name("old_module.py")

PUBLIC = {
    "pyncette": {"Pyncette", "Context", "PyncetteContext", "ExecutionMode", "FailureMode", "__version__"},
    "pyncette.errors": {"PyncetteException", "LeaseLostException", "TaskLockedException"},
    "pyncette.model": {
        *("NextFunc", "MiddlewareFunc", "FixtureFunc", "TaskFunc", "PartitionSelector", "TaskState"),
        *("ListTasksResponse", "ContinuationToken", "Lease", "ResultType"),
        *("Context", "ExecutionMode", "FailureMode"),
    },
    "pyncette.task": {"Task", "PartitionedTask"},
    "pyncette.executor": {"DefaultExecutor", "SynchronousExecutor"},
    "pyncette.utils": {"with_heartbeat"},
    "pyncette.prometheus": {"use_prometheus", "with_prometheus_repository"},
    "pyncette.healthcheck": {"use_healthcheck_server", "default_healthcheck"},
    "pyncette.sqlite": {"sqlite_repository"},
    "pyncette.postgres": {"postgres_repository"},
    "pyncette.dynamodb": {"dynamodb_repository"},
}
"""What a module written for 1.x imports, as far as its backends are here."""


@pytest.fixture
def clock():
    """It is a minute to noon in New York."""
    return VirtualClock(datetime.datetime(2030, 6, 1, 15, 59, tzinfo=datetime.UTC))


@pytest.fixture
def old():
    """The module, as if it had just been imported."""
    spec = importlib.util.spec_from_file_location("old_module", MODULE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported():
    for node in ast.walk(ast.parse(MODULE.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("pyncette"):
            for alias in node.names:
                yield node.module, alias.name


def test_the_module_imports_nothing_that_1_x_did_not_have():
    assert all(name in PUBLIC[module] for module, name in imported())


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_every_public_name_is_there(module):
    found = importlib.import_module(module)

    assert [name for name in PUBLIC[module] if not hasattr(found, name)] == []


async def test_static_tasks_run_on_their_intervals_and_cron_expressions(old, clock):
    async with running(old.app, clock):
        await clock.advance(datetime.timedelta(minutes=18))

    ran = Counter(old.events)
    assert ran["hello everybody, release 1.0"] == 18 * 6
    assert ran["seconds at 2030-06-01T15:59:30+00:00"] == 1
    assert [event for event in old.events if event.startswith("noon")] == [
        "noon at 2030-06-01T12:00:00-04:00"
    ]
    assert ran["at_most_once"] == 1
    assert ran["must not run"] == 0


async def test_failure_modes_do_what_they_did(old, clock):
    async with running(old.app, clock) as app_context:
        await clock.advance(datetime.timedelta(minutes=14))
        states = {
            name: await app_context.get_task(getattr(old, name))
            for name in ("fails_and_unlocks", "fails_and_commits", "fails_and_waits")
        }

    ran = Counter(old.events)
    assert ran["fails_and_unlocks raised ValueError"] == 2
    assert states["fails_and_unlocks"].scheduled_at == clock.utc  # tried again a second later
    assert ran["fails_and_commits raised LookupError"] == 1
    # After 13 minutes, and each time that its lease of 20 s expires: three times in a minute.
    assert ran["fails_and_waits raised KeyError"] == 4
    assert states["fails_and_waits"].locked_until == clock.utc + seconds(20)


async def test_fixtures_and_middlewares_are_around_everything(old, clock):
    async with running(old.app, clock):
        await clock.advance(seconds(10))

    assert old.events[:2] == ["greeter up", "counter up"]
    assert old.events[-2:] == ["counter down", "greeter down"]


async def test_dynamic_tasks_are_scheduled_listed_changed_and_removed(old, clock):
    async with running(old.app, clock) as app_context:
        await old.schedule_some(app_context)
        await clock.advance(seconds(60))
        found = await old.instances(app_context, old.remind)

        assert sorted(found) == ["ada", "bob"]
        assert found["ada"].task.extra_args == {"what": "tea"}
        assert str(found["bob"].scheduled_at) == "2030-06-01 17:05:00+01:00"
        assert await old.reschedule(app_context, "ada", "coffee")
        await clock.advance(seconds(15))
        await app_context.unschedule_task(old.remind, "ada")
        await clock.advance(seconds(15 * 60))

        assert await app_context.get_task(old.remind, "ada") is None

    ran = Counter(old.events)
    assert (ran["remind ada of tea"], ran["remind ada of coffee"]) == (4, 1)
    # 17:00 in Dublin, and every five minutes until 17:15.
    assert ran["remind bob of a walk"] == 4


async def test_partitioned_tasks_run_in_all_their_partitions(old, clock):
    async with running(old.app, clock) as app_context:
        await old.schedule_some(app_context)
        await clock.advance(seconds(90))

        assert len(await old.instances(app_context, old.spread)) == 5
        assert len(await old.instances(app_context, old.spread_by_hash)) == 5

    ran = Counter(old.events)
    assert {ran[f"spread {'x' * number}"] for number in range(1, 6)} == {2}
    assert {ran[f"spread_by_hash user-{number}"] for number in range(5)} == {2}


async def test_metrics_have_their_old_names(old, clock):
    def measured(name, **labels):
        return REGISTRY.get_sample_value(f"pyncette_{name}", labels) or 0

    before = measured("tasks_total", task_name="remind")
    async with running(old.app, clock) as app_context:
        await old.schedule_some(app_context)
        await clock.advance(seconds(30))

    assert measured("tasks_total", task_name="remind") == before + 2
    assert measured("tasks_duration_seconds_count", task_name="every_ten_seconds") >= 3
    assert measured("tasks_staleness_seconds_count", task_name="every_ten_seconds") >= 3
    assert measured("ticks_total") >= 1
    assert measured("repository_ops_total", operation="claim", task_name="*") >= 1


def test_the_module_runs_as_a_program_and_continues_where_it_stopped(tmp_path):
    ports = [free_port(), free_port()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "operator"),
        "DATABASE": str(tmp_path / "old.sqlite"),
        "HEALTH_PORT": str(ports[0]),
        "OTHER_HEALTH_PORT": str(ports[1]),
    }
    for _ in range(2):
        program = subprocess.Popen(
            [sys.executable, MODULE],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            health = [ask(port) for port in ports]
        finally:
            program.send_signal(signal.SIGTERM)
            out, err = program.communicate(timeout=30)

        assert health == ["OK", "OK"]
        assert program.returncode == 0, err
        assert out.split("\n")[:2] == ["greeter up", "counter up"]
        assert out.split("\n")[-3:] == ["counter down", "greeter down", ""]


def ask(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer,
        ):
            return answer.read().decode()
        time.sleep(0.05)
    raise AssertionError("nothing answers")
