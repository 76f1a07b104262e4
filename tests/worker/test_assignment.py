"""Workers share partitions out among themselves: evenly, without a leader, and so that nothing is left alone for long."""

from collections import Counter
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.clock import SECOND
from pyncette.coordination.assignment import LONGEST_TURNS, ORPHAN_AGE, REFRESH_PAUSE, TURN, shared_out
from pyncette.coordination.members import MEMBERS_REALM, TASK
from pyncette.core.record import Change, Key, Lease, Partition, Record
from pyncette.core.spec import Policies, Spec
from pyncette.store.memory import MemoryStore
from tests.worker.bench import Bench, Registered

NUMBERS = 12

HOLDERS = st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=12)


class Watched(MemoryStore):
    """Remembers which partitions were asked for, and how often."""

    def __init__(self, backend):
        super().__init__(backend)
        self.asked = Counter()
        self.claims = 0

    async def claim(self, limits, lease_id, holder, now, expired_at, ahead=0):
        self.claims += 1
        if now > self.backend.now() - ORPHAN_AGE:  # no look at what others have left alone
            self.asked.update(partition.number for partition in limits)
        return await super().claim(limits, lease_id, holder, now, expired_at, ahead)


def a_handler(bench, late=None, **options):
    async def call(occurrence):
        if late is not None:
            late.append((bench.clock.now() - occurrence.held.scheduled_at) / SECOND)

    handler = Registered("h", Policies(lease=10 * SECOND), call=call, numbers=NUMBERS, **options)
    handler.shared_among = NUMBERS
    bench.handlers = (handler,)
    return handler


async def a_frozen_member(bench, holder):
    """A worker that others still take for one, and which does nothing any more."""
    now = bench.clock.now()
    record = Record(
        Key(Partition(MEMBERS_REALM, ""), TASK, holder),
        Spec(args=b'{"handlers":["h"],"version":"1","reader":1,"slots":1,"startedAt":0}'),
        now, now, None, now, None, 600 * SECOND, lease=Lease("frozen", holder, now + 600 * SECOND),
    )  # fmt: skip
    assert await bench.store.swap([Change(None, record)]) == [True]


@given(st.integers(0, 50), HOLDERS)
def test_each_partition_has_one_worker_and_none_has_two_more_than_another(count, holders):
    assignment = shared_out(count, "task", list(holders))

    assert sorted(number for share in assignment.values() for number in share) == list(range(count))
    sizes = [len(share) for share in assignment.values()]
    assert max(sizes) - min(sizes) <= 1


@given(HOLDERS)
def test_all_workers_work_out_the_same(holders):
    assert shared_out(20, "task", sorted(holders)) == shared_out(20, "task", sorted(holders, reverse=True))


def test_of_the_partitions_most_stay_as_a_worker_comes():
    holders = [f"worker-{number}" for number in range(10)]
    before = {
        number: holder for holder, share in shared_out(200, "task", holders).items() for number in share
    }
    after = {
        number: holder
        for holder, share in shared_out(200, "task", [*holders, "new"]).items()
        for number in share
    }

    moved = sum(before[number] != after[number] for number in range(200))
    assert moved < 200 / 3


async def test_each_worker_polls_its_own_share():
    bench = Bench()
    a_handler(bench)
    stores = [Watched(bench.backend) for _ in range(3)]

    async with AsyncExitStack() as stack:
        for number, store in enumerate(stores):
            await stack.enter_async_context(bench.worker(store, f"w{number}", assignment=True))
        await bench.advance(2 * REFRESH_PAUSE / SECOND)
        for store in stores:
            store.asked.clear()
        await bench.advance(60)
        for _ in range(3):
            for number in range(NUMBERS):
                await bench.once(bench.handlers[0], 1, f"{bench.clock.now()}", number)
            await bench.advance(5)
        assignment = [set(store.asked) for store in stores]

    assert [len(share) for share in assignment] == [4, 4, 4]
    assert set.union(*assignment) == set(range(NUMBERS))
    assert len(bench.handlers[0].calls) == 3 * NUMBERS


async def test_shares_are_made_anew_as_workers_come_and_go():
    bench = Bench()
    a_handler(bench)
    stores = [Watched(bench.backend) for _ in range(2)]

    async def polled(store):
        store.asked.clear()
        for number in range(NUMBERS):
            await bench.once(bench.handlers[0], 1, f"{bench.clock.now()}", number)
        await bench.advance(3)
        return len(store.asked)

    async with bench.worker(stores[0], "w0", assignment=True):
        await bench.advance(45)
        assert await polled(stores[0]) == NUMBERS
        async with bench.worker(stores[1], "w1", assignment=True):
            await bench.advance(45)
            assert await polled(stores[0]) == await polled(stores[1]) == NUMBERS // 2
        await bench.advance(1)
        assert await polled(stores[0]) == NUMBERS  # who stops says so

    assert len(bench.handlers[0].calls) == 4 * NUMBERS


async def test_what_others_leave_alone_keeps_to_the_limit_of_its_handler():
    bench = Bench()

    async def take_a_while(_):
        await bench.sleep(1)

    handler = Registered(
        "h", Policies(lease=10 * SECOND), call=take_a_while, concurrency_limit=1, numbers=NUMBERS
    )
    handler.shared_among = NUMBERS
    bench.handlers = (handler,)
    await a_frozen_member(bench, "frozen")

    async with bench.worker(bench.store, "w", assignment=True):
        await bench.advance(45)
        for number in range(NUMBERS):
            await bench.once(handler, 1, f"{number}", number)
        await bench.advance(60)

    assert len(handler.calls) == NUMBERS
    assert handler.most_at_once == 1


@pytest.mark.parametrize(("others", "frozen"), [(0, 1), (1, 1), (2, 6)])
async def test_what_a_worker_leaves_alone_waits_for_seconds_and_from_then_on_no_more(others, frozen):
    bench = Bench()
    late = []
    handler = a_handler(bench, late)
    for number in range(frozen):
        await a_frozen_member(bench, f"frozen-{number}")

    async with AsyncExitStack() as stack:
        for number in range(1 + others):
            await stack.enter_async_context(bench.worker(holder=f"w{number}", assignment=True))
        await bench.advance(45)
        for number in range(NUMBERS):
            await bench.once(handler, 1, f"{number}", number)
        await bench.advance(14)
        bound = min(TURN * (1 + others + frozen), LONGEST_TURNS) + ORPHAN_AGE
        assert len(late) == NUMBERS
        assert 0 < max(late) <= bound / SECOND
        late.clear()
        for number in range(NUMBERS):
            await bench.once(handler, 1, f"again {number}", number)
        await bench.advance(2)

    assert len(late) == NUMBERS
    assert max(late) < 0.1


async def test_a_worker_that_is_full_is_helped_by_one_that_is_not():
    bench = Bench()
    late = []
    handler = a_handler(bench)

    async def call(occurrence):
        late.append((bench.clock.now() - occurrence.held.scheduled_at) / SECOND)
        await bench.sleep(8)

    handler._call = call

    async with (
        bench.worker(holder="w0", assignment=True, slots=2),
        bench.worker(holder="w1", assignment=True, slots=50),
    ):
        await bench.advance(45)
        for number in range(NUMBERS):
            await bench.once(handler, 1, f"{number}", number)
        await bench.advance(8)

    assert len(late) == NUMBERS
    assert max(late) <= (2 * TURN + ORPHAN_AGE) / SECOND


@pytest.mark.parametrize("assignment", [True, False])
async def test_in_a_large_pool_one_worker_wakes_for_what_is_due_and_not_all(assignment):
    bench = Bench()
    handler = a_handler(bench)
    stores = [Watched(bench.backend) for _ in range(10)]

    async with AsyncExitStack() as stack:
        for number, store in enumerate(stores):
            await stack.enter_async_context(bench.worker(store, f"w{number}", assignment=assignment))
        await bench.advance(45)
        before = sum(store.claims for store in stores)
        for number in range(60):
            await bench.once(handler, 1 + number, f"{number}", number % NUMBERS)
        await bench.advance(62)

    claims = sum(store.claims for store in stores) - before
    assert len(handler.calls) == 60
    # Each looks at the others' six times a minute at most; one claims what is due, and sees that there is no more.
    assert claims < 400 if assignment else claims >= 600
