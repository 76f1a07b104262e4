"""A start is written before its handler is called where it must be, and a race for it affects no other."""

from datetime import timedelta

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.record import Change, Record, replace
from pyncette.core.runs import UNSTARTED, HeldRun
from pyncette.core.schedule import Cron, Interval
from pyncette.core.spec import Mode, Overlap, Retry
from pyncette.ledger.ledger import Ledger
from tests.core.play import nonzero
from tests.ledger.bench import MINUTE, RAISED, TEMPLATE, Bench


async def test_what_needs_no_write_starts_without_one(bench):
    await bench.declare()

    (held,) = await bench.start()

    assert held.attempt == 1
    assert bench.store.batches == []


async def test_at_most_once_only_what_was_written_may_run(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)

    (held,) = await bench.start()

    assert (await bench.load(record.key)).state.started.scheduled_at == held.scheduled_at


WRITTEN_FIRST = pytest.mark.parametrize(
    "policies",
    [
        {"mode": Mode.AT_MOST_ONCE},
        {"overlap": Overlap.ALLOW},
        {"mode": Mode.AT_MOST_ONCE, "overlap": Overlap.ALLOW},
    ],
    ids=["at most once", "side run", "both"],
)


@WRITTEN_FIRST
async def test_a_start_whose_reply_is_lost_runs_once_it_is_found_written(bench, policies):
    record = await bench.declare(**policies)
    bench.store.lose_replies = 1

    (held,) = await bench.start()

    assert len(bench.store.batches) == 1
    assert held.scheduled_at == record.due_at
    assert await bench.settle(held)
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"succeeded": 1}


@WRITTEN_FIRST
async def test_a_start_that_was_edited_after_its_reply_was_lost_runs_on_top_of_the_edit(bench, policies):
    record = await bench.declare(**policies)
    bench.store.lose_replies = 1
    bench.store.before_loads = [bench.edit(record.key, schedule=Interval(10 * MINUTE))]

    (held,) = await bench.start()

    assert await bench.settle(held)
    stored = await bench.load(record.key)
    assert stored.due_at == bench.now + 10 * MINUTE
    assert nonzero(stored.state.summary.counts) == {"succeeded": 1}


async def test_a_start_is_given_up_once_its_lease_has_expired(bench, caplog):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)

    async def stall():
        await bench.clock.advance(timedelta(seconds=70))

    bench.store.lose_replies = 1
    bench.store.before_swaps = [stall]

    assert await bench.start() == []
    assert "gave up starts" in caplog.text
    await bench.started(bench.begun(await bench.take_over()))
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"lost": 1}


async def test_a_start_is_not_written_once_its_lease_has_expired(bench):
    await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    starting = bench.begun(await bench.claim())
    await bench.clock.advance(timedelta(minutes=1))

    assert await bench.started(starting) == []
    assert bench.store.batches == []


async def test_a_failed_start_does_not_keep_others_from_running(bench):
    mine = await bench.declare("ada", mode=Mode.AT_MOST_ONCE)
    edited = await bench.declare("bob", mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [bench.edit(edited.key)]
    bench.store.before_loads = [bench.unavailable]

    (held,) = await bench.start()

    assert held.record.key == mine.key


async def test_a_start_is_yielded_before_the_results_of_others_are_known(bench):
    mine = await bench.declare("ada", mode=Mode.AT_MOST_ONCE)
    edited = await bench.declare("bob", mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [bench.edit(edited.key)]
    await bench.clock.advance(timedelta(minutes=1))
    starting = bench.begun(await bench.claim())
    loads = bench.store.loads

    starts = bench.ledger.start(starting)
    (held,) = (await anext(starts)).values()

    assert held.record.key == mine.key
    assert bench.store.loads == loads
    await starts.aclose()


async def test_an_edit_that_cannot_be_decided_here_affects_only_its_own_start(bench, caplog):
    ada = await bench.declare("ada", mode=Mode.AT_MOST_ONCE)
    bob = await bench.declare("bob", mode=Mode.AT_MOST_ONCE)

    async def edit_into_an_unknown_zone():
        record = await bench.load(bob.key)
        spec = replace(record.spec, schedule=Cron("0 0 * * *", "Mars/Olympus"))
        after = replace(record, spec=spec, version=record.version + 1)
        assert await bench.others.swap([Change(record, after)]) == [True]

    bench.store.before_swaps = [edit_into_an_unknown_zone]

    (held,) = await bench.start()

    assert held.record.key == ada.key
    assert "could not decide" in caplog.text


async def test_a_start_that_the_store_refuses_affects_only_itself(bench, caplog):
    names = [str(number) for number in range(7)]
    for name in names:
        await bench.declare(name, mode=Mode.AT_MOST_ONCE)
    bench.store.refuses = lambda change: change.before.key.instance == "4"

    holding = await bench.start()

    assert sorted(held.record.key.instance for held in holding) == [name for name in names if name != "4"]
    (message,) = (text for text in caplog.messages if "cannot be written" in text)
    assert message.startswith("starts cannot be written; their leases will expire records=")
    assert message.endswith("/4 total=1")


async def test_starts_written_before_a_later_batch_failed_run_at_once():
    bench = Bench(swap_batch_max=2)
    for name in "abcd":
        await bench.declare(name, mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [None, bench.unavailable]
    await bench.clock.advance(timedelta(minutes=1))

    starts = bench.ledger.start(bench.begun(await bench.claim()))
    first, then = [sorted(decided) async for decided in starts]

    assert (first, then) == ([0, 1], [2, 3])


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_an_edit_between_claim_and_start_gives_the_claim_back(bench, policies):
    record = await bench.declare(**policies)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    assert await bench.start() == []

    (stored,) = (await bench.all()).values()
    assert (stored.lease, stored.attempt) == (None, 0)
    assert stored.claimable_at == bench.now + 2 * MINUTE


async def test_an_edit_that_leaves_the_schedule_alone_delays_a_start_by_one_claim(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    bench.store.before_swaps = [bench.edit(record.key, lease=5 * MINUTE)]

    assert await bench.start() == []
    (held,) = await bench.start(after=0)

    assert held.scheduled_at == record.due_at
    assert held.policies.lease == 5 * MINUTE


async def test_the_start_of_a_side_run_leaves_nothing_if_its_schedule_was_edited(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    assert await bench.start() == []

    assert list(await bench.all()) == ["remind/ada"]


async def test_the_start_of_a_side_run_is_left_to_the_worker_that_took_over_its_schedule(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    others: list[HeldRun] = []

    async def take_over():
        claimed = await bench.take_over()
        ledger = Ledger(bench.others, bench.clock)
        others.extend(await bench.started(bench.begun(claimed), ledger))

    bench.store.before_swaps = [take_over]

    assert await bench.start() == []

    assert [held.scheduled_at for held in others] == [record.due_at]
    assert len(await bench.all()) == 2


async def test_a_side_run_is_created_in_the_write_that_moves_its_schedule_on(bench):
    await bench.declare(overlap=Overlap.ALLOW)

    assert len(await bench.start()) == 1

    (batch,) = bench.store.batches
    assert len(batch) == 2
    assert batch[0].group == batch[1].group != 0


async def test_a_schedule_that_ends_as_its_last_run_starts_is_counted_at_an_undeclared_template(
    bench,
):
    await bench.declare(overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)

    (held,) = await bench.start(after=4 * MINUTE)

    assert set(await bench.all()) == {str(held.record.key), "remind"}
    template = await bench.load(TEMPLATE)
    assert nonzero(template.state.summary.counts) == {"missed": 2}


async def test_schedules_that_end_as_their_last_runs_start_all_start_and_are_all_counted(bench):
    for number in range(66):
        await bench.declare(str(number), overlap=Overlap.ALLOW, not_after=bench.now + 3 * MINUTE)

    holding = await bench.start(after=4 * MINUTE)

    assert len(holding) == 66
    template = await bench.load(TEMPLATE)
    assert nonzero(template.state.summary.counts) == {"missed": 2 * len(holding)}


async def test_a_side_run_that_exists_already_is_not_run_again(bench):
    record = await bench.declare(overlap=Overlap.ALLOW)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    theirs = starting.plan.created
    await bench.others.swap([Change(None, replace(theirs, lease=theirs.lease._replace(id="another")))])

    ready = await bench.started([starting])

    assert ready == []
    assert (await bench.load(record.key)).due_at == record.due_at + MINUTE


async def released_side_runs(bench: Bench, number: int = 1) -> Record:
    """Declare a schedule whose runs overlap at most once, start *number* of them, and release them unstarted."""
    record = await bench.declare(mode=Mode.AT_MOST_ONCE, overlap=Overlap.ALLOW)
    for _ in range(number):
        for held in await bench.start():
            assert await bench.settle(held, UNSTARTED) is True
    return await bench.load(record.key)


async def test_a_released_side_run_is_started_in_the_write_that_finds_its_schedule_unchanged(bench):
    parent = await released_side_runs(bench)

    (held,) = await bench.start(after=0)

    assert held.scheduled_at == parent.due_at - MINUTE
    changes = {change.key: change for change in bench.store.batches[-1]}
    assert set(changes) == {parent.key, held.record.key}
    assert changes[parent.key].after == replace(parent, version=parent.version + 1)
    assert len({change.group for change in changes.values()} - {0}) == 1


@pytest.mark.parametrize("moment", ["before", "at"])
async def test_a_released_side_run_never_starts_once_its_instance_is_removed(bench, moment):
    parent = await released_side_runs(bench)

    async def remove() -> None:
        assert await bench.others.swap([Change(parent, None)]) == [True]

    if moment == "before":
        await remove()
    else:
        bench.store.before_swaps = [remove]

    assert await bench.start(after=0) == []
    assert [key for key in await bench.keys() if key.instance] == []
    assert nonzero((await bench.load(TEMPLATE)).state.summary.counts) == {"withdrawn": 1}


async def test_a_released_side_run_is_withdrawn_if_its_schedule_is_edited_at_the_moment_of_its_start(bench):
    parent = await released_side_runs(bench)
    bench.store.before_swaps = [bench.edit(parent.key, schedule=Interval(3 * MINUTE))]

    assert await bench.start(after=0) == []

    assert await bench.keys() == [parent.key]
    assert nonzero((await bench.load(parent.key)).state.summary.counts) == {"withdrawn": 1}


async def test_released_side_runs_of_one_schedule_all_start_beside_its_next_occurrence(bench):
    parent = await released_side_runs(bench, 3)

    holding = await bench.start()

    assert sorted((held.scheduled_at - parent.due_at) // MINUTE for held in holding) == [-3, -2, -1, 0]


async def test_a_released_side_run_starts_once_if_the_reply_to_its_start_is_lost(bench):
    await released_side_runs(bench)
    bench.store.lose_replies = 1

    (held,) = await bench.start(after=0)

    assert (await bench.load(held.record.key)).state.started.at_most_once


async def test_a_released_side_run_starts_though_its_schedule_could_not_be_loaded_at_first(bench):
    await released_side_runs(bench)
    bench.store.before_loads = [bench.unavailable]

    assert len(await bench.start(after=0)) == 1


async def test_a_start_is_given_up_if_its_record_keeps_changing_until_its_lease_expires(bench, caplog):
    record = await bench.declare(starting_deadline=SECOND)
    await bench.clock.advance(timedelta(seconds=90))
    claimed = await bench.claim()

    async def touch():
        stored = await bench.load(record.key)
        await bench.others.swap([Change(stored, replace(stored, version=stored.version + 1))])
        await bench.clock.advance(timedelta(seconds=25))

    bench.store.before_each_swap = touch

    assert await bench.started(bench.begun(claimed)) == []
    assert "gave up starts" in caplog.text
    assert len(bench.store.batches) == 3


async def test_a_deferral_that_loses_a_race_is_written_on_top_of_the_change(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    until = bench.now + 5 * SECOND
    bench.store.before_swaps = [bench.touch(record.key)]

    await bench.ledger.defer([rules.defer(starting.plan.move.before, starting.plan, until)])

    stored = await bench.load(record.key)
    assert (stored.lease, stored.attempt, stored.began_at) == (None, 0, None)
    assert stored.claimable_at == until


async def test_a_deferral_leaves_a_retry_claimable_although_its_schedule_was_suspended_by_exhaustion(bench):
    record = await bench.declare(retry=Retry(max_attempts=0, initial=SECOND, jitter=False))
    (held,) = await bench.start()
    assert await bench.settle(held, RAISED) is True
    await bench.clock.advance(timedelta(seconds=2))
    (starting,) = bench.begun(await bench.claim())
    bench.store.before_swaps = [bench.exhaust(record.key)]
    claimed = starting.plan.run.record

    await bench.ledger.defer([rules.defer(claimed, starting.plan, bench.now)])

    assert (await bench.load(record.key)).claimable_at is not None


async def test_a_deferral_does_not_wake_a_schedule_that_was_suspended_by_exhaustion_meanwhile(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    bench.store.before_swaps = [bench.exhaust(record.key)]

    await bench.ledger.defer([rules.defer(starting.plan.move.before, starting.plan, bench.now)])

    assert (await bench.load(record.key)).claimable_at is None


async def test_a_deferral_leaves_a_record_alone_that_another_worker_has_taken_over(bench):
    record = await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.clock.advance(timedelta(minutes=1))
    (starting,) = bench.begun(await bench.claim())
    bench.store.before_swaps = [bench.take_over]

    await bench.ledger.defer([rules.defer(starting.plan.move.before, starting.plan, bench.now)])

    assert (await bench.load(record.key)).lease.id != starting.plan.move.before.lease.id
