"""A handler that is a plain function runs in a thread, with a context whose methods block."""

import asyncio
import copy
import datetime
import logging
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from pyncette import BlockingContext, BlockingPyncetteContext, Context, ExecutionMode, FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.core.record import Key, Partition
from pyncette.errors import LeaseLostException, StopRequested
from pyncette.executor import SynchronousExecutor
from pyncette.testing import running as in_world
from pyncette.utils import with_heartbeat
from pyncette.worker.occurrence import Occurrence, current
from pyncette.worker.threads import ThreadCall
from tests.app.harness import NOON, at, running, seconds
from tests.worker.bench import until
from tests.worker.test_run import garbage

SOON = 10.0
"""Seconds after which a test gives up."""


@pytest.fixture
def app(memory) -> Pyncette:
    return Pyncette(memory)


# --- What a function is given --------------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread_with_the_context_of_its_run(repository, clock):
    app = Pyncette(repository)
    seen: dict[str, Any] = {}

    @app.dynamic_task(interval=seconds(60), greeting="Hello")
    def remind(context: BlockingContext) -> None:
        time.sleep(0.1)  # and `advance` returns only when what it did is written
        occurrence = current.get()
        assert occurrence is not None
        seen.update(
            thread=threading.current_thread(),
            name=context.task.name,
            at=context.scheduled_at,
            args=context.args,
            attempt=context.attempt,
            run=(context.run_id, occurrence.log_fields()["run_id"]),
            stop=context.stop_requested,
            is_one=isinstance(context, Context),
        )

    async with running(app, clock) as app_context:
        await app_context.schedule_task(remind, "ada", what="stretch")
        await clock.advance(seconds(60))
        state = await app_context.get_task(remind, "ada")

    assert seen.pop("thread").name.startswith("pyncette-handler")
    ran, logged = seen.pop("run")
    assert ran == logged
    assert seen == {
        "name": "ada",
        "at": at(60),
        "args": {"greeting": "Hello", "what": "stretch"},
        "attempt": 1,
        "stop": False,
        "is_one": True,
    }
    assert (state.scheduled_at, state.locked_until) == (at(120), None)


async def test_middlewares_wrap_the_call_on_the_event_loop_and_share_their_attributes(app, clock):
    seen: list[Any] = []
    variable: ContextVar[str] = ContextVar("variable")

    @app.middleware
    async def around(context, go_on):
        variable.set("of the middleware")
        context.args["added"] = context.added = 7
        await go_on()
        seen.append((context.changed, threading.current_thread() is threading.main_thread()))

    @app.task(interval=seconds(60))
    def job(context: BlockingContext) -> None:
        seen.append((context.added, context.args["added"], variable.get()))
        context.changed = 8
        other = copy.copy(context)
        other.changed = 9
        seen.append((other.added, other.scheduled_at == context.scheduled_at))

    async with running(app, clock):
        await clock.advance(seconds(60))

    assert seen == [(7, 7, "of the middleware"), (7, True), (8, True)]


async def test_fixtures_are_attributes_and_the_event_loop_awaits_them_for_the_function(app, clock):
    answers: list[Any] = []

    class Database:
        async def query(self) -> asyncio.Task[Any] | None:
            await asyncio.sleep(0)
            return asyncio.current_task()

    @app.fixture()
    async def database(app_context):
        yield Database()

    @app.task(interval=seconds(60))
    def job(context: BlockingContext) -> None:
        answers.append(context.wait_for(context.database.query()))
        answers.append(context.app_context.database is context.database)

    async with running(app, clock):
        await clock.advance(seconds(60))

    assert isinstance(answers[0], asyncio.Task)
    assert answers[1]


async def test_the_app_context_of_a_function_blocks(app, clock):
    seen: list[Any] = []

    @app.dynamic_task()
    async def remind(context):
        seen.append(f"remind {context.task.name}")

    def users():
        seen.append(threading.current_thread() is threading.main_thread())
        for number in range(600):  # more than are written together
            yield f"user-{number}", {"execute_at": at(3600)}

    @app.task(interval=seconds(60))
    def job(context: BlockingContext) -> None:
        app_context = context.app_context
        assert isinstance(app_context, BlockingPyncetteContext)
        seen.append(app_context.schedule_task(remind, "ada", execute_at=at(90)).name)
        seen.append(app_context.get_task(remind, "ada").scheduled_at)
        seen.append(sum(result.error is None for result in app_context.schedule_many(remind, users())))
        seen.append(len(app_context.list_tasks(remind, limit=1000).tasks))
        names = (f"user-{number}" for number in range(600))
        seen.append(sum(result.error is None for result in app_context.unschedule_many(remind, names)))
        app_context.unschedule_task(remind, "ada")
        seen.append(app_context.get_task(remind, "ada"))
        with pytest.raises(ValueError, match="job has no instances"):
            app_context.schedule_many(job, [])
        seen.append((app_context.ready, app_context.last_tick <= at(60)))
        with pytest.raises(AttributeError):
            app_context.nothing  # noqa: B018
        app_context.shutdown()

    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.settle()
        await clock.advance(seconds(60))
        await run

    assert seen == ["ada", at(90), False, 600, 601, 600, None, (True, True)]


async def test_a_coroutine_of_a_function_uses_the_same_context_on_the_event_loop(app, clock):
    seen: list[Any] = []
    template = app.dynamic_task(name="template")(lambda context: None)

    async def on_the_loop(context: Any) -> None:
        await context.heartbeat()
        await context.app_context.schedule_task(template, "ada", execute_at=at(3600))
        many = context.app_context.schedule_many(template, [("bob", {"execute_at": at(3600)})])
        seen.append([result.name async for result in many])
        seen.append(await context.wait_for(asyncio.sleep(0, "awaited")))

    @app.task(name="inside", interval=seconds(60))
    def inside(context: BlockingContext) -> None:
        context.wait_for(on_the_loop(context))

    def returned(context):
        return on_the_loop(context)

    app.task(name="returned", interval=seconds(61))(returned)

    async with running(app, clock):
        await clock.advance(seconds(61))

    assert seen == [["bob"], "awaited"] * 2


async def test_a_function_that_needs_the_event_loop_is_told_to_say_so(app, clock, caplog):
    async def work() -> None: ...

    def scheduled():
        pending = work()
        try:
            return asyncio.get_running_loop().create_task(pending)
        finally:
            pending.close()

    def schedule(context):
        return scheduled()

    app.task(interval=seconds(60))(schedule)
    async with running(app, clock):
        await clock.advance(seconds(60))

    assert "annotate it with `-> Awaitable[None]`" in caplog.text


async def test_a_function_of_1_x_that_creates_a_task_is_called_on_the_event_loop(app, clock):
    seen = []

    async def work(context):
        seen.append(context.task.name)

    @app.task(interval=seconds(60))
    def created(context):
        return asyncio.create_task(work(context))

    @app.task(interval=seconds(60))
    def ensured(context):
        return asyncio.ensure_future(work(context))

    async with running(app, clock):
        await clock.advance(seconds(60))

    assert sorted(seen) == ["created", "ensured"]


# --- What becomes of a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ExecutionMode)
async def test_a_function_that_returns_has_succeeded_whatever_it_returns(repository, clock, mode):
    app = Pyncette(repository)
    app.task(name="job", interval=seconds(60), execution_mode=mode)(lambda context: 7)

    async with running(app, clock) as app_context:
        await clock.advance(seconds(180))
        counts = (await runtime_of(app_context).ledger.store.load([Key(Partition("", "job"), "job")]))[
            0
        ].state.summary.counts

    assert (counts.succeeded, counts.failed) == (3, 0)


@pytest.mark.parametrize("error", [ValueError("no luck"), SystemExit(3)])
async def test_a_function_that_raises_has_failed(app, clock, caplog, error):
    attempts: list[int] = []

    @app.dynamic_task(failure_mode=FailureMode.UNLOCK)
    def job(context: BlockingContext) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise error

    async with running(app, clock) as app_context:
        await app_context.schedule_task(job, "ada", execute_at=at(1))
        await clock.advance(seconds(10))
        assert await app_context.get_task(job, "ada") is None

    assert attempts == [1, 2]
    assert f"the handler failed: {type(error).__name__}" in caplog.text


@pytest.mark.parametrize("mode", ExecutionMode)
async def test_the_lease_is_renewed_for_as_long_as_a_function_runs(repository, clock, mode):
    app = Pyncette(repository)
    attempts: list[int] = []

    @app.dynamic_task(lease_duration=seconds(60), execution_mode=mode)
    def job(context: BlockingContext) -> None:
        attempts.append(context.attempt)
        context.wait_for(clock.sleep(seconds(1000)))  # in simulated time
        context.heartbeat()

    async with running(app, clock) as app_context:
        await app_context.schedule_task(job, "ada", execute_at=at(1))
        await clock.advance(seconds(900))
        state = await app_context.get_task(job, "ada")
        await clock.advance(seconds(200))
        assert await app_context.get_task(job, "ada") is None

    assert attempts == [1]
    if mode is ExecutionMode.AT_LEAST_ONCE:
        assert at(900) < state.locked_until <= at(960)


@pytest.mark.parametrize("how", ["unschedule", "force"])
async def test_a_function_that_lost_its_lease_is_asked_to_stop(app, clock, caplog, how):
    seen: list[Any] = []

    @app.dynamic_task(lease_duration=seconds(60))
    def job(context: BlockingContext) -> None:
        try:
            context.wait_for(clock.sleep(seconds(1000)))
        except StopRequested as error:
            seen.append(str(error))
        seen.append(context.stop_requested)
        try:
            context.heartbeat()
        except LeaseLostException as error:
            seen.append(str(error.task))
            raise

    async with running(app, clock) as app_context:
        await app_context.schedule_task(job, "ada", execute_at=at(1))
        await clock.advance(seconds(10))
        if how == "force":
            await app_context.schedule_task(job, "ada", force=True, execute_at=at(5000))
        else:
            await app_context.unschedule_task(job, "ada")
        await clock.advance(seconds(60))
        state = await app_context.get_task(job, "ada")

    assert seen == ["its lease was lost", True, "job:ada"]
    assert (state is None) == (how == "unschedule")
    assert "the handler failed" not in caplog.text


async def test_a_middleware_that_ends_a_run_waits_for_its_function(app, clock):
    seen: list[Any] = []
    stopped = threading.Event()

    @app.middleware
    async def limit(context, go_on):
        try:
            async with asyncio.timeout(0.05):
                await go_on()
        except TimeoutError:
            seen.append("timed out")
            raise

    @app.dynamic_task(failure_mode=FailureMode.COMMIT)
    def job(context: BlockingContext) -> None:
        while not context.stop_requested:
            time.sleep(0.01)
        stopped.set()
        seen.append("stopped")

    async with running(app, clock) as app_context:
        await app_context.schedule_task(job, "ada", execute_at=at(1))
        await clock.advance(seconds(1))
        assert await app_context.get_task(job, "ada") is None

    assert seen == ["stopped", "timed out"]


async def test_a_run_lasts_until_its_function_returns_although_a_middleware_does_not_wait(app, clock):
    go = threading.Event()
    events: list[str] = []

    @app.middleware
    async def hasty(context, go_on):
        context.calls = [asyncio.ensure_future(go_on()) for _ in range(3)]
        await asyncio.wait(context.calls, timeout=0.05)
        raise ValueError("it took too long")

    @app.task(interval=seconds(60), failure_mode=FailureMode.COMMIT)
    def job(context: BlockingContext) -> None:
        events.append("begun")
        assert go.wait(SOON)
        events.append("returned")

    async with running(app, clock) as app_context:
        asyncio.get_running_loop().call_later(0.3, go.set)
        await clock.advance(seconds(60))
        ended = list(events)
        state = await app_context.get_task(job)
        await asyncio.sleep(0.1)

    assert ended[:2] == ["begun", "returned"]
    assert ended == ["begun", "returned"] * (len(ended) // 2)  # one at a time
    assert events == ended  # and none after the run has ended
    assert state.scheduled_at == at(120)


async def test_a_heartbeat_that_a_middleware_replaces_is_called(app, clock):
    beats: list[str] = []

    @app.middleware
    async def counted(context, go_on):
        async def beat():
            beats.append("asynchronous")

        context.heartbeat = beat
        await go_on()
        context.heartbeat()

    @app.task(interval=seconds(60))
    def job(context: BlockingContext) -> None:
        context.heartbeat()
        context.heartbeat = lambda: beats.append("its own")
        context.heartbeat()

    async with running(app, clock):
        await clock.advance(seconds(60))

    assert beats == ["asynchronous", "its own", "its own"]


# --- How many run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "limit"),
    [
        (lambda memory: Pyncette(memory, concurrency_limit=3), 3),
        (lambda memory: Pyncette(memory, executor_cls=SynchronousExecutor), 1),
    ],
    ids=["concurrency_limit", "SynchronousExecutor"],
)
async def test_no_more_functions_run_at_once_than_there_are_slots(memory, clock, app, limit):
    app = app(memory)
    at_once: list[int] = []
    threads: set[str] = set()
    running_now = 0
    lock = threading.Lock()

    @app.dynamic_task()
    def job(context: BlockingContext) -> None:
        nonlocal running_now
        with lock:
            running_now += 1
            at_once.append(running_now)
            threads.add(threading.current_thread().name)
        time.sleep(0.02)
        with lock:
            running_now -= 1

    async with running(app, clock) as app_context:
        for number in range(12):
            await app_context.schedule_task(job, str(number), execute_at=at(1))
        await clock.advance(seconds(2))

    assert len(at_once) == 12
    assert max(at_once) == limit
    assert len(threads) == limit


async def test_in_a_world_a_function_sleeps_by_the_clock_of_the_world(app):
    slept: list[datetime.datetime] = []

    @app.dynamic_task()
    def job(context: BlockingContext) -> None:
        context.wait_for(context.world.sleep(hours=1))
        slept.append(context.world.now)

    async with in_world(app, NOON) as world:
        world.context.add_to_context("world", world)
        await world.context.schedule_task(job, "ada", execute_at=at(60))
        await world.advance(minutes=30)
        assert slept == []
        await world.advance(hours=2)

    assert slept == [at(3660)]


async def test_a_run_in_a_thread_leaves_nothing_to_the_garbage_collector(app, clock):
    @app.dynamic_task(failure_mode=FailureMode.COMMIT)
    def job(context: BlockingContext) -> None:
        context.heartbeat()
        context.wait_for(asyncio.sleep(0))
        if context.task.name == "failing":
            raise ValueError("no luck")
        if context.task.name == "stopping":
            context.wait_for(clock.sleep(seconds(1000)))

    async with running(app, clock) as app_context:
        for name in ("returning", "failing", "stopping"):
            await app_context.schedule_task(job, name, execute_at=at(1))
        with garbage() as found:
            await clock.advance(seconds(2))
            await app_context.unschedule_task(job, "stopping")
            await clock.advance(seconds(60))

    ours = (Occurrence, ThreadCall, BlockingContext)
    assert [one for one in found if isinstance(one, ours)] == []


# --- with_heartbeat ------------------------------------------------------------------------------------------------------


async def test_with_heartbeat_takes_plain_functions(repository, clock):
    app = Pyncette(repository)
    seen: list[Any] = []

    @app.dynamic_task(lease_duration=seconds(60))
    @with_heartbeat()
    def job(context: BlockingContext) -> None:
        seen.append((context.attempt, threading.current_thread() is threading.main_thread()))
        context.wait_for(clock.sleep(seconds(1000)))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(job, "ada", execute_at=at(1))
        await clock.advance(seconds(1100))
        assert await app_context.get_task(job, "ada") is None

    assert seen == [(1, False)]


async def test_with_heartbeat_asks_a_plain_function_to_stop_when_its_lease_is_lost(app, clock):
    seen: list[str] = []

    @app.middleware
    async def look(context, go_on):
        try:
            await go_on()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    @app.dynamic_task(lease_duration=seconds(60))
    @with_heartbeat(cancel_on_lease_lost=True)
    def job(context: BlockingContext) -> None:
        try:
            context.wait_for(clock.sleep(seconds(1000)))
        finally:
            seen.append("stopped" if context.stop_requested else "done")

    async with running(app, clock) as app_context:
        await app_context.schedule_task(job, "ada", execute_at=at(1))
        await clock.advance(seconds(10))
        await app_context.unschedule_task(job, "ada")
        await clock.advance(seconds(60))

    assert seen[0] == "stopped"
    assert seen[1] in {"LeaseLostException", "CancelledError"}


async def test_with_heartbeat_calls_a_plain_function_with_the_context_of_a_test():
    class Fake:
        task = type("Task", (), {"lease_duration": seconds(60)})
        thread = None

        async def heartbeat(self):
            pass

    @with_heartbeat()
    def job(context):
        context.thread = threading.current_thread()

    context = Fake()
    await job(context)

    assert context.thread is not threading.main_thread()


def test_a_test_calls_the_function_of_a_task_in_its_own_thread(app):
    called: list[Any] = []
    job = app.dynamic_task(name="job")(called.append)

    job("a context of a test")

    assert called == ["a context of a test"]


# --- Handlers that block -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heartbeat", ["cooperative", "automatic"])
@pytest.mark.parametrize("database", [":memory:", "tasks.sqlite"])
async def test_a_library_names_a_handler_that_blocks_the_event_loop(heartbeat, database, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = database if database == ":memory:" else str(tmp_path / database)
    app = Pyncette(sqlite_database=path)
    over: list[str] = []

    @app.dynamic_task(heartbeat=heartbeat)
    async def blocking(context):
        time.sleep(6)  # noqa: ASYNC251 - it is what this test is about
        over.append("blocking")

    @app.dynamic_task()
    def plain(context: BlockingContext) -> None:
        time.sleep(3.5)
        over.append("plain")

    async with app.create() as app_context:
        run = asyncio.create_task(app_context.run())
        for task in (plain, blocking):
            await app_context.schedule_task(task, "ada", execute_at=datetime.datetime.now(datetime.UTC))
            await until(lambda task=task: task.name in over, seconds_max=60)
        app_context.shutdown()
        await run

    (line,) = (record for record in caplog.records if "blocks the event loop" in record.message)
    assert "task=blocking instance=ada" in line.message
    assert line.at.startswith(f"{__file__}:")
