"""What a handler is called with, and what is around its call."""

import asyncio
import datetime
import zoneinfo

import pytest

from pyncette import Context, ExecutionMode, FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.errors import LeaseLostException
from tests.app.harness import NOON, at, running, seconds


async def test_a_context_tells_what_runs_for_when_and_with_what(repository, clock):
    app = Pyncette(repository)
    seen = []

    @app.task(schedule="0 14 * * *", timezone="Europe/Dublin", audience="finance")
    async def report(context):
        seen.append(context)

    async with running(app, clock) as app_context:
        await clock.advance(seconds(3600))

    (context,) = seen
    assert isinstance(context, Context)
    assert context.app_context is app_context
    assert context.task is report
    assert context.scheduled_at == datetime.datetime(
        2030, 6, 1, 14, tzinfo=zoneinfo.ZoneInfo("Europe/Dublin")
    )
    assert str(context.scheduled_at) == "2030-06-01 14:00:00+01:00"
    assert context.args == {"audience": "finance"}


async def test_arguments_are_a_copy_that_a_run_may_change(repository, clock):
    app = Pyncette(repository)
    seen = []

    @app.task(interval=seconds(10), numbers=[1])
    async def count(context):
        context.args["numbers"].append(2)
        seen.append(context.args["numbers"])

    async with running(app, clock):
        await clock.advance(seconds(20))

    assert seen == [[1, 2], [1, 2]]


async def test_all_attempts_of_an_occurrence_share_a_key_and_each_has_an_id_and_a_greater_token(
    repository, clock
):
    app = Pyncette(repository)
    seen = []

    @app.task(interval=seconds(60), failure_mode=FailureMode.UNLOCK)
    async def fail_twice(context):
        seen.append((context.attempt, context.run_id, context.fencing_token, context.idempotency_key))
        if context.attempt < 3:
            raise ValueError("not yet")

    async with running(app, clock):
        await clock.advance(seconds(130))

    attempts, ids, tokens, keys = zip(*seen, strict=True)
    assert attempts == (1, 2, 3, 1, 2, 3)
    assert len(set(ids)) == 6
    assert list(tokens) == sorted(set(tokens))
    assert len(set(keys[:3])) == len(set(keys[3:])) == 1
    assert keys[0] != keys[3]


# --- Fixtures ------------------------------------------------------------------------------------------------------------


async def test_fixtures_are_set_up_in_order_before_the_first_run_and_torn_down_in_reverse_after_the_last(
    repository, clock
):
    app = Pyncette(repository)
    events = []

    @app.fixture()
    async def database(app_context):
        events.append("database up")
        yield "a database"
        events.append("database down")

    @app.fixture(name="cache")
    async def make_cache(app_context):
        events.append(f"cache up, on {app_context.database}")
        yield "a cache"
        events.append("cache down")

    @app.task(interval=seconds(10))
    async def report(context):
        events.append(f"run with {context.database} and {context.cache}")

    async with running(app, clock):
        await clock.advance(seconds(10))

    assert events == [
        "database up",
        "cache up, on a database",
        "run with a database and a cache",
        "cache down",
        "database down",
    ]


async def test_fixtures_are_torn_down_when_run_is_cancelled(repository, clock):
    app = Pyncette(repository)
    events = []

    @app.fixture()
    async def database(app_context):
        yield
        events.append("down")

    async with app.create(clock=clock) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.settle()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    assert events == ["down"]


async def test_a_fixture_that_fails_ends_run_and_those_before_it_are_torn_down(repository, clock):
    app = Pyncette(repository)
    events = []

    @app.fixture()
    async def good(app_context):
        yield
        events.append("down")

    @app.fixture()
    async def bad(app_context):
        raise ConnectionError("no database")
        yield

    async with app.create(clock=clock) as app_context:
        with pytest.raises(ConnectionError, match="no database"):
            await app_context.run()

    assert events == ["down"]


@pytest.mark.parametrize(("yields", "message"), [(0, "ended without a yield"), (2, "yielded more than once")])
async def test_a_fixture_yields_once(repository, clock, yields, message):
    app = Pyncette(repository)

    @app.fixture()
    async def wrong(app_context):
        for number in range(yields):
            yield number

    with pytest.raises(RuntimeError, match=message):
        async with running(app, clock):
            pass


async def test_a_fixture_may_use_the_app_context(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.dynamic_task()
    async def work(context):
        ran.append(context.scheduled_at)

    @app.fixture()
    async def first_work(app_context):
        await app_context.schedule_task(work, "first", execute_at=at(1))
        yield

    async with running(app, clock):
        await clock.advance(seconds(5))

    assert ran == [at(1)]


async def test_values_can_be_added_to_the_context(repository, clock):
    app = Pyncette(repository)
    seen = []

    @app.fixture()
    async def database(app_context):
        yield "a database"

    @app.task(interval=seconds(10))
    async def report(context):
        seen.append((context.release, context.database))

    async with app.create(clock=clock) as app_context:
        app_context.add_to_context("release", "1.2.3")
        run = asyncio.create_task(app_context.run())
        await clock.advance(seconds(10))
        app_context.shutdown()
        await run

    assert seen == [("1.2.3", "a database")]


async def test_a_name_that_is_taken_cannot_be_added(repository, clock):
    app = Pyncette(repository)

    @app.fixture()
    async def database(app_context):
        yield

    async with app.create(clock=clock) as app_context:
        app_context.add_to_context("release", 1)
        for name in ("release", "database"):
            with pytest.raises(ValueError, match=f"^Key {name} already exists"):
                app_context.add_to_context(name, 2)
        with pytest.raises(ValueError, match=r"^Cannot use reserved name args"):
            app_context.add_to_context("args", 2)


async def test_an_unknown_attribute_of_a_context_is_an_error_that_names_it(repository, clock, caplog):
    app = Pyncette(repository)

    @app.task(interval=seconds(10))
    async def report(context):
        assert not hasattr(context, "database")
        context.database  # noqa: B018

    async with running(app, clock):
        await clock.advance(seconds(10))

    assert "The context has no 'database': neither a fixture nor add_to_context provides it" in caplog.text


# --- Middlewares ---------------------------------------------------------------------------------------------------------


async def test_middlewares_are_called_around_every_run_in_the_order_of_their_definition(repository, clock):
    app = Pyncette(repository)
    events = []

    @app.middleware
    async def outer(context, go_on):
        events.append(f"outer begins {context.task.name}")
        await go_on()
        events.append("outer ends")

    async def inner(context, go_on):
        events.append("inner begins")
        await go_on()
        events.append("inner ends")

    app.use_middleware(inner)

    @app.task(interval=seconds(10))
    async def report(context):
        events.append("run")

    async with running(app, clock):
        await clock.advance(seconds(10))

    assert events == ["outer begins report", "inner begins", "run", "inner ends", "outer ends"]


async def test_a_middleware_sees_what_a_handler_raises_and_may_keep_it(repository, clock):
    app = Pyncette(repository)
    caught = []

    @app.middleware
    async def forgive(context, go_on):
        try:
            await go_on()
        except ValueError as error:
            caught.append(str(error))

    @app.task(interval=seconds(10))
    async def report(context):
        raise ValueError("no report")

    async with running(app, clock):
        await clock.advance(seconds(20))

    assert caught == ["no report", "no report"]


async def test_a_middleware_that_does_not_go_on_completes_the_occurrence_without_a_run(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.middleware
    async def holiday(context, go_on):
        if context.scheduled_at != at(10):
            await go_on()

    @app.task(interval=seconds(10))
    async def report(context):
        ran.append(context.scheduled_at)

    async with running(app, clock):
        await clock.advance(seconds(20))

    assert ran == [at(20)]


# --- Heartbeats ----------------------------------------------------------------------------------------------------------


async def test_a_heartbeat_keeps_the_lease_of_a_run_that_takes_longer(repository, clock):
    app = Pyncette(repository)
    attempts = []

    @app.task(interval=seconds(1000), lease_duration=seconds(60))
    async def long(context):
        attempts.append(context.attempt)
        for _ in range(4):
            await clock.sleep(seconds(50))
            await context.heartbeat()

    async with running(app, clock):
        await clock.advance(seconds(1500))

    assert attempts == [1]


async def test_without_a_heartbeat_a_run_that_takes_longer_is_run_again(repository, clock):
    app = Pyncette(repository)
    attempts = []

    @app.task(interval=seconds(1000), lease_duration=seconds(60))
    async def long(context):
        attempts.append(context.attempt)
        await clock.sleep(seconds(70 if context.attempt == 1 else 1))

    async with running(app, clock):
        await clock.advance(seconds(1500))

    assert attempts == [1, 2]


@pytest.mark.parametrize("taken_by", ["removal", "force", "expiry"])
async def test_a_heartbeat_after_the_lease_was_lost_raises(repository, clock, taken_by):
    app = Pyncette(repository)
    lost = []

    @app.dynamic_task(lease_duration=seconds(60))
    async def long(context):
        await clock.sleep(seconds(30 if taken_by != "expiry" else 90))
        try:
            await context.heartbeat()
        except LeaseLostException as error:
            lost.append(error)
            raise

    async with running(app, clock) as app_context:
        await app_context.schedule_task(long, "ada", execute_at=at(1))
        await clock.advance(seconds(10))
        if taken_by == "removal":
            await app_context.unschedule_task(long, "ada")
        elif taken_by == "force":
            await app_context.schedule_task(long, "ada", force=True, execute_at=at(5000))
        await clock.advance(seconds(200))

    assert lost
    assert lost[0].task.name == "ada"
    assert str(lost[0]) == "Lease on the task long:ada was lost."


async def test_a_heartbeat_does_nothing_at_most_once(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE, lease_duration=seconds(10))
    async def long(context):
        await clock.sleep(seconds(100))
        await context.heartbeat()
        ran.append(context.scheduled_at)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(long, "ada", execute_at=at(1))
        await clock.advance(seconds(5))
        await app_context.unschedule_task(long, "ada")
        await clock.advance(seconds(200))

    assert ran == [at(1)]


# --- Handlers for resources ----------------------------------------------------------------------------------------------


async def test_a_run_for_a_resource_has_a_task_with_its_name_and_its_arguments(repository, clock):
    from pyncette.app.options import encode_args
    from pyncette.core.edits import created
    from pyncette.core.record import Key, Partition
    from pyncette.core.schedule import Interval
    from pyncette.core.spec import Policies, Spec
    from pyncette.core.times import instant_of

    app = Pyncette(repository, realm="cluster/ns/pool")
    seen = []

    @app.handler()
    async def send_report(context):
        seen.append((context.task.name, context.args, context.scheduled_at, context.task.interval))

    policies = Policies()
    spec = Spec(Interval(10_000_000), encode_args({"audience": "finance"}), policies)
    key = Key(Partition("cluster/ns/pool", "send_report"), "daily-report")
    async with running(app, clock) as app_context:
        await runtime_of(app_context).ledger.create([created(key, spec, policies, instant_of(NOON))])
        await clock.advance(seconds(10))

    assert seen == [("daily-report", {"audience": "finance"}, at(10), seconds(10))]
