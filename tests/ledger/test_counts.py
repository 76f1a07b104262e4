"""What ends with its record is counted at another record, in the same write."""

import asyncio
from datetime import timedelta

import pytest

from pyncette.core import edits
from pyncette.core.accounting import COUNTER_SHARDS, RemovedCounts
from pyncette.core.record import Change, Counts, Summary, replace
from pyncette.core.runs import Completion
from pyncette.core.schedule import Once
from pyncette.core.spec import Overlap
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger, Ruling
from tests.core.play import nonzero
from tests.ledger.bench import MINUTE, TEMPLATE, Bench

SUCCEEDED_ONCE = RemovedCounts(TEMPLATE._replace(instance="ada"), Summary(counts=Counts(succeeded=1)))


async def test_one_offs_that_end_together_are_counted_in_the_write_that_removes_them(bench):
    await bench.declare_template()
    for number in range(50):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    holding = await bench.start()

    assert all(await bench.ledger.settle([bench.completion(held) for held in holding]))

    assert list(await bench.all()) == ["remind"]
    template = await bench.load(TEMPLATE)
    assert template.state.summary.counts.succeeded == 50
    assert len(bench.store.batches) == 1


async def test_more_one_offs_than_fit_into_one_write_are_each_counted_in_that_which_removes_them():
    bench = Bench(swap_batch_max=10)
    for number in range(50):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    holding = await bench.start()

    assert all(await bench.ledger.settle([bench.completion(held) for held in holding]))

    assert (await bench.load(TEMPLATE)).state.summary.counts.succeeded == 50
    assert max(len(batch) for batch in bench.store.batches) <= 10


async def test_a_lost_reply_does_not_lose_or_double_what_was_counted(bench):
    await bench.declare("once", Once(bench.now + MINUTE))
    (held,) = await bench.start()
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.settle(held)

    await bench.settle(held)

    assert (await bench.load(TEMPLATE)).state.summary.counts.succeeded == 1


async def test_a_schedule_whose_run_ends_together_with_a_side_run_is_completed_and_counts_both(bench):
    record = await bench.declare()
    extra = edits.on_demand(record, record.spec.policies, "now", bench.now)
    await bench.others.swap([Change(None, extra)])
    holding = await bench.start()

    written = await bench.ledger.settle([bench.completion(held) for held in holding])

    assert written == [True, True]
    (left,) = (await bench.all()).values()
    assert left.due_at == record.due_at + MINUTE
    assert left.state.summary.counts.succeeded == 2


async def test_a_process_that_loses_a_race_to_count_at_a_template_counts_at_another_shard(bench):
    await bench.declare_template()
    for number in range(2):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    mine, yours = await bench.start()
    others = Ledger(bench.others, bench.clock)
    bench.store.before_swaps = [lambda: others.settle([bench.completion(yours)])]

    assert await bench.settle(mine)

    counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
    assert counted == [1, 1]


async def test_writes_of_one_process_do_not_race_each_other_to_count(bench):
    await bench.declare_template()
    for number in range(20):
        await bench.declare(str(number), Once(bench.now + MINUTE))
    settling = [bench.completion(held) for held in await bench.start()]

    async def beside():
        assert all(await bench.ledger.settle(settling[10:]))

    bench.store.before_swaps = [beside]

    assert all(await bench.ledger.settle(settling[:10]))

    # One for each, and one to create the second record to count at.
    assert len(bench.store.batches) == 3
    counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
    assert counted == [10, 10]


async def test_counts_of_many_workers_at_one_template_add_up(bench):
    workers = [Ledger(bench.others, bench.clock) for _ in range(5)]
    for round_ in range(1, 4):
        for number in range(20):
            await bench.declare(f"{round_}-{number}", Once(bench.now + MINUTE))
        settling = [bench.completion(held) for held in await bench.start()]

        await asyncio.gather(*(worker.settle(settling[at::5]) for at, worker in enumerate(workers)))

        counted = [record.state.summary.counts.succeeded for record in (await bench.all()).values()]
        assert sum(counted) == 20 * round_
    assert len(counted) <= COUNTER_SHARDS


async def test_a_side_run_is_counted_at_its_schedule_or_else_at_its_template(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    (first,) = await bench.start()
    await bench.settle(first)
    assert (await bench.load(record.key)).state.summary.counts.succeeded == 1

    (second,) = await bench.start()
    await bench.others.swap([Change(await bench.load(record.key), None)])
    await bench.settle(second)

    assert list(await bench.all()) == ["remind"]
    assert (await bench.load(TEMPLATE)).state.summary.counts.succeeded == 1


async def test_a_removal_that_loses_its_race_is_not_counted(bench):
    await bench.declare("once", Once(bench.now + MINUTE))
    (held,) = await bench.start()
    await bench.take_over()

    assert not await bench.settle(held)

    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {}


async def test_a_removal_that_never_gets_its_turn_to_be_counted_is_not_made_and_holds_up_no_other(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    other = await bench.declare("bob")
    holding = {held.record.key.instance: held for held in await bench.start()}
    held = holding["ada"]

    async def touch():
        stored = await bench.load(record.key)
        await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))])

    bench.store.before_each_swap = touch

    outcomes = await bench.ledger.settle([bench.completion(held), bench.completion(holding["bob"])])

    assert [type(outcome) for outcome in outcomes] == [Completion, bool]
    assert await bench.load(held.record.key) is not None
    assert (await bench.load(other.key)).state.summary.counts.succeeded == 1


async def test_a_unit_that_loses_the_race_for_one_record_is_ruled_on_again(bench):
    await bench.declare_template()
    ada, bob = await bench.declare("ada"), await bench.declare("bob")

    async def touch():
        stored = await bench.load(ada.key)
        assert await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))]) == [
            True
        ]

    def remove_and_touch_another(record, now):
        further = Change(bob, replace(bob, version=bob.version + 1))
        return Ruling(Change(record, None), removed_counts=SUCCEEDED_ONCE, further=(further,))

    bench.store.before_swaps = [touch]

    await bench.ledger.apply({ada.key: remove_and_touch_another})

    assert len(bench.store.batches) == 2
    assert await bench.load(ada.key) is None
    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {"succeeded": 1}


async def test_an_existing_last_run_does_not_keep_its_schedule_from_ending(bench):
    record = await bench.declare(overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)
    await bench.clock.advance(timedelta(minutes=4))
    (starting,) = bench.begun(await bench.claim())
    theirs = starting.plan.created
    await bench.others.swap([Change(None, replace(theirs, lease=theirs.lease._replace(id="another")))])

    assert await bench.started([starting]) == []

    assert await bench.load(record.key) is None
    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {"missed": 2}
