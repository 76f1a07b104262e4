"""Promises of `swap`: a change is made only to what is as it was seen, by one alone, and with all of its group or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from pyncette.core.record import Change, HistoryRow, Key, replace
from pyncette.core.schedule import Once
from pyncette.core.spec import Spec
from pyncette.store.base import Renewal, Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import (
    ELSEWHERE,
    HERE,
    LEASE,
    T0,
    a_record,
    a_run,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
    load_all,
    seen,
)


class Swapping(OnBackend):
    async def test_a_record_is_created_only_where_there_is_none(self, store: Store) -> None:
        await create(store, a_record())

        made = await store.swap([Change(None, a_record(version=T0 + 5)), Change(None, a_record("b"))])

        assert made == [False, True]
        assert seen(await load(store, a_record())) == a_record()

    async def test_an_unchanged_record_is_replaced(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())
        after = changed(
            before,
            due_at=T0 + 5,
            claimable_at=T0 + 6,
            spec=Spec(Once(T0)),
            lease_length=7,
            schedule_since=8,
            fence=9,
        )

        made = await store.swap([Change(before, after)])

        assert made == [True]
        assert seen(await load(store, before)) == seen(after)

    async def test_a_changed_record_is_not_replaced(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())
        first = changed(before, due_at=T0 + 5)
        await store.swap([Change(before, first)])

        made = await store.swap([Change(before, replace(before, version=before.version + 10, due_at=T0 + 6))])

        assert made == [False]
        assert seen(await load(store, before)) == seen(first)

    async def test_two_writers_of_the_same_next_version_do_not_both_win(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())
        mine, yours = changed(before, due_at=T0 + 5), changed(before, due_at=T0 + 6)

        assert await store.swap([Change(before, mine)]) == [True]
        assert await store.swap([Change(before, yours)]) == [False]

        assert (await load(store, before)).due_at == T0 + 5

    async def test_what_a_swap_wrote_can_be_swapped_again_without_loading_it(self, store: Store) -> None:
        first = a_record()
        await create(store, first)
        second = changed(first, claimable_at=T0 + 5)
        third = changed(second, claimable_at=T0 + 6, spec=Spec(Once(T0)))

        assert await store.swap([Change(first, second)]) == [True]
        assert await store.swap([Change(second, third)]) == [True]
        assert await store.swap([Change(second, None)]) == [False]
        assert await store.swap([Change(third, None)]) == [True]

        assert await store.load([first.key]) == [None]

    async def test_a_record_that_is_gone_is_not_replaced(self, store: Store) -> None:
        made = await store.swap([Change(a_record(), changed(a_record()))])

        assert made == [False]
        assert await store.load([a_record().key]) == [None]

    async def test_an_unchanged_record_is_deleted(self, store: Store) -> None:
        await create(store, a_record(), a_record("b"))

        made = await store.swap([Change(await load(store, a_record()), None)])

        assert made == [True]
        assert await store.load([a_record().key]) == [None]
        assert instances(await claim(store)) == ["b"]

    async def test_a_changed_record_is_not_deleted(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())
        await store.swap([Change(before, changed(before))])

        assert await store.swap([Change(before, None)]) == [False]

        assert await load(store, before) is not None

    async def test_a_record_that_is_gone_is_not_deleted(self, store: Store) -> None:
        assert await store.swap([Change(a_record(), None)]) == [False]

    async def test_a_recreated_record_is_not_the_one_before_it(self, store: Store) -> None:
        await create(store, a_record())
        (old,) = await claim(store)
        await store.swap([Change(old, None)])
        await create(store, a_record(version=T0 + 1000, fence=T0 + 1000))

        made = await store.swap([Change(old, completed(old, T0 + 5))])
        renewed = await store.renew([Renewal(old.key, "lease", LEASE)], T0)

        assert made == [False]
        assert list(renewed.held) == [False]

    async def test_a_loser_does_not_stop_the_others_of_its_batch(self, store: Store) -> None:
        records = [a_record(name) for name in "abcd"]
        await create(store, *records)
        a, b, _, d = await load_all(store, records)
        await store.swap([Change(b, changed(b)), Change(d, changed(d))])

        made = await store.swap(
            [
                Change(a, changed(a, due_at=T0 + 7)),
                Change(b, changed(b, due_at=T0 + 7), (HistoryRow(0, a_run()),)),
                Change(None, a_record("c")),
                Change(None, a_record("new")),
                Change(d, None),
            ]
        )

        assert made == [True, False, False, True, False]
        assert (await load(store, a)).due_at == T0 + 7
        assert (await load(store, b)).due_at == T0
        assert await store.history(b.key) == []
        assert instances(await store.scan(HERE, "task", None, 10)) == ["a", "b", "c", "d", "new"]

    @pytest.mark.parametrize("loser", ["a", "b", "c", "gone", "new", None])
    async def test_changes_of_a_group_are_made_together_or_not_at_all(
        self, store: Store, loser: str | None
    ) -> None:
        records = [a_record(name) for name in ("a", "b", "c", "gone", "alone")]
        await create(store, *records)
        a, b, c, gone, alone = await load_all(store, records)
        if loser == "new":
            await create(store, a_record("new"))
        elif loser == "gone":
            await store.swap([Change(gone, None)])
        elif loser is not None:
            stale = {"a": a, "b": b, "c": c}[loser]
            await store.swap([Change(stale, changed(stale, attempt=9))])
        before = await store.scan(HERE, "task", None, 10)

        made = await store.swap(
            [
                Change(a, changed(a, due_at=T0 + 7), (HistoryRow(0, a_run()),), group=3),
                Change(alone, changed(alone, due_at=T0 + 8)),
                Change(b, None, group=3),
                Change(None, a_record("new"), group=3),
                Change(c, changed(c, attempt=4), group=3),
                Change(gone, changed(gone), group=3),
            ]
        )

        whole = loser is None
        assert made == [whole, True, whole, whole, whole, whole]
        after = await store.scan(HERE, "task", None, 10)
        if whole:
            assert instances(after) == ["a", "alone", "c", "gone", "new"]
            assert len(await store.history(a.key)) == 1
        else:
            assert [r for r in after if r.key != alone.key] == [r for r in before if r.key != alone.key]
            assert await store.history(a.key) == []

    async def test_a_group_that_is_held_back_stops_no_other(self, store: Store) -> None:
        records = [a_record(name) for name in "abcd"]
        await create(store, *records)
        a, b, c, d = await load_all(store, records)
        await store.swap([Change(a, changed(a))])

        made = await store.swap(
            [
                Change(a, None, group=1),
                Change(b, None, group=1),
                Change(c, None, group=2),
                Change(d, changed(d, due_at=T0 + 7), group=2),
            ]
        )

        assert made == [False, False, True, True]
        assert instances(await store.scan(HERE, "task", None, 10)) == ["a", "b", "d"]

    async def test_of_groups_that_cross_each_other_at_once_each_is_made_whole_or_not_at_all(
        self, open_another: OpenAnother
    ) -> None:
        stores = [await open_another() for _ in range(4)]
        records = [a_record(f"{number:02}") for number in range(20)]
        await create(stores[0], *records)
        befores = await load_all(stores[0], records)

        def pairs(index: int) -> list[Change]:
            """Each record with another one, which for each store is a different one."""
            order = befores[index:] + befores[:index]
            return [
                Change(before, changed(before, attempt=index + 1), group=number // 2 + 1)
                for number, before in enumerate(order)
            ]

        made = await asyncio.gather(*(store.swap(pairs(index)) for index, store in enumerate(stores)))

        for wins in made:
            assert wins[::2] == wins[1::2]
        counts = Counter(
            change.before.key
            for index, wins in enumerate(made)
            for change, ok in zip(pairs(index), wins, strict=True)
            if ok and change.before is not None
        )
        assert max(counts.values()) == 1
        after = {record.key: record.attempt for record in await load_all(stores[0], records)}
        assert sum(attempt > 0 for attempt in after.values()) == len(counts)

    async def test_a_renewal_at_the_same_time_does_not_hold_a_group_back(
        self, open_another: OpenAnother
    ) -> None:
        one, other = await open_another(), await open_another()
        records = [a_record(f"{number:02}") for number in range(20)]
        await create(one, *records)
        claimed = list((await one.claim({HERE: 20}, "lease", "w", T0 + 1, T0 + 1)).records)
        renewals = [Renewal(record.key, "lease", 1000) for record in claimed]
        changes = [Change(record, changed(record, due_at=T0 + 7), group=1) for record in claimed[1:]]

        *_, made = await asyncio.gather(
            *(other.renew(renewals, T0 + 2 + number) for number in range(5)),
            one.swap([*changes, Change(claimed[0], None, group=1)]),
        )

        assert made == [True] * 20

    async def test_a_batch_may_span_partitions(self, store: Store) -> None:
        there = a_record(key=Key(ELSEWHERE, "task", "a"))
        await create(store, a_record(), there)
        here, there = await load_all(store, [a_record(), there])

        made = await store.swap([Change(here, changed(here, attempt=1)), Change(there, None)])

        assert made == [True, True]
        assert await store.load([there.key]) == [None]

    @pytest.mark.parametrize(
        "batch",
        [
            [Change(None, None)],
            [Change(None, a_record()), Change(None, a_record())],
            [Change(a_record("b"), changed(a_record("c")))],
            [Change(a_record("b"), a_record("b"))],
            [Change(None, a_record(name), group=1) for name in "bc"],
        ],
        ids=["nothing", "twice", "another key", "same version", "two created by a group"],
    )
    async def test_a_batch_that_makes_no_sense_is_refused_before_anything_is_written(
        self, store: Store, batch: list[Change]
    ) -> None:
        with pytest.raises(ValueError):
            await store.swap([Change(None, a_record("good")), *batch])

        assert await store.load([a_record("good").key]) == [None]

    async def test_one_of_several_that_swap_at_once_wins(self, open_another: OpenAnother) -> None:
        stores = [await open_another() for _ in range(4)]
        records = [a_record(f"{number:02}") for number in range(20)]
        await create(stores[0], *records)
        befores = await load_all(stores[0], records)

        made = await asyncio.gather(
            *(
                store.swap([Change(before, changed(before, attempt=index)) for before in befores])
                for index, store in enumerate(stores)
            )
        )

        assert [sum(wins) for wins in zip(*made, strict=True)] == [1] * 20
        for number, record in enumerate(await load_all(stores[0], records)):
            assert made[record.attempt][number]

    async def test_one_of_several_that_create_at_once_wins(self, open_another: OpenAnother) -> None:
        stores = [await open_another() for _ in range(4)]

        made = await asyncio.gather(
            *(
                store.swap([Change(None, a_record(f"{number:02}", attempt=index)) for number in range(20)])
                for index, store in enumerate(stores)
            )
        )

        assert [sum(wins) for wins in zip(*made, strict=True)] == [1] * 20

    async def test_batches_in_opposite_orders_do_not_stop_each_other(self, open_another: OpenAnother) -> None:
        stores = [await open_another() for _ in range(2)]
        records = [a_record(f"{number:02}") for number in range(50)]
        await create(stores[0], *records)

        for _ in range(10):
            befores = await load_all(stores[0], records)
            batch = [Change(before, changed(before)) for before in befores]
            made = await asyncio.gather(stores[0].swap(batch), stores[1].swap(batch[::-1]))
            assert [a + b for a, b in zip(made[0], made[1][::-1], strict=True)] == [1] * 50
