"""A backlog of a million occurrences of one task holds up no other task, once a slot is free."""

import asyncio
import datetime
import time

import pytest

from pyncette import Pyncette
from pyncette.app.context import runtime_of
from pyncette.core.record import Change, Key, Partition, replace
from pyncette.postgres import postgres_repository
from pyncette.redis import redis_repository
from tests.app.harness import seconds

BACKLOG = 1_000_000
BATCH = 500

ON_TIME = 0.1
"""Seconds after its time within which an occurrence of the other task starts."""

HELD_UP_MAX = 0.1
"""The share of occurrences that may be later: other programs have their turns on this machine as well."""


async def fill(context, task):
    """Put a million instances of *task* there that were all due a while ago, made after one that was scheduled."""
    await context.schedule_task(
        task, "model", execute_at=datetime.datetime.now(tz=datetime.UTC) - seconds(3600)
    )
    store = runtime_of(context).ledger.store
    (model,) = await store.load([Key(Partition("", task.name), task.name, "model")])

    async def write(first):
        for at in range(first, BACKLOG, 4 * BATCH):
            numbers = range(at, min(at + BATCH, BACKLOG))
            keys = [model.key._replace(instance=f"{number:07}") for number in numbers]
            await store.swap(
                [
                    Change(
                        None,
                        replace(
                            model,
                            key=key,
                            due_at=model.due_at + at,
                            claimable_at=model.claimable_at + at,
                            locator=None,
                        ),
                    )
                    for key in keys
                ]
            )

    await asyncio.gather(*(write(turn * BATCH) for turn in range(4)))


# It takes all that a small machine has, as those of processes do.
@pytest.mark.xdist_group("processes")
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["postgres", "redis"])
async def test_a_backlog_of_a_million_does_not_delay_another_task_once_a_slot_is_free(backend, request):
    url = request.getfixturevalue(f"{backend}_url")
    app = (
        Pyncette(postgres_repository, postgres_url=url)
        if backend == "postgres"
        else Pyncette(redis_repository, redis_url=url)
    )
    done = 0
    late = []

    @app.dynamic_task()
    async def backlog(context):
        nonlocal done
        done += 1
        await asyncio.sleep(0.001)

    @app.dynamic_task()
    async def other(context):
        late.append(time.time() - context.scheduled_at.timestamp())

    async with app.create() as context:
        await fill(context, backlog)
        working = asyncio.create_task(context.run())
        async with asyncio.timeout(300):
            while done < 20_000:  # noqa: ASYNC110 - by then the server has settled down
                await asyncio.sleep(0.1)
        before = done
        begin = datetime.datetime.now(tz=datetime.UTC) + seconds(5)
        items = [(f"{number}", {"execute_at": begin + seconds(number / 10)}) for number in range(100)]
        assert all([result.error is None async for result in context.schedule_many(other, items)])
        assert datetime.datetime.now(tz=datetime.UTC) < begin
        async with asyncio.timeout(60):
            while len(late) < 100:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)
        left = BACKLOG - done
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    assert left > BACKLOG / 2  # the backlog was there all the time
    assert done > before + 1_000  # and was worked on
    late.sort()
    assert late[int(len(late) * (1 - HELD_UP_MAX)) - 1] < ON_TIME, late[-10:]
