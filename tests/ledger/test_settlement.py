"""The end of a run is written on top of what is stored, and an edit or a takeover in mid-run wins."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.record import Change
from pyncette.core.runs import UNSTARTED, Completion
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Exhaustion, Mode, Overlap, Retry
from pyncette.errors import StoreUnavailableError
from tests.core.play import nonzero
from tests.ledger.bench import MINUTE, RAISED, REFUSED, Bench

HOUR = 60 * MINUTE


async def test_an_edit_in_mid_run_is_kept_and_the_run_completes_on_top_of_it(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(10 * MINUTE))]

    assert await bench.settle(held)

    stored = await bench.load(record.key)
    assert stored.spec.schedule == Interval(10 * MINUTE)
    assert stored.due_at == bench.now + 10 * MINUTE
    assert nonzero(stored.state.summary.counts) == {"succeeded": 1}


async def test_what_was_taken_over_stays_as_its_new_holder_has_it(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    await bench.take_over()
    before = await bench.load(record.key)

    assert not await bench.settle(held)
    assert await bench.load(record.key) == before


async def test_a_takeover_in_the_very_moment_of_the_write_wins(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.take_over]

    assert not await bench.settle(held)
    assert (await bench.load(record.key)).attempt == 2


async def test_an_instance_that_was_removed_in_mid_run_is_lost_to_its_run(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    await bench.others.swap([Change(await bench.load(record.key), None)])

    assert not await bench.settle(held)
    assert await bench.all() == {}


async def test_one_lost_lease_in_a_batch_does_not_stop_the_others(bench):
    for name in "abc":
        await bench.declare(name)
    holding = await bench.start()
    await bench.others.swap([Change(await bench.load(holding[1].record.key), None)])

    assert await bench.ledger.settle([bench.completion(held) for held in holding]) == [True, False, True]


async def test_to_settle_again_after_a_lost_reply_changes_nothing_and_says_that_it_was_written(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    settling = bench.completion(held)
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([settling])
    after = await bench.load(record.key)

    assert await bench.ledger.settle([settling]) == [True]

    assert await bench.load(record.key) == after


async def test_to_remove_again_after_a_lost_reply_says_that_it_was_written(bench):
    await bench.declare(schedule=Once(bench.now + MINUTE))
    (held,) = await bench.start()
    settling = bench.completion(held)
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([settling])

    assert await bench.ledger.settle([settling], again=True) == [True]


async def test_a_run_that_writes_nothing_is_still_ours(bench):
    await bench.declare(retry=Retry(wait_for_lease=True))
    (held,) = await bench.start()

    assert await bench.settle(held, RAISED)
    assert bench.store.batches == []


async def test_a_run_whose_record_is_edited_each_time_holds_up_no_other_and_is_settled_later(bench):
    ada, bob = await bench.declare("ada"), await bench.declare("bob")
    holding = await bench.start()
    bench.store.before_each_swap = bench.edit(ada.key)

    contested, written = await bench.ledger.settle([bench.completion(held) for held in holding])

    assert written is True
    assert (await bench.load(bob.key)).state.summary.counts.succeeded == 1
    assert isinstance(contested, Completion)
    bench.store.before_each_swap = None
    assert await bench.ledger.settle([contested]) == [True]
    assert (await bench.load(ada.key)).state.summary.counts.succeeded == 1


async def test_a_dead_letter_is_written_with_the_change_that_moves_its_schedule_on(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()

    await bench.settle(held, REFUSED)

    ((dead_letter, completion),) = bench.store.batches
    assert dead_letter.after.key.occurrence.startswith("dead-")
    assert dead_letter.after.key in await bench.keys()
    assert completion.after.key == record.key
    assert dead_letter.group == completion.group != 0


async def test_a_dead_letter_that_an_edit_in_mid_run_asks_for_is_written_too(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, exhausted=Exhaustion.DEAD_LETTER)]

    await bench.settle(held, REFUSED)

    assert len(await bench.all()) == 2
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_lost_lease_leaves_no_dead_letter(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    (taken,) = await bench.take_over()

    assert not await bench.settle(held, REFUSED)
    await bench.settle(rules.begin(taken, taken.spec.policies, bench.now).run)

    assert list(await bench.all()) == [str(record.key)]
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"succeeded": 1}


async def test_a_dead_letter_whose_reply_was_lost_is_written_once(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    bench.store.lose_replies = 1
    with pytest.raises(StoreUnavailableError):
        await bench.settle(held, REFUSED)

    assert await bench.settle(held, REFUSED)

    assert len(await bench.all()) == 2
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_dead_letter_whose_name_is_taken_does_not_keep_its_schedule_from_moving_on(bench):
    record = await bench.declare(exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start()
    there = await bench.put_dead_letter(held)

    assert await bench.settle(held, REFUSED)

    assert await bench.load(there.key) == there
    stored = await bench.load(record.key)
    assert stored.due_at == record.due_at + MINUTE
    assert nonzero(stored.state.summary.counts) == {"dead_lettered": 1}


async def test_dead_letters_of_side_runs_are_written_with_the_counts_of_their_schedule(bench):
    record = await bench.declare(
        schedule=Interval(SECOND), overlap=Overlap.ALLOW, exhausted=Exhaustion.DEAD_LETTER
    )
    holding = [held for _ in range(3) for held in await bench.start(after=SECOND)]
    there = await bench.put_dead_letter(holding[1])
    bench.store.batches.clear()

    written = await bench.ledger.settle([bench.completion(held, REFUSED) for held in holding])

    assert written == [True] * 3
    assert await bench.load(there.key) == there
    assert sorted(key.occurrence[:5] for key in await bench.keys() if key.occurrence) == ["dead-"] * 3
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 3}
    for batch in bench.store.batches:
        for change in batch:
            assert change.before is not None or change.group, "a dead letter is written alone"


async def test_a_dead_letter_instead_of_a_run_is_written_with_the_change_that_moves_its_schedule_on(bench):
    record = await bench.declare(
        exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1, count_takeovers=True)
    )
    await bench.start()
    starting = bench.begun(await bench.take_over())

    assert await bench.started(starting) == []

    ((dead_letter, completion),) = bench.store.batches
    assert dead_letter.group == completion.group != 0
    assert nonzero((await bench.load(record.key)).state.summary.counts) == {"dead_lettered": 1}


async def test_a_dead_letter_instead_of_a_run_may_find_its_name_taken(bench):
    record = await bench.declare(
        exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1, count_takeovers=True)
    )
    (held,) = await bench.start()
    starting = bench.begun(await bench.take_over())
    there = await bench.put_dead_letter(held)

    assert await bench.started(starting) == []

    assert await bench.load(there.key) == there
    stored = await bench.load(record.key)
    assert (stored.lease, stored.attempt) == (None, 0)
    assert nonzero(stored.state.summary.counts) == {"dead_lettered": 1}


async def test_a_takeover_at_the_moment_of_a_dead_letter_instead_of_a_run_leaves_none(bench):
    record = await bench.declare(
        exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1, count_takeovers=True)
    )
    await bench.start()
    starting = bench.begun(await bench.take_over())
    bench.store.before_swaps = [bench.take_over]

    assert await bench.started(starting) == []

    assert list(await bench.all()) == [str(record.key)]


async def released_one_off(bench: Bench) -> Completion:
    """Start a one-off at most once, and return the completion that releases it unstarted."""
    await bench.declare(schedule=Once(bench.now + MINUTE), mode=Mode.AT_MOST_ONCE, overlap=Overlap.ALLOW)
    (held,) = await bench.start()
    return bench.completion(held, UNSTARTED)


async def test_the_record_of_a_released_one_off_is_restored_in_the_write_that_releases_it(bench):
    completion = await released_one_off(bench)
    bench.woken.clear()

    assert await bench.ledger.settle([completion]) == [True]

    assert set(await bench.all()) == {"remind/ada"}
    assert bench.woken
    (held,) = await bench.start(after=0)
    assert held.scheduled_at == completion.held.scheduled_at


async def test_a_released_one_off_whose_name_is_taken_is_withdrawn_and_counted(bench):
    completion = await released_one_off(bench)
    taken = await bench.declare(schedule=Once(bench.now + HOUR))

    assert await bench.ledger.settle([completion]) == [True]

    (stored,) = (await bench.all()).values()
    assert stored.due_at == taken.due_at
    assert nonzero(stored.state.summary.counts) == {"withdrawn": 1}


async def test_the_release_of_a_one_off_whose_reply_was_lost_is_written_once(bench):
    completion = await released_one_off(bench)
    bench.store.lose_replies = 1

    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([completion])

    assert await bench.ledger.settle([completion], again=True) == [True]
    assert set(await bench.all()) == {"remind/ada"}
