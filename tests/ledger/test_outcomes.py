"""Each occurrence is reported once, with its outcome: when it is written, and not when somebody tries to write it."""

from collections import Counter
from datetime import timedelta

import pytest

from pyncette.core import edits
from pyncette.core.record import Change, Outcome
from pyncette.core.runs import RETURNED
from pyncette.core.schedule import Once
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Retry
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger, Ruling
from tests.ledger.bench import MINUTE, RAISED, REFUSED


@pytest.fixture
def ended(bench):
    """What was reported, by outcome."""
    return listen(bench.ledger)


def listen(ledger: Ledger) -> Counter[str]:
    reported: Counter[str] = Counter()

    def note(realm: str, task: str, outcome: Outcome, number: int) -> None:
        assert (realm, task) == ("", "remind")
        assert number > 0
        reported[outcome.value] += number

    ledger.on_ended(note)
    return reported


async def test_an_occurrence_that_succeeds_at_its_third_attempt_is_reported_once(bench, ended):
    await bench.declare(retry=Retry(max_attempts=5))

    for how in (RAISED, RAISED, RETURNED):
        (held,) = await bench.start()
        assert await bench.settle(held, how)

    assert ended == {"succeeded": 1}


async def test_an_occurrence_whose_attempts_are_spent_has_failed_once(bench, ended):
    await bench.declare(retry=Retry(max_attempts=2))

    for _ in range(2):
        (held,) = await bench.start()
        assert await bench.settle(held, RAISED)

    assert ended == {"failed": 1}


async def test_many_that_succeed_in_one_batch_are_reported_together(bench, ended):
    for name in ("ada", "bob", "eve"):
        await bench.declare(name)

    holding = await bench.start()
    assert await bench.ledger.settle([bench.completion(held) for held in holding]) == [True] * 3

    assert ended == {"succeeded": 3}


async def test_an_instance_that_is_removed_reports_only_its_last_occurrence(bench, ended):
    record = await bench.declare("ada")
    (held,) = await bench.start()
    await bench.settle(held)
    await bench.edit(record.key, Once(bench.now + MINUTE))()

    (held,) = await bench.start(2 * MINUTE)
    await bench.settle(held)

    assert await bench.load(record.key) is None
    assert ended == {"succeeded": 2}


async def test_what_the_policy_drops_is_reported_with_the_run_or_instead_of_it(bench, ended):
    await bench.declare("latest", missed=Missed.LATEST)
    await bench.declare("skip", missed=Missed.SKIP)

    holding = await bench.start(3 * MINUTE + MINUTE // 2)
    for held in holding:
        await bench.settle(held)

    assert ended == {"succeeded": 1, "missed": 2 + 3}


async def test_what_was_lost_with_its_worker_is_reported_by_the_one_that_finds_it(bench, ended):
    await bench.declare(mode=Mode.AT_MOST_ONCE)
    await bench.start()

    assert await bench.started(bench.begun(await bench.take_over())) == []

    assert ended["lost"] == 1


async def test_a_side_run_is_reported_once(bench, ended):
    await bench.declare(overlap=Overlap.ALLOW)

    (held,) = await bench.start()
    assert held.record.key.occurrence
    await bench.settle(held)

    assert ended == {"succeeded": 1}


@pytest.mark.parametrize("how", [RETURNED, RAISED], ids=["succeeds", "fails"])
async def test_a_dead_letter_that_is_redriven_is_not_reported_again(bench, ended, how):
    await bench.declare(
        schedule=Once(bench.now + MINUTE), exhausted=Exhaustion.DEAD_LETTER, retry=Retry(max_attempts=1)
    )
    (held,) = await bench.start()
    await bench.settle(held, REFUSED)
    (dead_letter,) = [record for record in (await bench.all()).values() if record.key.occurrence]
    assert await bench.others.swap([Change(dead_letter, edits.redriven(dead_letter, bench.now))]) == [True]

    (held,) = await bench.start()
    await bench.settle(held, how)

    assert ended == {"deadLettered": 1}


async def test_a_run_that_is_withdrawn_is_reported_where_it_is_withdrawn(bench, ended):
    record = await bench.declare()
    (held,) = await bench.start()
    policies = record.spec.policies

    await bench.ledger.apply(
        {
            record.key: lambda stored, now: Ruling(
                Change(stored, None), removed_counts=edits.removed(stored, policies, now)
            )
        }
    )

    assert await bench.settle(held) is False
    assert ended == {"withdrawn": 1}


async def test_the_holder_of_a_lost_lease_reports_nothing(bench, ended):
    await bench.declare(lease=MINUTE)
    (held,) = await bench.start()
    await bench.take_over()

    assert await bench.settle(held) is False

    assert ended == {}


async def test_an_edit_in_mid_run_does_not_make_it_two(bench, ended):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, keep_failed=1)]

    assert await bench.settle(held) is True

    assert ended == {"succeeded": 1}


async def test_an_end_whose_reply_was_lost_is_reported_once_it_is_known(bench, ended):
    await bench.declare()
    (held,) = await bench.start()
    completion = bench.completion(held)
    bench.store.lose_replies = 1

    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([completion])
    assert ended == {}
    assert await bench.ledger.settle([completion], again=True) == [True]

    assert ended == {"succeeded": 1}


async def test_a_record_that_is_gone_after_a_lost_reply_is_not_reported(bench, ended):
    """It may be gone since its run ended, or since somebody has withdrawn it, who has reported that."""
    await bench.declare(schedule=Once(bench.now + MINUTE))
    await bench.declare_template()
    (held,) = await bench.start()
    completion = bench.completion(held)
    bench.store.lose_replies = 1

    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle([completion])
    assert await bench.ledger.settle([completion], again=True) == [True]

    assert ended == {}


async def test_a_start_whose_reply_was_lost_still_reports_what_it_dropped(bench, ended):
    await bench.declare(missed=Missed.SKIP)
    await bench.clock.advance(timedelta(minutes=3.5))
    starting = bench.begun(await bench.claim())
    bench.store.lose_replies = 1

    assert await bench.started(starting) == []

    assert ended == {"missed": 3}


async def test_a_batch_that_is_settled_again_reports_nothing_twice(bench, ended):
    names = ("ada", "bob")
    records = [await bench.declare(name) for name in names]
    holding = await bench.start()
    batch = [bench.completion(held) for held in holding]
    # The first is written at once; the second was edited, and the reply to its second write is lost.
    bench.store.before_swaps = [bench.edit(records[1].key, keep_failed=1), bench.unavailable]

    with pytest.raises(StoreUnavailableError):
        await bench.ledger.settle(batch)
    assert await bench.ledger.settle(batch, again=True) == [True, True]

    assert ended == {"succeeded": 2}
