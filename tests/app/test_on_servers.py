"""The API on real servers: instances by the thousand, two processes' worth of workers, real time."""

import asyncio
import datetime
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from pyncette import Pyncette
from pyncette.app.context import runtime_of
from pyncette.clock import SECOND
from pyncette.coordination import assignment
from pyncette.coordination.members import members
from pyncette.dynamodb import dynamodb_repository
from pyncette.mysql import mysql_repository
from pyncette.postgres import postgres_repository
from pyncette.prometheus import with_prometheus_repository
from pyncette.redis import redis_repository
from pyncette.store.mysql.address import read_address
from tests.app.harness import at, running, schedule_at_once, seconds


@pytest.fixture
def ran():
    return []


def on_postgres(url):
    return Pyncette(with_prometheus_repository(postgres_repository), postgres_url=url)


def on_redis(url):
    return Pyncette(with_prometheus_repository(redis_repository), redis_url=url)


def on_mysql(url):
    host, user, password, database, port, *_ = read_address(url)
    return Pyncette(
        with_prometheus_repository(mysql_repository),
        mysql_host=host, mysql_user=user, mysql_password=password, mysql_database=database, mysql_port=port,
    )  # fmt: skip


def on_dynamodb(url):
    url = urlsplit(url)
    return Pyncette(
        with_prometheus_repository(dynamodb_repository),
        dynamodb_region_name=url.hostname,
        dynamodb_endpoint=parse_qs(url.query)["endpoint"][0],
        dynamodb_table_name=url.path[1:],
        dynamodb_partition_prefix="app",
    )


class On(NamedTuple):
    """A backend, and how many instances it runs in a moment."""

    url: str
    app: Callable[[str], Pyncette]
    instances: int = 2_000
    contexts: int = 50
    """App contexts in this one process; a client of DynamoDB takes a second to open."""


@pytest.fixture(
    params=[
        pytest.param(On("postgres_url", on_postgres), id="postgres"),
        pytest.param(On("mariadb_url", on_mysql), id="mariadb"),
        pytest.param(On("redis_url", on_redis), id="redis"),
        pytest.param(On("redis_cluster_url", on_redis), id="redis_cluster"),
        pytest.param(
            On("dynamodb_url", on_dynamodb, 200, 10), id="dynamodb", marks=pytest.mark.xdist_group("dynamodb")
        ),
    ]
)
def on(request):
    return request.param


@pytest.fixture
def app(request, on, ran):
    app = on.app(request.getfixturevalue(on.url))

    @app.partitioned_task(partition_count=4)
    async def remind(context):
        ran.append((context.task.name, context.scheduled_at))
        await asyncio.sleep(context.args.get("takes", 0))

    return app


async def test_thousands_of_instances_are_scheduled_run_once_each_and_listed(app, on, clock, ran):
    task = app.tasks["remind"]
    items = [
        (f"user-{number}", {"interval": seconds(60), "number": number}) for number in range(on.instances)
    ]
    async with running(app, clock) as app_context:
        errors = [result.error async for result in app_context.schedule_many(task, items)]
        again = [result.error async for result in app_context.schedule_many(task, items[:10])]
        await clock.advance(seconds(60))
        page = on.instances * 3 // 4
        first = await app_context.list_tasks(task, limit=page)
        rest = await app_context.list_tasks(task, limit=page, continuation_token=first.continuation_token)
        alike = await app_context.list_tasks(task, limit=page, prefix="user-19")

    assert {*errors, *again} == {None}
    assert Counter(ran) == {(name, at(60)): 1 for name, _ in items}
    assert {state.task.name for state in (*first.tasks, *rest.tasks)} == {name for name, _ in items}
    assert {state.scheduled_at for state in (*first.tasks, *rest.tasks)} == {at(120)}
    assert {state.task.name for state in alike.tasks} == {
        name for name, _ in items if name.startswith("user-19")
    }


async def test_two_workers_share_what_is_due_in_real_time(app, on, ran):
    task = app.tasks["remind"]
    async with app.create() as one, app.create() as two:
        workers = [asyncio.create_task(worker.run()) for worker in (one, two)]
        due = datetime.datetime.now(tz=datetime.UTC) + seconds(0.5)
        items = [
            (f"user-{number}", {"execute_at": due, "takes": 0.01}) for number in range(on.instances // 4)
        ]
        results = [result async for result in one.schedule_many(task, items)]
        async with asyncio.timeout(60):
            while (await two.list_tasks(task)).tasks:  # noqa: ASYNC110 - as another process would
                await asyncio.sleep(0.05)
        for worker in (one, two):
            worker.shutdown()
        await asyncio.gather(*workers)

    assert all(result.error is None for result in results)
    assert len(ran) == len(set(ran)) == on.instances // 4


async def test_a_user_of_mysql_may_have_no_password(mariadb, mariadb_url):
    host, _, _, database, port, *_ = read_address(mariadb_url)
    user = f"{database}_open"
    await asyncio.to_thread(mariadb.execute, f"CREATE USER '{user}'@'%' IDENTIFIED BY ''")
    try:
        await asyncio.to_thread(mariadb.execute, f"GRANT ALL ON `{database}`.* TO '{user}'@'%'")
        app = Pyncette(
            mysql_repository, mysql_host=host, mysql_user=user, mysql_database=database, mysql_port=port
        )
        task = app.dynamic_task(name="remind")(print)
        async with app.create() as app_context:
            await app_context.schedule_task(task, "ada", interval=seconds(60))
            assert await app_context.get_task(task, "ada") is not None
    finally:
        await asyncio.to_thread(mariadb.execute, f"DROP USER '{user}'@'%'")


@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
async def test_many_contexts_can_schedule_one_instance_at_once(app, on, equal):
    task = app.tasks["remind"]

    errors = await schedule_at_once(
        app, task, on.contexts, lambda number: {"interval": seconds(3600), "number": 0 if equal else number}
    )

    assert errors == []


@pytest.mark.long
@pytest.mark.xdist_group("dynamodb")
async def test_fifty_contexts_can_schedule_one_instance_at_once_on_dynamodb(dynamodb_url):
    app = on_dynamodb(dynamodb_url)

    @app.dynamic_task()
    async def remind(context):
        pass

    errors = await schedule_at_once(
        app, remind, 50, lambda number: {"interval": seconds(3600), "number": number}
    )

    assert errors == []


async def test_no_more_run_at_once_than_may_on_two_workers_together(app, on, ran):
    running_now = 0
    most = 0

    @app.partitioned_task(
        partition_count=2, max_concurrent_runs=3, lease_duration=seconds(5), heartbeat="automatic"
    )
    async def limited(context):
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.05)
        running_now -= 1
        ran.append(context.task.name)

    async with app.create() as one, app.create() as two:
        workers = [asyncio.create_task(worker.run()) for worker in (one, two)]
        due = datetime.datetime.now(tz=datetime.UTC)
        items = [(f"user-{number}", {"execute_at": due}) for number in range(40)]
        assert all([result.error is None async for result in one.schedule_many(limited, items)])
        async with asyncio.timeout(60):
            while (await two.list_tasks(limited)).tasks:  # noqa: ASYNC110 - as another process would
                await asyncio.sleep(0.05)
        for worker in (one, two):
            worker.shutdown()
        await asyncio.gather(*workers)

    assert most == 3
    assert len(ran) == len(set(ran)) == 40


async def test_two_workers_share_the_partitions_out(app, on, monkeypatch):
    monkeypatch.setattr(assignment, "REFRESH_PAUSE", SECOND // 4)
    ran = []

    @app.partitioned_task(partition_count=8, enabled_partitions="shared")
    async def spread(context):
        ran.append((context.app_context, spread.partition_of(context.task.name), context.task.name))

    async with app.create() as one, app.create() as two:
        workers = [asyncio.create_task(worker.run()) for worker in (one, two)]
        async with asyncio.timeout(60):
            runtime = runtime_of(two)
            while len(await members(runtime.ledger.store, runtime.realm, runtime.clock.now())) < 2:  # noqa: ASYNC110 - as others see it
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        due = datetime.datetime.now(tz=datetime.UTC) + seconds(0.5)
        items = [(f"user-{number}", {"execute_at": due}) for number in range(32)]
        assert all([result.error is None async for result in one.schedule_many(spread, items)])
        async with asyncio.timeout(60):
            while (await two.list_tasks(spread)).tasks:  # noqa: ASYNC110 - as another process would
                await asyncio.sleep(0.05)
        for worker in (one, two):
            worker.shutdown()
        await asyncio.gather(*workers)

    assert sorted(name for *_, name in ran) == sorted(name for name, _ in items)
    by_worker = {worker: {number for who, number, _ in ran if who is worker} for worker in (one, two)}
    # On a machine that is very busy one may have been too late for some of its own.
    assert all(2 <= len(numbers) <= 6 for numbers in by_worker.values())
    assert len(by_worker[one] & by_worker[two]) <= 2
