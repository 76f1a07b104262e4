"""The API on a DynamoDB: instances by the hundred, two processes' worth of workers, real time."""

import asyncio
import datetime
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest

from pyncette import Pyncette
from pyncette.dynamodb import dynamodb_repository
from pyncette.prometheus import with_prometheus_repository
from tests.app.harness import at, running, seconds

pytestmark = pytest.mark.xdist_group("dynamodb")


@pytest.fixture
def ran():
    return []


@pytest.fixture
def app(dynamodb_url, ran):
    url = urlsplit(dynamodb_url)
    app = Pyncette(
        with_prometheus_repository(dynamodb_repository),
        dynamodb_region_name=url.hostname,
        dynamodb_endpoint=parse_qs(url.query)["endpoint"][0],
        dynamodb_table_name=url.path[1:],
        dynamodb_partition_prefix="app",
    )

    @app.partitioned_task(partition_count=2)
    async def remind(context):
        ran.append((context.task.name, context.scheduled_at))
        await asyncio.sleep(context.args.get("takes", 0))

    return app


async def test_instances_are_scheduled_run_once_each_and_listed(app, clock, ran):
    task = app.tasks["remind"]
    items = [(f"user-{number}", {"interval": seconds(60), "number": number}) for number in range(200)]
    async with running(app, clock) as app_context:
        errors = [result.error async for result in app_context.schedule_many(task, items)]
        again = [result.error async for result in app_context.schedule_many(task, items[:10])]
        await clock.advance(seconds(60))
        first = await app_context.list_tasks(task, limit=150)
        rest = await app_context.list_tasks(task, limit=150, continuation_token=first.continuation_token)

    assert {*errors, *again} == {None}
    assert Counter(ran) == {(name, at(60)): 1 for name, _ in items}
    assert {state.task.name for state in (*first.tasks, *rest.tasks)} == {name for name, _ in items}
    assert {state.scheduled_at for state in (*first.tasks, *rest.tasks)} == {at(120)}


async def test_two_workers_share_what_is_due_in_real_time(app, ran):
    task = app.tasks["remind"]
    async with app.create() as one, app.create() as two:
        workers = [asyncio.create_task(worker.run()) for worker in (one, two)]
        due = datetime.datetime.now(tz=datetime.UTC) + seconds(0.5)
        items = [(f"user-{number}", {"execute_at": due, "takes": 0.01}) for number in range(100)]
        results = [result async for result in one.schedule_many(task, items)]
        async with asyncio.timeout(60):
            while (await two.list_tasks(task)).tasks:  # noqa: ASYNC110 - as another process would
                await asyncio.sleep(0.1)
        for worker in (one, two):
            worker.shutdown()
        await asyncio.gather(*workers)

    assert all(result.error is None for result in results)
    assert len(ran) == len(set(ran)) == 100


@pytest.mark.parametrize("name", ["Tasks", "tasks; drop table users", "tasks-1", "täsks", "", 'ta"sks'])
def test_the_name_of_a_table_is_checked_before_anything_is_asked(name):
    with pytest.raises(ValueError, match="dynamodb_table_name"):
        Pyncette(dynamodb_repository, dynamodb_table_name=name).new_store()


def test_a_prefix_that_leaves_no_room_for_names_is_refused():
    with pytest.raises(ValueError, match="dynamodb_partition_prefix"):
        Pyncette(dynamodb_repository, dynamodb_partition_prefix="x" * 256).new_store()
