"""
What a run, an idle minute and a call cost on each backend, counted in statements and round trips, which no laden machine changes.

Time is for `make bench`. Here each figure of COSTS is exact: who makes something dearer, or cheaper, changes it there.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest

from pyncette import Context, ExecutionMode, FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.clock import SystemClock
from pyncette.store.backend import read_backend
from pyncette.task import Task
from pyncette.testing import VirtualClock
from pyncette.worker.poller import SAFETY_POLL
from tests.servers.counting import (
    CountingProxy,
    Protocol,
    Traffic,
    called_on,
    commands_of,
    counting_sqlite,
    dynamodb,
    mysql,
    postgres,
    redis,
)

HOUR = datetime.timedelta(hours=1)

ZONE = ZoneInfo("Asia/Kolkata")
"""Its clocks do not change, so what is due half an hour ago is due once, on each day of the year."""


class Cost(NamedTuple):
    """How often something is asked of a backend."""

    statements: int
    round_trips: int


class Costs(NamedTuple):
    claim: Cost
    complete: Cost
    """Of a batch whose schedules go on."""
    remove: Cost
    """Of a batch that has no further occurrence, and is counted for its template."""
    at_most_once: Cost
    """What a batch that runs at most once takes beside its claim: the starts before, and what became of them after."""
    life: Cost
    """What comes with a worker, at most: connections, the schema, its membership, the look that finds nothing more."""
    look: Cost
    """That finds nothing."""
    bulk: Cost
    """To schedule 1,000 instances at once."""
    create: Cost
    """To schedule one that is new..."""
    edit: Cost
    """... or that is there..."""
    get: Cost
    unschedule: Cost


ONE = Cost(1, 1)

MYSQL = Costs(
    # A stamp that is committed by itself, a read of what was stamped, and the time around both, in one message.
    claim=Cost(4, 1),
    # A transaction in one message: the update, and which rows it was.
    complete=Cost(4, 1),
    # The same, with what is to be deleted, its history, and the record that counts for the template.
    remove=Cost(8, 1),
    # Two such transactions, each with records to create or to delete; and a look at what runs beside its schedule.
    at_most_once=Cost(18, 4),
    life=Cost(75, 50),
    # Where nothing was found the time before, only the head of the index is asked for.
    look=ONE,
    bulk=Cost(8, 2),
    create=Cost(5, 2),
    edit=Cost(5, 2),
    get=ONE,
    unschedule=Cost(7, 2),
)

REDIS = Costs(
    # Each is a script, also for many.
    claim=ONE,
    complete=ONE,
    remove=ONE,
    # The starts, the ends, and a look at the schedules that they lived beside.
    at_most_once=Cost(3, 3),
    life=Cost(50, 50),
    look=ONE,
    # A script each 500.
    bulk=Cost(2, 2),
    # A look, and a script.
    create=Cost(2, 2),
    edit=Cost(2, 2),
    get=ONE,
    unschedule=Cost(2, 2),
)

COSTS = {
    "sqlite": Costs(
        # A look, and the leases, which have a table of their own.
        claim=Cost(2, 1),
        # Which leases still live, the update, and the end of the leases.
        complete=Cost(3, 1),
        # The same with rows and their history to delete; the record that counts is among those that are updated.
        remove=Cost(5, 1),
        at_most_once=Cost(13, 2),
        life=Cost(60, 15),
        look=Cost(3, 1),
        # Which of them are there already, and the rest, each 500.
        bulk=Cost(4, 2),
        create=Cost(3, 1),
        edit=Cost(4, 1),
        # To read, nothing is waited for.
        get=Cost(1, 0),
        unschedule=Cost(4, 1),
    ),
    "postgres": Costs(
        # The design: one statement claims a batch, and one completes it.
        claim=ONE,
        complete=ONE,
        remove=ONE,
        # The starts, the ends, the ids of the records that were created in between, and the schedules they lived beside.
        at_most_once=Cost(4, 4),
        # Each statement is prepared once on each of four connections.
        life=Cost(40, 85),
        look=ONE,
        # An insert each 500.
        bulk=Cost(2, 2),
        # A look, and a write.
        create=Cost(2, 2),
        edit=Cost(2, 2),
        get=ONE,
        unschedule=Cost(2, 2),
    ),
    "mariadb": MYSQL,
    "mysql": MYSQL,
    "redis": REDIS,
    "redis_cluster": REDIS,
    "dynamodb": Costs(
        # A look at each of the four shards and one more, and two batches of 25 conditional writes.
        claim=Cost(7, 7),
        complete=Cost(2, 2),
        # Two transactions with the record that counts; and each record is asked for its history.
        remove=Cost(52, 52),
        # What has to be made together is a transaction for each run, before and after it.
        at_most_once=Cost(101, 101),
        life=Cost(15, 15),
        look=Cost(4, 4),
        # Batches of 25.
        bulk=Cost(40, 40),
        create=Cost(2, 2),
        edit=Cost(2, 2),
        get=ONE,
        unschedule=Cost(3, 3),
    ),
}


class Counted(NamedTuple):
    """A backend that is empty, and counts what it is asked."""

    url: str
    traffic: Callable[[], Traffic]
    costs: Costs
    notifies: bool = False
    due: int = 2_000
    batch: int = 25
    """Records of one claim. Few, so that one statement more a batch shows beside what comes with a worker."""


@contextmanager
def listened_in(url: str, at: str, protocol: Protocol) -> Iterator[tuple[str, Callable[[], Traffic]]]:
    """Return *url* by way of a proxy to the server that is *at* another URL, and what counts there."""
    server = urlsplit(at)
    assert server.hostname is not None
    assert server.port is not None
    with CountingProxy(server.port, protocol, server.hostname) as proxy:
        yield url.replace(f"{server.hostname}:{server.port}", f"127.0.0.1:{proxy.port}"), proxy.traffic


@pytest.fixture
def mysql_url(mysql):
    with mysql.fresh_database() as url:
        yield url


@pytest.fixture(
    params=[
        "sqlite",
        "postgres",
        "mariadb",
        "mysql",
        "redis",
        "redis_cluster",
        pytest.param("dynamodb", marks=pytest.mark.xdist_group("dynamodb")),
    ]
)
def counted(request, tmp_path):
    name = request.param
    costs = COSTS[name]
    if name == "sqlite":
        with counting_sqlite() as traffic:
            yield Counted(f"sqlite:///{tmp_path / 'tasks.sqlite'}", traffic, costs)
        return
    url = request.getfixturevalue(f"{name}_url")
    if name == "redis_cluster":
        nodes = request.getfixturevalue("redis_cluster").nodes
        yield Counted(url, lambda: commands_of(nodes), costs, notifies=True)
        return
    protocol = {"postgres": postgres, "mariadb": mysql, "mysql": mysql, "redis": redis, "dynamodb": dynamodb}[
        name
    ]
    at = request.getfixturevalue("dynamodb").endpoint if name == "dynamodb" else url
    with listened_in(url, at, protocol) as (through, traffic):
        if name == "dynamodb":
            yield Counted(through, traffic, costs, due=500, batch=50)
        else:
            yield Counted(through, traffic, costs, notifies=name in {"postgres", "redis"})


class Drained(NamedTuple):
    """An app whose runs end only when they are told to, a batch at a time."""

    app: Pyncette
    task: Task
    gates: list[asyncio.Event]
    """Of the runs that have begun and not ended, the first one first."""
    ended: list[str]
    failing: set[str]


def an_app(counted: Counted, poll_interval: datetime.timedelta = 10 * HOUR, **options: object) -> Drained:
    # There are slots for all: a worker without one tells the others, and how often depends on the time.
    # Leases outlast the test, and no look comes by itself.
    app = Pyncette(poll_interval=poll_interval, batch_size=counted.batch, concurrency_limit=10_000)
    gates: list[asyncio.Event] = []
    ended: list[str] = []
    failing: set[str] = set()

    @app.dynamic_task(lease_duration=HOUR, fast_forward=True, **options)
    async def tick(context: Context) -> None:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        ended.append(context.task.name)
        if context.task.name in failing:
            raise ValueError("as it is meant to")

    return Drained(app, tick, gates, ended, failing)


def opened(drained: Drained, counted: Counted, clock: VirtualClock | None = None):
    return drained.app.create(clock=clock or SystemClock(), new_store=read_backend(counted.url).new_store)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - of several things, none of which is an event
            await asyncio.sleep(0.001)


async def schedule(
    drained: Drained, counted: Counted, how: Callable[[datetime.datetime], dict[str, object]]
) -> None:
    """Schedule as many as are to be due, an hour ago, for half an hour ago."""
    past = datetime.datetime.now(datetime.UTC) - HOUR
    options = how(past + HOUR / 2)
    async with opened(drained, counted, VirtualClock(past)) as context:
        results = context.schedule_many(
            drained.task, [(str(number), options) for number in range(counted.due)]
        )
        assert {result.error async for result in results} == {None}


async def drain(
    drained: Drained, counted: Counted, number: int, clock: VirtualClock | None = None
) -> Traffic:
    """
    Run *number* due instances, and return what it took.

    All are claimed before the first run ends, and a batch of runs ends only when what became of the one before is
    written. So claims and completions are all full, and none is shared with another, however slow the machine is.
    """
    drained.ended.clear()
    async with opened(drained, counted, clock) as context:
        before = counted.traffic()
        running = asyncio.create_task(context.run())
        await until(lambda: len(drained.gates) == number)
        while drained.gates:
            batch, drained.gates[:] = drained.gates[: counted.batch], drained.gates[counted.batch :]
            for gate in batch:
                gate.set()
            done = len(drained.ended) + len(batch)
            await until(lambda: len(drained.ended) == done and not runtime_of(context).figures.unwritten)  # noqa: B023 - awaited
        context.shutdown()
        await running
        after = counted.traffic()
    assert len(set(drained.ended)) == len(drained.ended) == number
    return after - before


def assert_costs(found: Traffic, counted: Counted, number: int, *costs: Cost) -> None:
    """
    Each batch cost as much as *costs* together, beside what comes with a worker.

    Not less either, in statements: who saves some lowers what COSTS says. Round trips may be shared with others.
    """
    batches = math.ceil(number / counted.batch)
    statements = batches * sum(cost.statements for cost in costs)
    round_trips = batches * sum(cost.round_trips for cost in costs)
    told = f"{counted.costs} for {batches} batches, and these were sent:\n{found}"
    assert statements <= found.statements.total() <= statements + counted.costs.life.statements, told
    assert found.round_trips <= round_trips + counted.costs.life.round_trips, told


def cron_at(due: datetime.datetime) -> dict[str, object]:
    local = due.astimezone(ZONE)
    return {"schedule": f"{local.minute} {local.hour} * * *", "timezone": ZONE.key}


# --- Runs ------------------------------------------------------------------------------------------------------------


async def test_a_batch_of_runs_is_a_claim_and_a_completion(counted):
    drained = an_app(counted)
    await schedule(drained, counted, cron_at)

    found = await drain(drained, counted, counted.due)

    assert_costs(found, counted, counted.due, counted.costs.claim, counted.costs.complete)


async def test_an_interval_costs_what_a_cron_costs(counted):
    drained = an_app(counted)
    await schedule(drained, counted, lambda _: {"interval": HOUR * 2 / 3})

    found = await drain(drained, counted, counted.due)

    assert_costs(found, counted, counted.due, counted.costs.claim, counted.costs.complete)


async def test_one_offs_are_removed_a_batch_at_a_time(counted):
    drained = an_app(counted)
    await schedule(drained, counted, lambda due: {"execute_at": due})

    found = await drain(drained, counted, counted.due)

    assert_costs(found, counted, counted.due, counted.costs.claim, counted.costs.remove)


async def test_at_most_once_runs_are_written_before_and_after_a_batch_at_a_time(counted):
    drained = an_app(counted, execution_mode=ExecutionMode.AT_MOST_ONCE)
    await schedule(drained, counted, cron_at)

    found = await drain(drained, counted, counted.due)

    assert_costs(found, counted, counted.due, counted.costs.claim, counted.costs.at_most_once)


async def test_failures_and_their_retries_cost_what_other_runs_cost(counted):
    drained = an_app(counted, failure_mode=FailureMode.UNLOCK)
    await schedule(drained, counted, cron_at)
    retried = counted.due // 10
    drained.failing.update(str(number) for number in range(retried))

    found = await drain(drained, counted, counted.due)

    assert_costs(found, counted, counted.due, counted.costs.claim, counted.costs.complete)
    drained.failing.clear()
    later = VirtualClock(datetime.datetime.now(datetime.UTC) + 11 * HOUR)
    found = await drain(drained, counted, retried, later)
    assert_costs(found, counted, retried, counted.costs.claim, counted.costs.complete)


# --- What scripts call -----------------------------------------------------------------------------------------------

CALLED = Counter(
    evalsha=2, time=1, hlen=1, zcard=3, zrange=4, hmget=2, hset=2, zadd=2, zrem=1, zremrangebyrank=1
)
"""By the script that claims a batch, and the one that completes it, however many records there are in it."""

CALLED_AT_MOST_ONCE = CALLED + Counter(evalsha=2, hmget=2, hset=1, hdel=1, zadd=3, zrem=4)
"""The starts are written, too, and what they are beside is read."""

CALLED_REMOVING = CALLED + Counter(hdel=1, zrem=2, unlink=25)
"""Records go all at once, and the history of each is under a key of its own."""

CALLED_BESIDE = 20
"""How often each command is called at most by what comes with a worker; one more for each batch would be four times as many."""


@pytest.mark.parametrize(
    ("how", "options", "called"),
    [
        pytest.param(cron_at, {}, CALLED, id="completed"),
        pytest.param(
            cron_at,
            {"execution_mode": ExecutionMode.AT_MOST_ONCE},
            CALLED_AT_MOST_ONCE,
            id="at most once",
        ),
        pytest.param(lambda due: {"execute_at": due}, {}, CALLED_REMOVING, id="removed"),
    ],
)
async def test_scripts_of_redis_call_no_more_commands_than_they_have_to(own_redis, how, options, called):
    """A proxy hears a script as one command, whatever it does; the server counts all, and nobody else is on this one."""
    counted = Counted(own_redis.url, Traffic, COSTS["redis"], notifies=True)
    drained = an_app(counted, **options)
    await schedule(drained, counted, how)

    before = called_on(own_redis)
    await drain(drained, counted, counted.due)
    found = called_on(own_redis)
    found.subtract(before)

    batches = counted.due // counted.batch
    beside = {name: number - batches * called[name] for name, number in found.items()}
    assert {name: more for name, more in beside.items() if not 0 <= more <= CALLED_BESIDE} == {}


# --- Waiting ---------------------------------------------------------------------------------------------------------


async def test_an_idle_worker_sends_next_to_nothing(counted):
    interval = datetime.timedelta(seconds=0.5)
    drained = an_app(counted, poll_interval=interval)
    async with opened(drained, counted) as context:
        later = cron_at(datetime.datetime.now(datetime.UTC) + 12 * HOUR)
        results = context.schedule_many(drained.task, [(str(number), later) for number in range(1_000)])
        assert {result.error async for result in results} == {None}
        running = asyncio.create_task(context.run())
        await asyncio.sleep(1)  # for what comes with a worker

        began, before = asyncio.get_running_loop().time(), counted.traffic()
        await asyncio.sleep(3)
        found = counted.traffic() - before
        seconds = asyncio.get_running_loop().time() - began

        context.shutdown()
        await running

    pause = SAFETY_POLL / 1e6 if counted.notifies else interval.total_seconds()
    looks = math.floor(seconds / pause) + 1
    # One more: what tells others that this worker runs is renewed each twenty seconds.
    assert found.statements.total() <= looks * counted.costs.look.statements + 1, str(found)
    assert found.round_trips <= looks * counted.costs.look.round_trips + 1, str(found)


# --- Calls -----------------------------------------------------------------------------------------------------------


async def cheapest(counted: Counted, call: Callable[[int], Awaitable[object]]) -> Cost:
    """Make a call some times, and return what the cheapest took: others may have been the first on their connection."""
    found = []
    for number in range(5):
        before = counted.traffic()
        await call(number)
        traffic = counted.traffic() - before
        found.append(Cost(traffic.statements.total(), traffic.round_trips))
    return min(found)


async def test_a_thousand_instances_are_scheduled_in_few_statements(counted):
    drained = an_app(counted)
    later = cron_at(datetime.datetime.now(datetime.UTC) + 12 * HOUR)

    async with opened(drained, counted) as context:

        async def bulk(number: int) -> None:
            items = [(f"{number}-{each}", later) for each in range(1_000)]
            assert {result.error async for result in context.schedule_many(drained.task, items)} == {None}

        found = await cheapest(counted, bulk)

    # What is sent at once may share a round trip.
    assert found.statements == counted.costs.bulk.statements
    assert found.round_trips <= counted.costs.bulk.round_trips


async def test_a_call_for_one_instance_is_a_few_round_trips(counted):
    drained = an_app(counted)
    later = cron_at(datetime.datetime.now(datetime.UTC) + 12 * HOUR)
    sooner = cron_at(datetime.datetime.now(datetime.UTC) + 11 * HOUR)

    async with opened(drained, counted) as context:
        task = drained.task
        created = await cheapest(counted, lambda n: context.schedule_task(task, str(n), **later))
        edited = await cheapest(counted, lambda n: context.schedule_task(task, str(n), **sooner))
        got = await cheapest(counted, lambda n: context.get_task(task, str(n)))
        unscheduled = await cheapest(counted, lambda n: context.unschedule_task(task, str(n)))
        assert not (await context.list_tasks(task)).tasks

    costs = counted.costs
    assert (created, edited, got, unscheduled) == (costs.create, costs.edit, costs.get, costs.unschedule)


async def test_notifying_others_of_records_due_soon_costs_one_more_statement(counted):
    drained = an_app(counted)

    async with opened(drained, counted) as context:
        soon = {"execute_at": datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=10)}
        created = await cheapest(counted, lambda n: context.schedule_task(drained.task, str(n), **soon))

    more = int(counted.notifies)
    assert created == Cost(*(figure + more for figure in counted.costs.create))
