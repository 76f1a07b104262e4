"""A rule is decided on what is stored, again after each lost race, and written as a whole."""

import pytest

from pyncette.core import edits
from pyncette.core.record import Change, Record, replace
from pyncette.errors import ContentionError
from pyncette.ledger.ledger import Ruling
from tests.ledger.bench import HERE, Bench, due_at


def with_a_run_beside(name: str):
    """A rule: be touched, and have a run created beside it, together."""

    def rule(record: Record | None, now: int) -> Ruling:
        after = replace(record, version=record.version + 1)
        extra = edits.on_demand(record, record.spec.policies, name, now)
        return Ruling(Change(record, after), extra.key, further=(Change(None, extra),))

    return rule


async def test_changes_of_one_rule_are_written_together_and_both_are_announced(bench):
    record = await bench.declare()

    answers = await bench.ledger.apply({record.key: with_a_run_beside("x")})

    ((first, second),) = bench.store.batches
    assert first.group == second.group != 0
    assert (await bench.load(answers[record.key])).claimable_at == bench.now
    assert bench.woken == [(HERE, bench.now)]


async def test_what_is_ruled_together_is_not_written_by_half_when_somebody_comes_first(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key, keep_failed=1)]

    answers = await bench.ledger.apply({record.key: with_a_run_beside("x")})

    assert len(bench.store.batches) == 2
    assert (await bench.load(record.key)).spec.policies.keep_failed == 1
    assert (await bench.load(answers[record.key])).spec.policies.keep_failed == 1


async def test_many_rulings_with_something_further_go_in_as_few_swaps_as_fit():
    bench = Bench(swap_batch_max=5)
    records = [await bench.declare(name) for name in ("ada", "bob", "eve")]

    await bench.ledger.apply({record.key: with_a_run_beside("x") for record in records})

    assert [len(batch) for batch in bench.store.batches] == [4, 2]
    assert len(await bench.all()) == 6


# --- apply -----------------------------------------------------------------------------------------------------------


async def test_a_rule_that_lost_a_race_is_decided_again_on_what_is_stored(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key), bench.edit(record.key), None]

    answers = await bench.ledger.apply({record.key: due_at(7)})

    assert answers == {record.key: record.version + 2}
    assert (await bench.load(record.key)).due_at == 7


async def test_who_won_the_race_is_not_ruled_on_again(bench):
    ada, bob = await bench.declare("ada"), await bench.declare("bob")
    bench.store.before_swaps = [bench.edit(ada.key)]

    answers = await bench.ledger.apply({ada.key: due_at(7), bob.key: due_at(8)})

    assert answers == {ada.key: ada.version + 1, bob.key: bob.version}
    assert [len(batch) for batch in bench.store.batches] == [2, 1]


async def test_many_races_may_be_lost_before_one_is_won(bench):
    record = await bench.declare()
    bench.store.before_swaps = [bench.edit(record.key)] * 9

    assert await bench.ledger.apply({record.key: due_at(7)})


async def test_losing_each_race_is_an_error_that_names_the_record():
    bench = Bench(race_seconds=0.02)
    record = await bench.declare()
    bench.store.before_each_swap = bench.edit(record.key)

    with pytest.raises(ContentionError, match="remind/ada"):
        await bench.ledger.apply({record.key: due_at(7)})


async def test_a_rule_that_changes_nothing_writes_nothing(bench):
    record = await bench.declare()

    answers = await bench.ledger.apply({record.key: lambda record, now: Ruling(None, "as it is")})

    assert answers == {record.key: "as it is"}
    assert bench.store.batches == []


async def test_a_rule_that_raises_leaves_everything_as_it_was(bench):
    ada, bob = await bench.declare("ada"), await bench.declare("bob")

    def refuse(record, now):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await bench.ledger.apply({ada.key: due_at(7), bob.key: refuse})
    assert await bench.load(ada.key) == ada


async def test_more_than_a_store_takes_at_once_goes_in_several_batches():
    bench = Bench(swap_batch_max=3)
    keys = [(await bench.declare(f"{number:02}")).key for number in range(10)]

    answers = await bench.ledger.apply({key: due_at(7) for key in keys})

    assert list(answers) == keys
    assert [len(batch) for batch in bench.store.batches] == [3, 3, 3, 1]
    assert {record.due_at for record in (await bench.all()).values()} == {7}


async def test_creating_many_says_of_each_whether_it_was_new(bench):
    ada = await bench.declare("ada")
    bob = replace(ada, key=ada.key._replace(instance="bob"))

    assert await bench.ledger.create([ada, bob]) == [False, True]
