"""Unusual uses of the public API of 1.x keep working, with the texts of 1.x."""

import asyncio
import datetime
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import types

import pytest

from pyncette import Context, ExecutionMode, Pyncette
from pyncette.errors import ConfigurationError, LeaseLostException, TaskLockedException
from pyncette.executor import DefaultExecutor
from pyncette.mysql import mysql_repository
from pyncette.postgres import postgres_repository
from pyncette.sqlite import sqlite_repository
from pyncette.task import PartitionedTask, Task
from pyncette.telemetry.logs import fields_of
from pyncette.utils import with_heartbeat
from tests.app.harness import NOON, at, running, seconds

A_MINUTE = datetime.timedelta(minutes=1)


async def a_handler(context: Context) -> None:
    del context


# --- Members of Task -----------------------------------------------------------------------------------------------------


async def test_an_instance_can_be_named_by_instantiating_its_template(repository, clock):
    app = Pyncette(repository)
    hello = app.dynamic_task(greeting="Hello")(a_handler)
    async with app.create(clock=clock) as app_context:
        await app_context.schedule_task(hello, "ada", interval=A_MINUTE, to="Ada")

        state = await app_context.get_task(hello.instantiate("ada", interval=A_MINUTE))
        await app_context.unschedule_task(hello.instantiate("ada", interval=A_MINUTE))

        assert state.task.extra_args == {"greeting": "Hello", "to": "Ada"}
        assert await app_context.get_task(hello, "ada") is None


def test_an_instance_has_its_own_options_and_otherwise_those_of_its_template():
    hello = Pyncette().dynamic_task(name="hello", greeting="Hello")(a_handler)

    instance = hello.instantiate("ada", schedule="0 9 * * *", timezone="Europe/Dublin", to="Ada")

    assert instance.parent_task is hello
    assert instance.canonical_name == str(instance) == "hello:ada"
    assert not instance.dynamic
    assert instance.as_spec() == {
        "name": "ada",
        "schedule": "0 9 * * *",
        "interval": None,
        "execute_at": None,
        "timezone": "Europe/Dublin",
        "extra_args": {"greeting": "Hello", "to": "Ada"},
    }


def test_the_canonical_name_of_an_instance_includes_its_partition_if_there_are_several():
    app = Pyncette()
    spread = app.partitioned_task(name="spread", partition_count=4, partition_selector=lambda *_: 3)(
        a_handler
    )

    assert spread.canonical_name == "spread"
    assert spread.instantiate("ada", interval=A_MINUTE).canonical_name == "spread:3:ada"


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "0 9 * * *", "timezone": "Europe/Dublin"},
        {"interval": datetime.timedelta(seconds=90.5), "to": ["Ada"]},
        {"execute_at": at(7)},
    ],
)
def test_an_instance_can_be_stored_as_json_and_restored(options):
    hello = Pyncette().dynamic_task(name="hello")(a_handler)
    instance = hello.instantiate("ada", **options)

    again = hello.instantiate_from_spec(json.loads(json.dumps(instance.as_spec())))

    assert again.as_spec() == instance.as_spec()
    assert again.canonical_name == "hello:ada"


@pytest.mark.parametrize(
    ("options", "last", "due"),
    [
        ({"schedule": "*/5 * * * *"}, None, at(300)),
        ({"schedule": "*/5 * * * *"}, at(-600), at(-300)),
        ({"schedule": "*/5 * * * *", "fast_forward": True}, at(-600), at(300)),
        ({"interval": A_MINUTE}, None, at(60)),
        ({"interval": A_MINUTE}, at(-90), at(-30)),
        ({"interval": A_MINUTE, "fast_forward": True}, at(-90), at(30)),
    ],
)
def test_the_next_execution_can_be_computed(options, last, due):
    assert Task(name="x", func=a_handler, **options).get_next_execution(NOON, last) == due


def test_a_one_off_has_one_execution():
    once = Pyncette().dynamic_task()(a_handler).instantiate("ada", execute_at=at(7))

    assert once.get_next_execution(NOON, None) == at(7)
    assert once.get_next_execution(NOON, at(7)) is None


def test_tasks_can_be_made_without_an_app():
    task = Task(name="report", func=a_handler, schedule="0 9 * * *", lease_duration=A_MINUTE, audience="all")
    template = Task(name="hello", func=a_handler, dynamic=True)
    spread = PartitionedTask(name="spread", func=a_handler, partition_count=3)

    assert (task.name, task.schedule, task.extra_args) == ("report", "0 9 * * *", {"audience": "all"})
    assert (task.dynamic, template.dynamic, spread.dynamic) == (False, True, True)
    assert spread.instantiate("ada", interval=A_MINUTE).parent_task is spread


# --- Partitions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("enabled", "ran"), [(None, "0123"), ([1, 3], "13")])
async def test_partitions_can_be_chosen_after_create(repository, clock, enabled, ran):
    app = Pyncette(repository)
    seen = []

    @app.partitioned_task(partition_count=4, partition_selector=lambda _, name: int(name))
    async def spread(context):
        seen.append(context.task.name)

    async with app.create(clock=clock) as app_context:
        spread.enabled_partitions = enabled
        for number in range(4):
            await app_context.schedule_task(spread, str(number), execute_at=at(1))
        run = asyncio.create_task(app_context.run())
        await clock.settle()
        await clock.advance(seconds(2))
        app_context.shutdown()
        await run

    assert sorted(seen) == list(ran)


async def test_partitions_can_be_chosen_while_it_runs(repository, clock):
    app = Pyncette(repository)
    seen = []

    @app.partitioned_task(
        partition_count=4, enabled_partitions=[0], partition_selector=lambda _, name: int(name)
    )
    async def spread(context):
        seen.append(context.task.name)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(spread, "0", execute_at=at(1))
        await app_context.schedule_task(spread, "2", execute_at=at(1))
        await clock.advance(seconds(2))
        assert seen == ["0"]

        spread.enabled_partitions = None
        await clock.advance(seconds(2))

    assert seen == ["0", "2"]


@pytest.mark.parametrize("enabled", [[4], [-1], ["1"], "some"])
def test_partitions_chosen_later_are_checked(enabled):
    task = Pyncette().partitioned_task(partition_count=4, enabled_partitions=[1])(a_handler)

    with pytest.raises(ValueError, match="enabled_partitions"):
        task.enabled_partitions = enabled

    assert task._polled_partitions == (1,)


# --- Decorators ----------------------------------------------------------------------------------------------------------


def test_decorators_of_two_apps_on_one_function_need_no_name():
    first, second = Pyncette(), Pyncette()

    @first.task(interval=A_MINUTE)
    @second.dynamic_task()
    async def report(context):
        pass

    assert (first.tasks["report"].dynamic, second.tasks["report"].dynamic) == (False, True)
    assert first.tasks["report"].task_func is second.tasks["report"].task_func


async def test_options_that_did_not_exist_in_1_x_are_arguments_as_well(repository, clock):
    app = Pyncette(repository)
    seen = []

    @app.dynamic_task(concurrency_limit=3, max_concurrent_runs=5)
    async def remind(context):
        seen.append(context.args)

    async with running(app, clock) as app_context:
        instance = await app_context.schedule_task(remind, "ada", execute_at=at(1), heartbeat="automatic")
        await clock.advance(seconds(2))

    assert seen == [{"concurrency_limit": 3, "max_concurrent_runs": 5, "heartbeat": "automatic"}]
    assert (remind.concurrency_limit, remind.max_concurrent_runs) == (3, 5)
    assert instance.heartbeat == "automatic"


# --- Settings ------------------------------------------------------------------------------------------------------------


def test_a_password_of_mysql_is_optional():
    store = Pyncette(
        mysql_repository, mysql_host="localhost", mysql_user="pyncette", mysql_database="x"
    ).new_store()

    assert type(store).__name__ == "MysqlStore"


def wrapping(**settings):
    return sqlite_repository(**settings)


def test_a_factory_may_pass_all_its_settings_to_one_of_ours(tmp_path):
    path = str(tmp_path / "x.sqlite")
    app = Pyncette(wrapping, batch_size=7, sqlite_database=path, flavour="sweet")

    assert type(app.new_store()) is type(sqlite_repository())


def test_a_factory_of_ours_refuses_an_unknown_setting_with_its_own_prefix():
    with pytest.raises(ConfigurationError, match="did you mean sqlite_database"):
        Pyncette(wrapping, sqlite_databse="x").new_store()


def test_a_partial_of_a_factory_knows_its_keys():
    app = functools.partial(Pyncette, functools.partial(postgres_repository, postgres_url="postgresql://x/y"))

    app(postgres_table_name="other")
    with pytest.raises(ConfigurationError, match="did you mean postgres_table_name"):
        app(postgres_table_nam="other")


def test_an_executor_may_pass_all_its_settings_to_ours():
    class Mine(DefaultExecutor):
        def __init__(self, **settings):
            super().__init__(**settings)

    assert Pyncette(executor_cls=Mine, concurrency_limit=7, batch_size=3).slots == 7


async def test_create_takes_context_items(memory, caplog):
    async with Pyncette(memory).create(context_items=None):
        pass
    assert not caplog.records

    async with Pyncette(memory).create({"release": 1}):
        pass
    assert "use add_to_context" in caplog.text


# --- Heartbeats ----------------------------------------------------------------------------------------------------------


def fake_context(heartbeat, **task):
    return types.SimpleNamespace(
        heartbeat=heartbeat, task=types.SimpleNamespace(lease_duration=seconds(0.02), **task)
    )


async def test_a_handler_can_be_called_with_a_context_of_a_test():
    beats = asyncio.Semaphore(0)

    async def heartbeat():
        beats.release()

    @with_heartbeat()
    async def long(context):
        for _ in range(3):
            await beats.acquire()

    async with asyncio.timeout(10):
        await long(fake_context(heartbeat))


async def test_a_context_of_a_test_can_lose_its_lease():
    async def heartbeat():
        raise LeaseLostException("long")

    @with_heartbeat(cancel_on_lease_lost=True)
    async def long(context):
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(LeaseLostException):
            await long(fake_context(heartbeat, name="long"))


async def test_a_failed_heartbeat_is_logged_and_followed_by_another(caplog):
    heart_beat = asyncio.Event()
    beats = []

    async def heartbeat():
        beats.append(1)
        if len(beats) == 1:
            raise OSError("the line is cut")
        heart_beat.set()

    @with_heartbeat()
    async def long(context):
        await heart_beat.wait()

    async with asyncio.timeout(10):
        await long(fake_context(heartbeat))

    assert "OSError: the line is cut" in caplog.text


@pytest.mark.parametrize("mode", ExecutionMode)
async def test_a_middleware_can_replace_heartbeats(repository, clock, mode):
    app = Pyncette(repository)
    beats = []

    @app.middleware
    async def counting(context, go_on):
        heartbeat = context.heartbeat

        async def count():
            beats.append(context.task.name)
            await heartbeat()

        context.heartbeat = count
        await go_on()

    @app.task(interval=seconds(1000), lease_duration=seconds(60), execution_mode=mode)
    @with_heartbeat()
    async def long(context):
        await clock.sleep(seconds(100))

    async with running(app, clock) as app_context:
        await clock.advance(seconds(1101))
        assert (await app_context.get_task(long)).locked_until is None

    assert len(beats) >= 3


# --- Texts ---------------------------------------------------------------------------------------------------------------

EXACTLY_ONE = "Exactly one of the following must be specified: schedule, interval, execute_at"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, EXACTLY_ONE),
        ({"schedule": "* * * * *", "interval": A_MINUTE}, EXACTLY_ONE),
        ({"execute_at": NOON}, "execute_at is only supported for dynamic tasks"),
        (
            {"interval": A_MINUTE, "timezone": "UTC"},
            "Timezone may only be specified when cron schedule is used",
        ),
        (
            {"interval": A_MINUTE, "argument": print},
            "Extra parameters must be JSON serializable (Object of type builtin_function_or_method is not JSON serializable)",
        ),
    ],
)
def test_a_declaration_is_refused_with_the_text_of_1_x(options, text):
    with pytest.raises(ValueError) as refused:
        Pyncette().task(**options)(a_handler)

    assert str(refused.value).startswith(text)


async def test_calls_on_instances_are_refused_with_the_text_of_1_x(memory, clock):
    app = Pyncette(memory)
    static = app.task(name="static", interval=A_MINUTE)(a_handler)
    hello = app.dynamic_task(name="hello")(a_handler)
    async with app.create(clock=clock) as app_context:
        instance = await app_context.schedule_task(hello, "ada", interval=A_MINUTE)
        calls = {
            "instance_name provided but task is not dynamic": app_context.get_task(static, "ada"),
            "Cannot provide instance_name with already-instantiated dynamic task": app_context.get_task(
                instance, "bob"
            ),
            "Cannot instantiate a non-dynamic task": app_context.schedule_task(
                static, "ada", interval=A_MINUTE
            ),
            "Cannot list instances of non-dynamic task": app_context.list_tasks(static),
            EXACTLY_ONE: app_context.schedule_task(hello, "bob"),
            "instance name must be provided": app_context.unschedule_task(hello),
        }

        for text, call in calls.items():
            with pytest.raises(ValueError) as refused:
                await call
            assert str(refused.value).startswith(text)

        app_context.add_to_context("release", 1)
        with pytest.raises(ValueError, match=r"^Key release already exists"):
            app_context.add_to_context("release", 2)
        with pytest.raises(ValueError, match=r"^Cannot use reserved name task"):
            app_context.add_to_context("task", 2)
    with pytest.raises(ValueError, match=r"^Cannot instantiate a non-dynamic task"):
        static.instantiate("ada", interval=A_MINUTE)


def test_exceptions_have_the_texts_of_1_x():
    instance = Pyncette().dynamic_task(name="hello")(a_handler).instantiate("ada", interval=A_MINUTE)

    assert str(LeaseLostException(instance)) == "Lease on the task hello:ada was lost."
    assert str(TaskLockedException(instance)).startswith(
        "Cannot update task hello:ada while it is locked. Use force=True to override"
    )
    assert str(TaskLockedException(instance, NOON)).startswith(
        "Cannot update task hello:ada while it is locked. Task is locked until 2030-06-01 12:00:00+00:00. "
        "Use force=True to override"
    )


# --- Imports -------------------------------------------------------------------------------------------------------------


def test_import_pyncette_alone_gives_the_names_and_the_modules():
    program = """
import pyncette
assert issubclass(pyncette.errors.LeaseLostException, pyncette.errors.PyncetteException)
assert pyncette.model.Context is pyncette.Context
assert pyncette.task.Task and pyncette.executor.DefaultExecutor
assert {"Pyncette", "ExecutionMode"} <= set(dir(pyncette))
from pyncette import *
assert Pyncette() and FailureMode.NONE and PyncetteContext
try:
    pyncette.Pynctte
except AttributeError as error:
    print(error)
"""

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert shown == "module 'pyncette' has no attribute 'Pynctte'\n"


# --- Signals -------------------------------------------------------------------------------------------------------------


def test_the_log_line_of_a_signal_does_not_name_the_interrupted_task(tmp_path):
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append((record.getMessage(), fields_of(record).get("task")))

    app = Pyncette(sqlite_database=str(tmp_path / "x.sqlite"))

    @app.task(interval=seconds(0.01))
    async def interrupted(context):
        if ("hello", "interrupted") not in lines:
            logging.getLogger("of.the.handler").warning("hello")
            os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    root, keep = logging.getLogger(), Keep()
    level = root.level
    root.addHandler(keep)
    root.setLevel("INFO")
    try:
        app.main()
    finally:
        root.removeHandler(keep)
        root.setLevel(level)

    assert lines.count(("hello", "interrupted")) == 1
    (logged,) = [task for message, task in lines if message.startswith("SIGINT")]
    assert logged is None
