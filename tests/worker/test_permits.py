"""No more of a task runs at once than it may, on all workers together, and no worker keeps the others from it."""

import logging
from collections import Counter

import pytest

from pyncette.clock import MILLISECOND, SECOND
from pyncette.coordination.permit_records import PERMITS_REALM, permit_partition
from pyncette.coordination.permits import FIRST, FULL_PAUSE, RETRY_PAUSE, TURN
from pyncette.core.record import Change, Partition, replace
from pyncette.core.schedule import Interval
from pyncette.core.spec import Heartbeat, Mode, Overlap, Policies
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from pyncette.store.memory import MemoryStore
from tests.worker.bench import Bench, Registered

AUTOMATIC = Policies(max_concurrent=2, lease=10 * SECOND)


class Counted(MemoryStore):
    """Counts what it is asked, and whether that is about permits."""

    def __init__(self, backend):
        super().__init__(backend)
        self.asked = Counter()

    async def claim(self, limits, *arguments, **options):
        realms = {partition.realm for partition in limits}
        self.asked["permits" if realms == {PERMITS_REALM} else "claims"] += 1
        return await super().claim(limits, *arguments, **options)

    async def swap(self, changes):
        realms = {(change.before or change.after).key.partition.realm for change in changes}
        self.asked["permits" if realms == {PERMITS_REALM} else "swaps"] += 1
        return await super().swap(changes)

    async def renew(self, renewals, now):
        self.asked["renewals"] += 1
        return await super().renew(renewals, now)


class Unreachable(MemoryStore):
    """Renews nothing: to its worker the backend is away, and to the backend the worker is."""

    async def renew(self, renewals, now):
        raise StoreUnavailableError("nobody answers")


async def free_permits(bench):
    """How many permits there are, and how many nobody has."""
    permits = [
        record
        for partition in await bench.store.partitions(PERMITS_REALM)
        for record in await bench.store.scan(partition, None, None, 1000)
    ]
    return len(permits), sum(record.lease is None for record in permits)


async def due_at_once(bench, handler, number, partition=0):
    for instance in range(number):
        await bench.once(handler, -1, f"{instance}-{partition}", partition)


class LosesReplies(MemoryStore):
    """Loses the reply of the first swap of tasks, or refuses those swaps."""

    def __init__(self, backend):
        super().__init__(backend)
        self.lose = 1
        self.refuse = False

    async def swap(self, changes):
        if any((change.before or change.after).key.partition.realm == PERMITS_REALM for change in changes):
            return await super().swap(changes)
        if self.refuse:
            raise StoreRefusedError("nothing may be written")
        made = await super().swap(changes)
        if self.lose:
            self.lose -= 1
            raise StoreUnavailableError("the reply was lost")
        return made


async def test_starts_whose_reply_is_lost_run_with_their_permits_and_return_them():
    handler = Registered("h", replace(AUTOMATIC, mode=Mode.AT_MOST_ONCE))
    bench = Bench(handler)
    await due_at_once(bench, handler, 2)
    store = LosesReplies(bench.backend)

    async with bench.worker(store) as worker:
        await bench.advance(1)
        assert worker.running == []

    assert len(handler.calls) == 2
    assert await free_permits(bench) == (2, 2)


async def test_starts_that_cannot_be_written_keep_neither_slots_nor_permits():
    handler = Registered("h", replace(AUTOMATIC, mode=Mode.AT_MOST_ONCE))
    bench = Bench(handler)
    await due_at_once(bench, handler, 2)
    store = LosesReplies(bench.backend)
    store.refuse = True

    async with bench.worker(store, slots=2):
        await bench.advance(1)
        assert handler.calls == []
        store.refuse = False
        await bench.advance(120)

    assert len(handler.calls) == 2
    assert await free_permits(bench) == (2, 2)


async def test_all_workers_together_run_no_more_than_the_limit_and_all_gets_done():
    handler = Registered("h", AUTOMATIC, call=lambda _: bench.sleep(1))
    bench = Bench(handler)
    await due_at_once(bench, handler, 10)

    async with bench.worker(holder="a"), bench.worker(holder="b"), bench.worker(holder="c"):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 10


@pytest.mark.parametrize("mode", list(Mode))
async def test_what_overlaps_is_limited_as_well(mode):
    policies = Policies(mode=mode, overlap=Overlap.ALLOW, max_concurrent=3, lease=10 * SECOND)
    handler = Registered("h", policies, call=lambda _: bench.sleep(60))
    bench = Bench(handler)
    await bench.every(handler, 5)

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(50)
        assert handler.most_at_once == 3
        await bench.advance(150)

    assert handler.most_at_once == 3
    assert len(handler.calls) >= 9


async def test_a_limit_in_the_record_of_a_schedule_is_its_own():
    """As a PyncetteTask has it: its handler has no limit, and another schedule of it is not held up."""
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(60))
    bench = Bench(handler)
    running = Counter()
    most = Counter()

    async def call(occurrence):
        name = occurrence.held.record.key.instance
        running[name] += 1
        most[name] = max(most[name], running[name])
        try:
            await bench.sleep(60)
        finally:
            running[name] -= 1

    handler._call = call
    for name, limit in (("limited", 2), ("free", 0)):
        key = await bench.every(handler, 5, name)
        await bench.edit(key, policies=Policies(overlap=Overlap.ALLOW, max_concurrent=limit))

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(200)

    assert most["limited"] == 2
    assert most["free"] > 8


async def test_what_has_no_limit_costs_nothing():
    handler = Registered("h", Policies(lease=10 * SECOND))
    bench = Bench(handler)
    store = Counted(bench.backend)
    await due_at_once(bench, handler, 100)

    async with bench.worker(store):
        await bench.advance(10)

    assert store.asked["permits"] == 0
    assert await bench.store.partitions(PERMITS_REALM) == []


async def test_under_load_permits_go_from_run_to_run_and_alone_a_run_costs_two_statements_more():
    handler = Registered("h", Policies(max_concurrent=50, lease=10 * SECOND))
    bench = Bench(handler)
    store = Counted(bench.backend)
    await due_at_once(bench, handler, 2000)

    async with bench.worker(store, batch_size=100):
        await bench.advance(1)
        assert len(handler.calls) == 2000
        assert store.asked["permits"] <= 10
        store.asked.clear()
        await bench.once(handler, 1, "alone")
        await bench.advance(5)
        assert len(handler.calls) == 2001

    assert store.asked["permits"] == 2


async def test_an_idle_worker_has_no_permits():
    handler = Registered("h", AUTOMATIC)
    bench = Bench(handler)
    await due_at_once(bench, handler, 5)

    async with bench.worker():
        await bench.advance(1)

        assert len(handler.calls) == 5
        assert await free_permits(bench) == (2, 2)


async def test_a_worker_that_stops_leaves_its_permits_to_the_others():
    handler = Registered("h", AUTOMATIC, call=lambda _: bench.sleep(5))
    bench = Bench(handler)
    await due_at_once(bench, handler, 4)

    async with bench.worker(holder="a"):
        await bench.advance(1)
        assert await free_permits(bench) == (2, 0)

    assert await free_permits(bench) == (2, 2)


async def test_what_a_dead_worker_held_comes_back_when_its_leases_end():
    handler = Registered("h", AUTOMATIC)
    bench = Bench(handler)
    async with bench.worker(holder="first"):
        await due_at_once(bench, handler, 1)
        await bench.advance(1)
    (partition,) = await bench.store.partitions(PERMITS_REALM)
    now = bench.clock.now()
    await bench.store.claim({partition: 2}, "of the dead", "dead", now, now)
    await due_at_once(bench, handler, 1, partition=0)
    done = len(handler.calls)

    async with bench.worker(holder="second"):
        await bench.once(handler, 0, "late")
        await bench.advance(9)
        assert len(handler.calls) == done
        await bench.advance(2)

    assert len(handler.calls) > done


async def test_a_run_whose_permit_cannot_be_renewed_is_released_before_another_takes_its_place():
    handler = Registered("h", Policies(max_concurrent=1, lease=10 * SECOND), call=lambda _: bench.sleep(30))
    bench = Bench(handler)
    await due_at_once(bench, handler, 2)

    async with bench.worker(Unreachable(bench.backend), holder="lost"):
        await bench.advance(1)
        assert handler.running == 1
        async with bench.worker(holder="other"):
            await bench.advance(45)

    assert handler.most_at_once == 1
    assert len(handler.calls) >= 2


async def test_a_permit_lasts_although_the_handler_does_not_renew_its_lease():
    """Whoever takes the record over needs a permit as well, and the run that is under way has the only one."""
    policies = Policies(max_concurrent=1, lease=5 * SECOND, heartbeat=Heartbeat.COOPERATIVE)
    handler = Registered("h", policies, call=lambda _: bench.sleep(20))
    bench = Bench(handler)
    await due_at_once(bench, handler, 1)

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(60)

    assert len(handler.calls) == 1


async def test_no_worker_keeps_the_others_from_a_permit_for_long():
    """Each polls partitions of its own, and there is one permit for a backlog in both."""
    bench = Bench()
    policies = Policies(max_concurrent=1, lease=10 * SECOND)
    handlers = [Registered("h", policies, call=lambda _: bench.sleep(0.2), numbers=2) for _ in range(2)]
    for number, handler in enumerate(handlers):
        await due_at_once(bench, handler, 400, number)
        handler.partitions = (Partition("", "h", number),)

    bench.handlers = handlers[:1]
    async with bench.worker(holder="a"):
        bench.handlers = handlers[1:]
        async with bench.worker(holder="b"):
            counts = []
            for _ in range(6):
                before = [len(handler.calls) for handler in handlers]
                await bench.advance(10)
                counts.append(
                    [len(handler.calls) - old for handler, old in zip(handlers, before, strict=True)]
                )
                assert sum(handler.running for handler in handlers) <= 1

    assignment = [sum(count) for count in zip(*counts, strict=True)]
    assert min(assignment) > sum(assignment) / 5
    assert sum(assignment) > 0.75 * 60 / 0.2  # what passes between turns is little


async def test_a_lower_limit_counts_from_the_next_runs_on_and_a_higher_one_at_once():
    handler = Registered("h", Policies(max_concurrent=4, lease=10 * SECOND), call=lambda _: bench.sleep(1))
    bench = Bench(handler)
    await due_at_once(bench, handler, 60)

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(3.5)
        assert handler.most_at_once == 4
        handler.policies = Policies(max_concurrent=1, lease=10 * SECOND)
        await bench.advance(3)
        handler.most_at_once = 0
        await bench.advance(5)
        assert handler.most_at_once == 1
        handler.policies = Policies(max_concurrent=6, lease=10 * SECOND)
        await bench.advance(5)
        assert handler.most_at_once == 6


async def test_a_limit_holds_no_other_task_up():
    limited = Registered(
        "limited", Policies(max_concurrent=1, lease=10 * SECOND), call=lambda _: bench.sleep(5)
    )
    other = Registered("other", Policies())
    bench = Bench(limited, other)
    await due_at_once(bench, limited, 20)

    async with bench.worker(holder="a", slots=4):
        await bench.advance(2)
        await bench.once(other, 0.5, "quick")
        await bench.advance(1)

    assert len(other.calls) == 1


async def test_a_worker_that_waits_for_a_permit_asks_a_few_times_a_second():
    handler = Registered("h", Policies(max_concurrent=1, lease=60 * SECOND), call=lambda _: bench.sleep(30))
    bench = Bench(handler)
    store = Counted(bench.backend)
    await due_at_once(bench, handler, 10)

    async with bench.worker(holder="a"):
        await bench.advance(1)
        async with bench.worker(store, holder="b"):
            await bench.advance(10)

    assert store.asked["permits"] + store.asked["claims"] <= 10 * SECOND // RETRY_PAUSE + 10
    assert TURN > RETRY_PAUSE


@pytest.mark.parametrize("ahead", [40 * MILLISECOND, 5 * SECOND])
async def test_what_was_claimed_and_has_no_permit_is_not_claimed_again_for_a_second(ahead, caplog):
    """However far a worker looks ahead. The limit is in the record, so only a claim tells of it."""
    caplog.set_level(logging.DEBUG, "pyncette.worker.dispatch")
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(60))
    bench = Bench(handler)
    for name in ("one", "other"):
        key = await bench.every(handler, 20, name)
        await bench.edit(key, policies=Policies(overlap=Overlap.ALLOW, max_concurrent=1))
    store = Counted(bench.backend)

    async with bench.worker(store, holder="a", ahead=ahead):
        await bench.advance(50)

    assert len(handler.calls) >= 1
    assert store.asked["claims"] <= 60
    deferred = {
        f"deferred runs: no permit of their task is free records=h/{name} total=1"
        for name in ("one", "other")
    }
    assert deferred & set(caplog.messages)


async def test_instances_with_policies_of_their_own_count_under_the_limit_of_their_template():
    handler = Registered("h", AUTOMATIC, call=lambda _: bench.sleep(1))
    bench = Bench(handler)
    for number in range(5):
        key = await bench.declare(handler, Interval(SECOND), f"{number}")
        await bench.edit(key, policies=Policies(lease=3 * SECOND))

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(20)

    assert handler.most_at_once == 2


# --- As they are needed ----------------------------------------------------------------------------------------------


async def numbers_of(bench, task="h"):
    """The permits that there are."""
    partition = permit_partition("", "h", task)
    return [int(record.key.instance) for record in await bench.store.scan(partition, None, None, 20_000)]


async def test_a_limit_of_thousands_has_few_permits_while_little_runs():
    handler = Registered(
        "h", Policies(max_concurrent=10_000, lease=10 * SECOND), call=lambda _: bench.sleep(1)
    )
    bench = Bench(handler)

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        for number in range(30):
            await bench.once(handler, 2 * number, f"{number}")
        await bench.advance(70)

    assert len(handler.calls) == 30
    assert await numbers_of(bench) == list(range(FIRST))


async def test_permits_grow_with_what_runs_and_never_above_the_limit():
    handler = Registered("h", Policies(max_concurrent=150, lease=10 * SECOND), call=lambda _: bench.sleep(5))
    bench = Bench(handler)
    await due_at_once(bench, handler, 600)

    async with bench.worker(holder="a"), bench.worker(holder="b"), bench.worker(holder="c"):
        await bench.advance(4)
        assert handler.most_at_once == 150
        await bench.advance(60)

    assert handler.most_at_once == 150
    assert len(handler.calls) == 600
    assert await numbers_of(bench) == list(range(150))


async def test_permits_that_were_removed_are_created_again_while_the_task_exists():
    """They go with a task that is removed, and it may be back before a worker that had seen them all looks again."""
    handler = Registered("h", AUTOMATIC, call=lambda _: bench.sleep(1))
    bench = Bench(handler)
    await due_at_once(bench, handler, 12)

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(1.5)
        await bench.advance(10)
        (partition,) = await bench.store.partitions(PERMITS_REALM)
        records = await bench.store.scan(partition, None, None, 10)
        await bench.store.swap([Change(record, None) for record in records])
        await due_at_once(bench, handler, 4, partition=0)
        for number in range(4):
            await bench.once(handler, 1, f"again-{number}")
        await bench.advance(FULL_PAUSE // SECOND + 10)

    assert len(handler.calls) >= 16
    assert handler.most_at_once == 2


async def test_a_worker_that_waits_creates_no_permits_for_a_task_that_is_gone():
    handler = Registered("h", Policies(max_concurrent=1, lease=60 * SECOND), call=lambda _: bench.sleep(30))
    bench = Bench(handler)
    await due_at_once(bench, handler, 3)

    async with bench.worker(holder="a"), bench.worker(holder="b"):
        await bench.advance(5)
        assert handler.running == 1
        records = await bench.store.scan(Partition("", "h"), None, None, 100)
        await bench.store.swap([Change(record, None) for record in records])
        (partition,) = await bench.store.partitions(PERMITS_REALM)
        permits = await bench.store.scan(partition, None, None, 100)
        await bench.store.swap([Change(record, None) for record in permits])
        await bench.advance(60)

        assert await numbers_of(bench) == []


async def test_a_limit_that_was_lowered_leaves_no_permits_over_once_something_runs():
    handler = Registered("h", Policies(max_concurrent=30, lease=10 * SECOND), call=lambda _: bench.sleep(1))
    bench = Bench(handler)
    await due_at_once(bench, handler, 60)

    async with bench.worker(holder="a"):
        await bench.advance(5)
        assert len(await numbers_of(bench)) == 30
        handler.policies = Policies(max_concurrent=3, lease=10 * SECOND)
        await bench.once(handler, 1, "next")
        await bench.advance(5)

        assert await numbers_of(bench) == [0, 1, 2]
