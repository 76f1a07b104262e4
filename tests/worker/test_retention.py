"""What is over leaves no more behind than is promised, however much there was and whoever came and went."""

from pyncette.clock import SECOND
from pyncette.coordination.members import MEMBERS_REALM
from pyncette.coordination.permit_records import PERMITS_REALM
from pyncette.core.accounting import COUNTER_SHARDS, is_shard
from pyncette.core.record import Partition
from pyncette.core.spec import Policies
from tests.worker.bench import Bench, Registered


async def left(bench, realm=""):
    """The keys of all records of a realm."""
    return [
        record.key
        for partition in await bench.store.partitions(realm)
        for record in await bench.store.scan(partition, None, None, 10_000)
    ]


async def test_of_one_offs_that_ended_nothing_is_left_but_their_counts():
    handler = Registered("h", Policies())
    bench = Bench(handler)
    for number in range(2_000):
        await bench.once(handler, number % 10, f"{number}")

    async with bench.worker():
        await bench.advance(20)

    assert len(handler.calls) == 2_000
    keys = await left(bench)
    assert all(not key.instance and (not key.occurrence or is_shard(key)) for key in keys)
    assert len(keys) <= COUNTER_SHARDS
    assert list(bench.backend.histories) == []


async def test_a_history_holds_no_more_rows_than_it_may_after_however_many_runs():
    async def fail(_):
        fails.append(1)
        if len(fails) % 3 == 0:
            raise RuntimeError("it failed")

    fails = []
    handler = Registered("h", Policies(keep_successful=3, keep_failed=10), call=fail)
    bench = Bench(handler)
    key = await bench.every(handler, 1)

    async with bench.worker():
        await bench.advance(300)

    assert len(fails) > 60
    assert len(await bench.store.history(key)) <= 13


async def test_members_that_died_are_removed_when_others_list_the_members():
    bench = Bench(Registered("h", Policies()))
    for number in range(20):
        async with bench.worker(holder=f"w{number}", assignment=True) as worker:
            await bench.advance(1)
            worker._membership._record = None  # as if it was killed: nothing is withdrawn
            worker._membership._announced = False
    assert len(await left(bench, MEMBERS_REALM)) == 20
    await bench.advance(300)

    async with bench.worker(holder="last", assignment=True):
        await bench.advance(1)

        assert [key.instance for key in await left(bench, MEMBERS_REALM)] == ["last"]


async def test_permits_beyond_a_lower_limit_are_removed():
    handler = Registered("h", Policies(max_concurrent=500, lease=10 * SECOND))
    bench = Bench(handler)
    for limit in (500, 3):
        handler.policies = Policies(max_concurrent=limit, lease=10 * SECOND)
        for number in range(10):
            await bench.once(handler, 1, f"{limit}-{number}")
        async with bench.worker(holder=f"w{limit}"):
            await bench.advance(5)

    assert len(handler.calls) == 20
    assert len(await left(bench, PERMITS_REALM)) == 3
    assert await bench.store.partitions("") == [Partition("", "h")]
