"""Tests each promise of the store port: a class to derive from for a store of one's own, and for ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from pyncette.clock import SECOND, Instant
from pyncette.core.record import (
    Change,
    Counts,
    Dropped,
    HistoryRow,
    Key,
    Lease,
    Outcome,
    Owner,
    Partition,
    Record,
    Run,
    Started,
    State,
    Summary,
    replace,
)
from pyncette.core.schedule import Cron, Interval, Once
from pyncette.core.spec import Missed, Mode, Policies, Spec
from pyncette.store.base import KEY_BYTES_MAX, PARTITION_BYTES_MAX, Notification, Renewal, Store

T0: Final[Instant] = 1_700_000_000_000_000
"""An instant as large as real ones are, which is not exact as a number of a single float's steps plus one."""

LEASE: Final = 60 * SECOND
HERE: Final = Partition("realm", "handler", 0)
ELSEWHERE: Final = Partition("realm", "handler", 1)

TRIES_MAX: Final = 200
"""Repetitions of a call that may lose to others; far more than fair ones need."""

PATIENCE: Final = 10.0
"""Seconds within which a notification is heard."""

ODD_NAMES: Final = (
    "",
    " ",
    "a b",
    'it\'s "quoted" `here`',
    "100%_of\\it",
    "semi;colon -- comment /* */",
    "new\nline\ttab\r",
    "bell\x07\x7f",
    "$1 ?1 :a @b {c}",
    "Ünïcode 日本語",
    "emoji 🕰️👩‍👩‍👧",
    "\uffff and \U0010ffff",
    "café",
    "cafe\u0301",
    "CAFÉ",
    "trailing ",
    "null",
    "[1,2]",
    "x" * 512,
    "x" * KEY_BYTES_MAX,
    "é" * (KEY_BYTES_MAX // 2),
)

OpenAnother = Callable[[], Awaitable[Store]]


def a_record(instance: str = "a", at: Instant | None = T0, **fields: Any) -> Record:
    """Return a record that was never stored, due at *at*."""
    usual: dict[str, Any] = {
        "key": Key(HERE, "task", instance),
        "spec": Spec(Interval(60 * SECOND), msgspec.Raw(b'{"n":1}')),
        "version": T0,
        "fence": T0,
        "due_at": at,
        "schedule_since": T0 - 60 * SECOND,
        "claimable_at": at,
        "lease_length": LEASE,
    }
    return Record(**(usual | fields))


def a_run(number: int = 1, **fields: Any) -> Run:
    """Return a row of history that ended later the greater its number."""
    usual: dict[str, Any] = {
        "id": f"run-{number}",
        "scheduled_at": T0 + number,
        "ended_at": T0 + 10 * number,
        "outcome": Outcome.SUCCEEDED,
    }
    return Run(**(usual | fields))


def seen(record: Record | None) -> Record | None:
    """Return *record* without what is the store's own business."""
    return None if record is None else replace(record, locator=None)


def changed(record: Record, **fields: Any) -> Record:
    return replace(record, version=record.version + 1, **fields)


def completed(record: Record, at: Instant | None) -> Record:
    """Return what a completion puts in the place of a claimed *record*."""
    return changed(record, due_at=at, claimable_at=at, attempt=0, began_at=None, lease=None)


async def create(store: Store, *records: Record) -> None:
    assert await store.swap([Change(None, record) for record in records]) == [True] * len(records)


async def load(store: Store, record: Record) -> Record:
    (found,) = await store.load([record.key])
    assert found is not None
    return found


async def load_all(store: Store, records: Sequence[Record]) -> list[Record]:
    found = [record for record in await store.load([record.key for record in records]) if record is not None]
    assert len(found) == len(records)
    return found


async def claim(
    store: Store,
    limit: int = 10,
    now: Instant = T0,
    lease_id: str = "lease",
    expired_at: Instant | None = None,
    partition: Partition = HERE,
) -> list[Record]:
    claimed = await store.claim(
        {partition: limit}, lease_id, "worker", now, now if expired_at is None else expired_at
    )
    return list(claimed.records)


async def claim_in_the_end(store: Store, partition: Partition, lease_id: str) -> Record:
    """Return the one record of *partition*: a claim beside other calls may find it locked for a moment."""
    for again in range(100):
        for record in await claim(store, partition=partition, lease_id=f"{lease_id}-{again}"):
            return record
    raise AssertionError(f"the record of {partition} is not claimed, however often one asks")


def instances(records: list[Record]) -> list[str]:
    return [record.key.instance for record in records]


@pytest.mark.asyncio
class StoreConformance:
    """
    What every store promises, one test a promise.

    Derive a class whose name begins with `Test`, and give it a fixture `backend`, which sets up an empty backend and
    yields whatever tells it from others (a path, a URL); `open_store`; and `poison`.
    """

    clock_tolerance = 300.0
    """Seconds that the backend's clock may be off in these tests."""

    @pytest.fixture
    def backend(self) -> Any:
        """Set up a backend that holds nothing, for one test, and take it down again."""
        raise NotImplementedError("a conformance test gives a fixture named backend")

    def open_store(self, backend: Any) -> Store:
        """Return one more store on *backend*, with a connection of its own, not yet entered."""
        raise NotImplementedError

    async def poison(self, backend: Any, key: Key) -> None:
        """Make what is stored as the spec of *key* unreadable, behind the back of every store."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def open_another(self, backend: Any) -> AsyncIterator[OpenAnother]:
        async with contextlib.AsyncExitStack() as stack:

            async def open_another() -> Store:
                return await stack.enter_async_context(self.open_store(backend))

            yield open_another

    @pytest_asyncio.fixture
    async def store(self, open_another: OpenAnother) -> Store:
        return await open_another()

    # Opening

    async def test_several_stores_open_one_empty_backend_at_once(self, open_another: OpenAnother) -> None:
        stores = await asyncio.gather(*(open_another() for _ in range(4)))

        await create(stores[0], a_record())

        for store in stores:
            assert await load(store, a_record()) is not None

    async def test_what_a_durable_store_wrote_is_there_when_it_is_opened_again(self, backend: Any) -> None:
        async with self.open_store(backend) as store:
            await create(store, a_record())
            durable = store.capabilities.durable

        async with self.open_store(backend) as store:
            (found,) = await store.load([a_record().key])

        assert not durable or seen(found) == a_record()

    async def test_a_batch_may_be_as_large_as_the_store_says(self, store: Store) -> None:
        size = min(store.capabilities.swap_batch_max, 2000)
        records = [a_record(f"{number:05}") for number in range(size)]

        await create(store, *records)

        assert len(await store.load([record.key for record in records])) == size
        claimed = await claim(store, limit=size)
        assert len(claimed) == size
        assert (
            await store.swap([Change(record, completed(record, T0 + 1)) for record in claimed])
            == [True] * size
        )
        assert await store.swap([Change(await load(store, records[0]), None)]) == [True]

    async def test_empty_batches_are_answered(self, store: Store) -> None:
        claimed = await store.claim({}, "lease", "worker", T0, T0)

        assert await store.load([]) == []
        assert await store.swap([]) == []
        assert list((await store.renew([], T0)).held) == []
        assert list(claimed.records) == []
        assert claimed.next_claimable_at is None
        await store.notify([])

    # Loading

    async def test_a_record_comes_back_as_it_was_written(self, store: Store) -> None:
        record = a_record(
            spec=Spec(
                Cron("*/5 * * * *", "Europe/Dublin", seed="x"),
                msgspec.Raw('{"name":"é 🕰 \\u0000 \\"quoted\\"","n":9007199254740993}'.encode()),
                Policies(mode=Mode.AT_MOST_ONCE, missed=Missed.ALL, not_before=T0, starting_deadline=1),
            ),
            due_at=T0 + 1,
            claimable_at=T0 + 2,
            schedule_since=T0 - 3,
            lease_length=4,
            attempt=5,
            began_at=T0 + 6,
            lease=Lease("id", "holder", T0 + 7),
            state=State(
                born=T0,
                started=Started(T0, T0 + 8, (Dropped(Outcome.MISSED, T0, T0 + 1, 10_000, exact=False),)),
                exhausted=True,
                withdrawn_at=T0 + 9,
                owner=Owner("uid", 3, "hash"),
                summary=Summary(last_message="it's 100% \\ \n\t\x00 🕰", counts=Counts(succeeded=2**53 + 1)),
            ),
        )

        await create(store, record)

        assert seen(await load(store, record)) == record

    @pytest.mark.parametrize("absent", ["due_at", "claimable_at"])
    async def test_what_is_absent_comes_back_as_absent(self, store: Store, absent: str) -> None:
        record = replace(a_record(spec=Spec()), **{absent: None})

        await create(store, record)

        assert seen(await load(store, record)) == record

    async def test_records_are_loaded_in_the_order_asked_for(self, store: Store) -> None:
        a, b, absent = a_record("a"), a_record("b"), a_record("absent")
        await create(store, a, b)

        found = await store.load([b.key, absent.key, a.key, b.key])

        assert [seen(record) for record in found] == [b, None, a, b]

    async def test_a_record_of_an_unknown_partition_is_not_there(self, store: Store) -> None:
        assert await store.load([Key(Partition("no such realm", "handler"), "task")]) == [None]

    async def test_each_name_of_a_key_tells_records_apart(self, store: Store) -> None:
        keys = [
            Key(Partition(realm, handler, number), task, instance, occurrence)
            for realm in ("", "r")
            for handler in ("h", "hh")
            for number in (0, 1)
            for task in ("t", "T")
            for instance in ("", "t")
            for occurrence in ("", "t")
        ]
        records = [a_record(key=key, version=T0 + index) for index, key in enumerate(keys)]

        await create(store, *records)

        assert [seen(record) for record in await store.load(keys)] == records

    @pytest.mark.parametrize("name", ODD_NAMES)
    async def test_any_name_is_kept_as_it_is(self, store: Store, name: str) -> None:
        half = name[: PARTITION_BYTES_MAX // 4]
        records = [
            a_record(key=Key(HERE, "", name)),
            a_record(key=Key(HERE, name)),
            a_record(key=Key(HERE, "t", "", name[:300])),
            a_record(key=Key(Partition(half, half), "task")),
        ]
        unique = list({record.key: record for record in records}.values())

        await create(store, *unique)

        for record in unique:
            assert seen(await load(store, record)) == record
            (claimed,) = await store.swap([Change(await load(store, record), changed(record))])
            assert claimed
        assert Key(HERE, "", name) in [found.key for found in await store.scan(HERE, "", None, 10)]
        assert len(await claim(store)) == len([record for record in unique if record.key.partition == HERE])
        assert Partition(half, half) in await store.partitions(half)

    async def test_names_are_equal_only_if_their_characters_are(self, store: Store) -> None:
        names = ["café", "cafe\u0301", "CAFÉ", "cafe", "cafe ", " cafe", "ﬁ", "fi", "ß", "ss"]

        await create(store, *(a_record(name) for name in names))

        assert instances(await store.scan(HERE, "task", None, 100)) == sorted(names)

    @pytest.mark.parametrize(
        "key",
        [
            Key(HERE, "task", "nul\0"),
            Key(HERE, "task", "surrogate\udc80"),
            Key(HERE, "task", "x" * KEY_BYTES_MAX),
            Key(HERE, "task", "🕰" * (KEY_BYTES_MAX // 4)),
            Key(Partition("nul\0", "handler"), "task"),
            Key(Partition("realm", "h" * PARTITION_BYTES_MAX), "task"),
            Key(Partition("realm", "handler", -1), "task"),
            Key(Partition("realm", "handler", 2**31), "task"),
        ],
        ids=[
            "nul",
            "surrogate",
            "too long",
            "too long in bytes",
            "partition nul",
            "long handler",
            "negative",
            "large",
        ],
    )
    async def test_a_name_that_cannot_be_kept_is_refused_before_anything_is_written(
        self, store: Store, key: Key
    ) -> None:
        with pytest.raises(ValueError):
            await store.swap([Change(None, a_record("good")), Change(None, a_record(key=key))])
        with pytest.raises(ValueError):
            await store.load([key])

        assert await store.load([a_record("good").key]) == [None]

    async def test_integers_keep_every_bit(self, store: Store) -> None:
        large = 2**53 + 1
        record = a_record(
            "large",
            at=large,
            version=large,
            fence=2**62 + 1,
            schedule_since=-(2**53) - 1,
            lease_length=2**53 + 3,
        )

        await create(store, record)
        (claimed,) = await claim(store, now=large + 2)

        assert claimed.version == large + 1
        assert claimed.fence == 2**62 + 2
        assert claimed.schedule_since == -(2**53) - 1
        assert claimed.began_at == large + 2
        assert claimed.lease == Lease("lease", "worker", large + 2 + 2**53 + 3)
        assert seen(await load(store, record)) == seen(claimed)

    async def test_instants_before_the_epoch_are_instants(self, store: Store) -> None:
        await create(store, a_record("ancient", at=-62_000_000_000_000_000), a_record("old", at=-1))

        assert instances(await claim(store, now=-2)) == ["ancient"]
        assert instances(await claim(store, now=-1, lease_id="next")) == ["old"]

    # Swapping

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

    # Leases in a swap

    async def test_a_record_can_be_created_with_a_lease(self, store: Store) -> None:
        record = a_record(lease=Lease("mine", "worker", T0 + LEASE), attempt=1, began_at=T0)
        await create(store, record)

        assert seen(await load(store, record)) == record
        assert await claim(store) == []
        assert list((await store.renew([Renewal(record.key, "mine", LEASE)], T0)).held) == [True]

    async def test_a_swap_takes_a_lease_away(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)

        assert await store.swap([Change(held, changed(held, lease=None))]) == [True]

        assert (await load(store, held)).lease is None
        assert (await load(store, held)).attempt == 1
        assert instances(await claim(store, lease_id="next")) == ["a"]

    async def test_a_swap_keeps_a_lease(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        after = changed(
            held, due_at=T0 + 5, claimable_at=T0 + 5, attempt=7, began_at=T0 + 3, fence=held.fence + 3
        )

        assert await store.swap([Change(held, after)]) == [True]

        assert seen(await load(store, held)) == seen(after)
        assert await claim(store, now=T0 + LEASE - 1, lease_id="too soon") == []
        assert instances(await claim(store, now=T0 + LEASE, lease_id="next")) == ["a"]

    async def test_a_swap_replaces_a_lease(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        after = changed(held, lease=Lease("other", "another", T0 + 2 * LEASE))

        assert await store.swap([Change(held, after)]) == [True]

        assert seen(await load(store, held)) == seen(after)
        renewals = [Renewal(held.key, "lease", LEASE), Renewal(held.key, "other", LEASE)]
        assert [list((await store.renew([renewal], T0)).held) for renewal in renewals] == [[False], [True]]

    async def test_a_swap_gives_a_lease_to_what_had_none(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())

        assert await store.swap([Change(before, changed(before, lease=Lease("id", "who", T0 + 5)))]) == [True]

        assert await claim(store, now=T0 + 4) == []
        assert instances(await claim(store, now=T0 + 5)) == ["a"]

    async def test_a_swap_does_not_undo_a_renewal(self, open_another: OpenAnother) -> None:
        store, other = await open_another(), await open_another()
        await create(store, a_record())
        (held,) = await claim(store)
        await other.renew([Renewal(held.key, "lease", LEASE)], T0 + 30 * SECOND)

        made = await store.swap([Change(held, changed(held, state=State(born=1)))])

        assert made == [True]
        assert (await load(store, held)).lease == Lease("lease", "worker", T0 + 30 * SECOND + LEASE)
        assert await claim(store, now=T0 + 30 * SECOND + LEASE - 1, lease_id="too soon") == []

    # Claiming

    async def test_a_record_is_claimable_at_the_very_instant(self, store: Store) -> None:
        await create(store, a_record(at=T0))

        assert await claim(store, now=T0 - 1) == []
        assert instances(await claim(store, now=T0)) == ["a"]

    async def test_a_claim_stamps_the_lease_and_counts(self, store: Store) -> None:
        record = a_record(state=State(born=T0), lease_length=7 * SECOND)
        await create(store, record)

        claimed = await store.claim({HERE: 1}, "the lease", "the holder", T0 + 3, T0 + 3)

        expected = replace(
            record,
            version=T0 + 1,
            fence=T0 + 1,
            attempt=1,
            began_at=T0 + 3,
            lease=Lease("the lease", "the holder", T0 + 3 + 7 * SECOND),
        )
        assert [seen(found) for found in claimed.records] == [expected]
        assert seen(await load(store, record)) == expected

    async def test_attempts_are_counted_and_the_first_claim_remembered(self, store: Store) -> None:
        await create(store, a_record())
        (first,) = await claim(store)

        (second,) = await claim(store, now=T0 + LEASE, lease_id="second")
        (third,) = await claim(store, now=T0 + 2 * LEASE, lease_id="third")

        assert [first.attempt, second.attempt, third.attempt] == [1, 2, 3]
        assert [first.fence, second.fence, third.fence] == [T0 + 1, T0 + 2, T0 + 3]
        assert [first.version, second.version, third.version] == [T0 + 1, T0 + 2, T0 + 3]
        assert [first.began_at, second.began_at, third.began_at] == [T0, T0, T0]
        assert third.lease == Lease("third", "worker", T0 + 3 * LEASE)

    async def test_the_old_holder_cannot_write_after_a_takeover(self, open_another: OpenAnother) -> None:
        store, other = await open_another(), await open_another()
        await create(store, a_record())
        (old,) = await claim(store)
        (new,) = await claim(other, now=T0 + LEASE, lease_id="takeover")

        assert await store.swap([Change(old, completed(old, T0 + 5))]) == [False]
        assert await other.swap([Change(new, completed(new, T0 + 5))]) == [True]

    async def test_a_completed_record_is_claimable_at_its_next_time_and_not_before(
        self, store: Store
    ) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        await store.swap([Change(held, completed(held, T0 + 90 * SECOND))])

        assert await claim(store, now=T0 + 90 * SECOND - 1) == []
        (again,) = await claim(store, now=T0 + 90 * SECOND)

        assert again.attempt == 1
        assert again.began_at == T0 + 90 * SECOND
        assert again.fence == held.fence + 1

    async def test_the_soonest_are_claimed_first(self, store: Store) -> None:
        order = [5, 3, 9, 1, 7, 0, 8, 2, 6, 4]
        await create(store, *(a_record(str(number), at=T0 + number) for number in order))

        first = await claim(store, limit=4, now=T0 + 20)
        rest = await claim(store, limit=10, now=T0 + 20, lease_id="rest")

        assert instances(first) == ["0", "1", "2", "3"]
        assert instances(rest) == ["4", "5", "6", "7", "8", "9"]

    async def test_no_more_are_claimed_than_the_limit_of_each_partition(self, store: Store) -> None:
        for partition in (HERE, ELSEWHERE, Partition("realm", "other")):
            await create(store, *(a_record(key=Key(partition, "task", name), at=T0) for name in "abcde"))

        claimed = await store.claim({HERE: 2, ELSEWHERE: 3}, "lease", "worker", T0, T0)

        found = [record.key.partition for record in claimed.records]
        assert (found.count(HERE), found.count(ELSEWHERE), len(found)) == (2, 3, 5)

    async def test_each_partition_is_in_order(self, store: Store) -> None:
        for partition in (HERE, ELSEWHERE):
            await create(
                store, *(a_record(key=Key(partition, "task", str(n)), at=T0 + n) for n in (3, 1, 2, 0))
            )

        claimed = await store.claim({HERE: 3, ELSEWHERE: 4}, "lease", "worker", T0 + 9, T0 + 9)

        by_partition = {
            partition: [
                record.key.instance for record in claimed.records if record.key.partition == partition
            ]
            for partition in (HERE, ELSEWHERE)
        }
        assert by_partition == {HERE: ["0", "1", "2"], ELSEWHERE: ["0", "1", "2", "3"]}

    async def test_many_partitions_are_claimed_from_at_once(self, store: Store) -> None:
        partitions = [Partition("realm", f"handler-{number % 10}", number) for number in range(150)]
        await create(store, *(a_record(key=Key(partition, "task")) for partition in partitions))

        claimed = await store.claim(dict.fromkeys(partitions, 1), "lease", "worker", T0, T0)

        assert {record.key.partition for record in claimed.records} == set(partitions)

    async def test_a_limit_of_zero_claims_nothing_and_looks(self, store: Store) -> None:
        await create(store, a_record(at=T0 + 5))

        claimed = await store.claim({HERE: 0}, "lease", "worker", T0, T0)

        assert list(claimed.records) == []
        assert claimed.next_claimable_at == T0 + 5

    async def test_what_is_not_to_run_is_never_claimed(self, store: Store) -> None:
        await create(store, a_record(at=None), a_record("b", claimable_at=None))

        claimed = await store.claim({HERE: 10}, "lease", "worker", 2**60, 2**60)

        assert list(claimed.records) == []
        assert claimed.next_claimable_at is None

    async def test_what_falls_due_within_the_time_ahead_is_claimed_before_it_does(self, store: Store) -> None:
        await create(
            store, a_record("past", at=T0 - 5), a_record("soon", at=T0 + 9), a_record("a", at=T0 + 10)
        )

        claimed = await store.claim({HERE: 10}, "lease", "worker", T0, T0, 9)

        assert instances(list(claimed.records)) == ["past", "soon"]
        assert [record.began_at for record in claimed.records] == [T0, T0 + 9]
        assert {record.lease for record in claimed.records} == {Lease("lease", "worker", T0 + LEASE)}
        assert claimed.next_claimable_at == T0 + 1
        assert [seen(found) for found in await load_all(store, [*claimed.records])] == [
            seen(record) for record in claimed.records
        ]

    async def test_a_lease_is_not_taken_over_ahead_of_its_end(self, store: Store) -> None:
        await create(store, a_record())
        await claim(store)

        early = await store.claim({HERE: 10}, "early", "other", T0 + LEASE - 5, T0 + LEASE - 5, 9)
        taken = await store.claim({HERE: 10}, "taken", "other", T0 + LEASE, T0 + LEASE, 9)

        assert list(early.records) == []
        assert early.next_claimable_at is not None
        assert T0 + LEASE - 5 < early.next_claimable_at <= T0 + LEASE
        assert instances(list(taken.records)) == ["a"]
        assert taken.records[0].began_at == T0

    async def test_claimable_at_rules_and_not_due_at(self, store: Store) -> None:
        await create(
            store, a_record(due_at=T0, claimable_at=T0 + 5), a_record("b", due_at=T0 + 9, claimable_at=T0)
        )

        assert instances(await claim(store, now=T0 + 4)) == ["b"]
        assert instances(await claim(store, now=T0 + 5, lease_id="next")) == ["a"]

    async def test_a_lease_can_be_taken_over_at_the_instant_it_ends(self, store: Store) -> None:
        await create(store, a_record())
        await claim(store)

        assert await claim(store, now=T0 + LEASE - 1, lease_id="too soon") == []
        assert instances(await claim(store, now=T0 + LEASE, lease_id="takeover")) == ["a"]

    async def test_expired_at_tells_which_leases_have_ended_and_now_what_is_due(self, store: Store) -> None:
        await create(store, a_record())
        await claim(store)
        later = T0 + 10 * LEASE

        await create(store, a_record("b", at=later))

        assert instances(await claim(store, now=later, expired_at=T0 + LEASE - 1, lease_id="2")) == ["b"]
        assert instances(await claim(store, now=later, expired_at=T0 + LEASE, lease_id="3")) == ["a"]

    async def test_a_lease_that_ended_does_not_make_claimable_what_is_not_due(self, store: Store) -> None:
        await create(store, a_record(at=T0 + 9 * LEASE, lease=Lease("old", "who", T0)))

        assert await claim(store, now=T0 + LEASE) == []
        assert instances(await claim(store, now=T0 + 9 * LEASE)) == ["a"]

    async def test_expired_leases_are_taken_over_in_the_order_of_what_was_due(self, store: Store) -> None:
        await create(store, *(a_record(str(n), at=T0 + n, lease_length=100 - n) for n in range(4)))
        await claim(store, now=T0 + 10)
        await create(store, a_record("new", at=T0 + 2))

        claimed = await claim(store, limit=4, now=T0 + 500, lease_id="takeover")

        assert sorted(instances(claimed)[2:4]) == ["2", "new"]
        assert instances(claimed)[:2] == ["0", "1"]
        assert instances(await claim(store, now=T0 + 500, lease_id="rest")) == ["3"]

    async def test_a_claim_with_an_earlier_now_gets_what_was_due_then(self, store: Store) -> None:
        await create(store, a_record("soon", at=T0), a_record("late", at=T0 + 100))
        await claim(store, limit=0, now=T0 + 200)

        assert instances(await claim(store, now=T0 + 50)) == ["soon"]

    async def test_a_due_record_is_found_behind_many_leased_ones(self, store: Store) -> None:
        await create(store, *(a_record(f"{n:03}", at=T0 + n) for n in range(300)))
        await claim(store, limit=300, now=T0 + 300)
        await create(store, a_record("last", at=T0 + 400))

        assert instances(await claim(store, limit=1, now=T0 + 400, lease_id="next")) == ["last"]

    async def test_no_record_is_leased_twice_however_many_claim_at_once(
        self, open_another: OpenAnother
    ) -> None:
        stores = [await open_another() for _ in range(4)]
        await create(stores[0], *(a_record(f"{number:03}", at=T0 + number) for number in range(200)))
        got: list[str] = []

        async def claim_until_all_are_taken(store: Store, name: str) -> None:
            for number in range(TRIES_MAX):
                if len(got) >= 200:
                    return
                got.extend(instances(await claim(store, limit=7, now=T0 + 300, lease_id=f"{name}-{number}")))
                await asyncio.sleep(0)

        await asyncio.gather(*(claim_until_all_are_taken(store, str(n)) for n, store in enumerate(stores)))

        assert sorted(got) == [f"{number:03}" for number in range(200)]

    async def test_claims_and_completions_of_several_run_each_occurrence_once(
        self, open_another: OpenAnother
    ) -> None:
        stores = [await open_another() for _ in range(3)]
        await create(stores[0], *(a_record(f"{number:03}", at=T0 + number) for number in range(60)))
        runs: list[tuple[str, int]] = []

        async def work(store: Store, name: str) -> None:
            for number in range(TRIES_MAX):
                if len(runs) >= 180:
                    return
                held = await claim(store, limit=5, now=T0 + 300, lease_id=f"{name}-{number}")
                ended = [
                    completed(record, record.due_at + 100 if record.due_at < T0 + 200 else None)
                    for record in held
                    if record.due_at is not None
                ]
                made = await store.swap([Change(b, a) for b, a in zip(held, ended, strict=True)])
                assert all(made)
                runs.extend((record.key.instance, record.due_at or 0) for record in held)
                await asyncio.sleep(0)

        await asyncio.gather(*(work(store, str(n)) for n, store in enumerate(stores)))

        assert sorted(runs) == sorted(
            (f"{number:03}", T0 + number + round_ * 100) for number in range(60) for round_ in range(3)
        )

    # When to look again

    async def test_the_next_claimable_time_is_that_of_the_first_record(self, store: Store) -> None:
        await create(store, a_record("b", at=T0 + 9), a_record("a", at=T0 + 5))

        claimed = await store.claim({HERE: 5}, "lease", "worker", T0, T0)

        assert claimed.next_claimable_at == T0 + 5

    async def test_the_next_claimable_time_counts_every_partition_asked_for_and_no_other(
        self, store: Store
    ) -> None:
        await create(
            store,
            a_record(at=T0 + 9),
            a_record(key=Key(ELSEWHERE, "task"), at=T0 + 7),
            a_record(key=Key(Partition("realm", "other"), "task"), at=T0 + 5),
        )

        for limits in ({HERE: 5, ELSEWHERE: 5}, {ELSEWHERE: 5, HERE: 5}):
            claimed = await store.claim(limits, "lease", "worker", T0, T0)

            assert claimed.next_claimable_at == T0 + 7

    async def test_nothing_is_known_of_an_empty_partition(self, store: Store) -> None:
        claimed = await store.claim({HERE: 5, Partition("", "never seen"): 5}, "lease", "worker", T0, T0)

        assert claimed.next_claimable_at is None

    async def test_the_end_of_anothers_lease_is_a_time_to_look_again(self, open_another: OpenAnother) -> None:
        store, other = await open_another(), await open_another()
        await create(store, a_record(), a_record("later", at=T0 + 5 * LEASE))
        await claim(other)

        claimed = await store.claim({HERE: 5}, "mine", "worker", T0 + 1, T0 + 1)

        assert claimed.next_claimable_at is not None
        assert T0 + 1 < claimed.next_claimable_at <= T0 + LEASE

    async def test_the_end_of_the_leases_just_given_is_a_time_to_look_again(self, store: Store) -> None:
        await create(store, a_record())

        claimed = await store.claim({HERE: 5}, "lease", "worker", T0, T0)

        assert claimed.next_claimable_at is not None
        assert T0 < claimed.next_claimable_at <= T0 + LEASE

    async def test_one_who_must_wait_for_expired_looking_leases_is_not_told_to_look_at_once(
        self, store: Store
    ) -> None:
        await create(store, a_record())
        await claim(store)
        now = T0 + 2 * LEASE

        claimed = await store.claim({HERE: 5}, "2", "worker", now, T0 + LEASE - 10)

        assert list(claimed.records) == []
        assert claimed.next_claimable_at is not None
        assert now < claimed.next_claimable_at <= now + 10

    async def test_more_than_the_limit_is_a_reason_to_look_at_once(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("b"), a_record("c"))

        claimed = await store.claim({HERE: 2}, "lease", "worker", T0, T0)

        assert claimed.next_claimable_at is not None
        assert claimed.next_claimable_at <= T0

    # Renewing

    async def test_a_renewal_moves_the_end_of_the_lease(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)

        renewed = await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 50 * SECOND)

        assert list(renewed.held) == [True]
        assert await claim(store, now=T0 + 50 * SECOND + LEASE - 1, lease_id="2") == []
        assert instances(await claim(store, now=T0 + 50 * SECOND + LEASE, lease_id="3")) == ["a"]

    async def test_a_renewal_changes_nothing_but_the_end_of_the_lease(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)

        await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 1)

        found = await load(store, held)
        end = T0 + 1 + LEASE
        assert found.lease == Lease("lease", "worker", end)
        assert found.claimable_at is not None
        assert T0 <= found.claimable_at <= end
        assert seen(replace(found, lease=held.lease, claimable_at=held.claimable_at)) == seen(held)

    async def test_a_renewal_that_comes_late_does_not_undo_a_newer_one(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 50 * SECOND)

        late = await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 20 * SECOND)

        assert list(late.held) == [True]
        assert await claim(store, now=T0 + 50 * SECOND + LEASE - 1, lease_id="2") == []
        assert instances(await claim(store, now=T0 + 50 * SECOND + LEASE, lease_id="3")) == ["a"]

    async def test_a_renewal_does_not_wake_what_is_not_to_run(self, store: Store) -> None:
        record = a_record(claimable_at=None, lease=Lease("lease", "worker", T0))
        await create(store, record)

        renewed = await store.renew([Renewal(record.key, "lease", LEASE)], T0)

        assert list(renewed.held) == [True]
        assert (await load(store, record)).claimable_at is None

    async def test_a_lease_keeps_what_is_never_to_run_for_as_long_as_it_is_renewed(
        self, open_another: OpenAnother
    ) -> None:
        holder, looker = await open_another(), await open_another()
        record = a_record(at=None, spec=Spec(), lease=Lease("lease", "worker", T0 + LEASE))
        await create(holder, record)
        (before,) = await looker.scan(HERE, "task", None, 10)

        await holder.renew([Renewal(record.key, "lease", 2 * LEASE)], T0)

        (found,) = await looker.scan(HERE, "task", None, 10)
        assert (seen(before), found.lease) == (record, Lease("lease", "worker", T0 + 2 * LEASE))
        assert await claim(looker, now=T0 + 10 * LEASE, lease_id="2") == []
        # Who has created it needs no further look to remove it, nor has who saw it once.
        assert await holder.swap([Change(record, None)]) == [True]
        assert await looker.swap([Change(before, None)]) == [False]
        assert list((await holder.renew([Renewal(record.key, "lease", LEASE)], T0)).held) == [False]

    async def test_each_renewal_is_answered_in_the_order_asked_for(self, store: Store) -> None:
        await create(store, *(a_record(name) for name in "abcd"))
        a, b, c, d = await claim(store)
        await store.swap([Change(b, completed(b, T0 + 5)), Change(d, None)])

        renewed = await store.renew(
            [
                Renewal(a.key, "wrong", LEASE),
                Renewal(b.key, "lease", LEASE),
                Renewal(c.key, "lease", LEASE),
                Renewal(d.key, "lease", LEASE),
                Renewal(Key(HERE, "never", "was"), "lease", LEASE),
                Renewal(a.key, "lease", LEASE),
                Renewal(Key(Partition("no such", "partition"), "task"), "lease", LEASE),
            ],
            T0 + 1,
        )

        assert list(renewed.held) == [False, False, True, False, False, True, False]

    async def test_an_expired_lease_that_nobody_took_is_still_held(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        late = T0 + 3 * LEASE

        renewed = await store.renew([Renewal(held.key, "lease", LEASE)], late)

        assert list(renewed.held) == [True]
        assert await claim(store, now=late + LEASE - 1, lease_id="2") == []

    async def test_a_lease_that_was_taken_over_is_not_held(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        (new,) = await claim(store, now=T0 + LEASE, lease_id="new")

        renewed = await store.renew([Renewal(held.key, "lease", LEASE)], T0 + LEASE)

        assert list(renewed.held) == [False]
        assert (await load(store, held)).lease == new.lease

    async def test_a_renewed_record_can_still_be_completed(self, store: Store) -> None:
        await create(store, a_record())
        (held,) = await claim(store)
        await store.renew([Renewal(held.key, "lease", LEASE)], T0 + 30 * SECOND)

        assert await store.swap([Change(held, completed(held, T0 + 2 * LEASE))]) == [True]

        found = await load(store, held)
        assert found.lease is None
        assert found.claimable_at == T0 + 2 * LEASE
        assert instances(await claim(store, now=T0 + 2 * LEASE, lease_id="2")) == ["a"]

    async def test_many_leases_are_renewed_at_once(self, store: Store) -> None:
        await create(store, *(a_record(f"{number:03}") for number in range(300)))
        held = await claim(store, limit=300)

        renewed = await store.renew([Renewal(record.key, "lease", LEASE) for record in held], T0 + 5)

        assert list(renewed.held) == [True] * 300
        assert await claim(store, limit=300, now=T0 + LEASE, lease_id="2") == []

    # Scanning

    async def test_a_scan_returns_the_records_of_one_task_in_the_order_of_their_keys(
        self, store: Store
    ) -> None:
        keys = [
            Key(HERE, "task"),
            Key(HERE, "task", "", "1"),
            Key(HERE, "task", "", "2"),
            Key(HERE, "task", "a"),
            Key(HERE, "task", "a", "1"),
            Key(HERE, "task", "ab"),
            Key(HERE, "task", "b"),
        ]
        others = [
            Key(HERE, "tas", "k"),
            Key(HERE, "task2"),
            Key(HERE, "Task"),
            Key(ELSEWHERE, "task"),
            Key(HERE, "", "x"),
        ]
        await create(store, *(a_record(key=key) for key in (keys + others)[::-1]))

        found = await store.scan(HERE, "task", None, 100)

        assert [record.key for record in found] == keys
        assert [seen(record) for record in found] == [a_record(key=key) for key in keys]

    async def test_a_scan_without_a_task_goes_through_the_whole_partition(self, store: Store) -> None:
        keys = [Key(HERE, task, instance) for task in ("", "a", "ab", "b") for instance in ("", "x")]
        await create(store, a_record(key=Key(ELSEWHERE, "a")), *(a_record(key=key) for key in keys))

        first = await store.scan(HERE, None, None, 5)
        rest = await store.scan(HERE, None, first[-1].key, 100)

        assert [record.key for record in [*first, *rest]] == keys
        assert await store.scan(HERE, None, keys[-1], 5) == []

    async def test_the_pages_of_a_scan_hold_each_record_once(self, store: Store) -> None:
        await create(store, *(a_record(f"{number:03}") for number in range(25)))
        pages: list[list[str]] = []
        after = None

        for _ in range(TRIES_MAX):
            page = await store.scan(HERE, "task", after, 10)
            if not page:
                break
            pages.append(instances(page))
            after = page[-1].key

        assert [len(page) for page in pages] == [10, 10, 5]
        assert [name for page in pages for name in page] == [f"{number:03}" for number in range(25)]

    async def test_a_scan_goes_on_after_a_key_that_is_no_longer_there(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("c"))

        assert instances(await store.scan(HERE, "task", Key(HERE, "task", "b"), 10)) == ["c"]
        assert instances(await store.scan(HERE, "task", Key(HERE, "task", "c"), 10)) == []

    async def test_a_record_that_stays_is_in_one_page_while_others_come_and_go_and_move(
        self, open_another: OpenAnother
    ) -> None:
        store, other = await open_another(), await open_another()
        stay = [f"{number:03}" for number in range(0, 60, 2)]
        await create(store, *(a_record(name) for name in stay))
        found: list[str] = []
        after = None

        for number in range(TRIES_MAX):
            page = await store.scan(HERE, "task", after, 4)
            if not page:
                break
            found += instances(page)
            after = page[-1].key
            if number < 29:
                await create(other, a_record(f"{2 * number + 1:03}"))
                passing = await load(other, a_record(f"{2 * number + 1:03}"))
                if number % 2:
                    await other.swap([Change(passing, None)])
            befores = await load_all(other, [a_record(name) for name in stay])
            await other.swap(
                [
                    Change(before, completed(before, T0 + 97 * (number + index) % 1000))
                    for index, before in enumerate(befores)
                ]
            )

        assert [name for name in found if name in stay] == stay
        assert len(found) == len(set(found))

    async def test_a_scan_orders_names_by_code_points(self, store: Store) -> None:
        names = list(dict.fromkeys(ODD_NAMES))
        names = [name for name in names if len(name.encode()) <= KEY_BYTES_MAX - len("task")]
        await create(store, *(a_record(name) for name in names))
        found: list[str] = []

        for _ in range(len(names) + 1):
            after = Key(HERE, "task", found[-1]) if found else None
            found += instances(await store.scan(HERE, "task", after, 3))

        assert found == sorted(names)

    async def test_leased_records_are_scanned_as_they_are(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("b", at=T0 + 5))
        (held,) = await claim(store)

        found = await store.scan(HERE, "task", None, 10)

        assert [seen(record) for record in found] == [seen(held), a_record("b", at=T0 + 5)]

    # Counting

    async def test_what_is_due_and_what_is_leased_is_counted(self, store: Store) -> None:
        late = [a_record(f"late-{number}", at=T0 - number) for number in range(5)]
        later = [a_record(f"later-{number}", at=T0 + SECOND) for number in range(4)]
        await create(store, *late, *later, a_record("never", at=None, claimable_at=None))
        await claim(store, limit=2)

        assert await store.count(HERE, "task", T0, LEASE, 100) == (3, 2, True, 10)
        assert await store.count(HERE, "task", T0 + SECOND, LEASE, 100) == (7, 2, True, 10)
        assert await store.count(HERE, None, T0, LEASE, 100) == (3, 2, True, None)

    async def test_a_record_is_due_at_the_very_instant_and_again_when_its_lease_ends(
        self, store: Store
    ) -> None:
        await create(store, a_record())

        assert (await store.count(HERE, "task", T0 - 1, LEASE, 10))[:2] == (0, 0)
        assert (await store.count(HERE, "task", T0, LEASE, 10))[:2] == (1, 0)
        await claim(store)
        assert (await store.count(HERE, "task", T0 + LEASE - 1, LEASE, 10))[:2] == (0, 1)
        assert (await store.count(HERE, "task", T0 + LEASE, LEASE, 10))[:2] == (1, 0)

    async def test_what_is_renewed_is_leased_and_what_is_completed_is_not(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("b"))
        held, _ = await claim(store)
        await store.renew([Renewal(held.key, "lease", LEASE)], T0 + LEASE // 2)

        assert (await store.count(HERE, "task", T0 + LEASE // 2, LEASE, 10))[:2] == (0, 2)
        assert (await store.count(HERE, "task", T0 + LEASE, LEASE, 10))[:2] == (1, 1)
        await store.swap([Change(held, completed(held, T0 + 9 * LEASE))])
        assert (await store.count(HERE, "task", T0 + LEASE // 2, LEASE, 10))[:2] == (0, 1)

    async def test_of_several_tasks_each_is_counted_by_itself(self, store: Store) -> None:
        keys = [
            Key(HERE, "task"),
            Key(HERE, "task", "", "tally-1"),
            Key(HERE, "task", "a"),
            Key(HERE, "task", "a", "1"),
            Key(HERE, "task2", "a"),
            Key(HERE, "tas", "k"),
            Key(ELSEWHERE, "task", "a"),
        ]
        await create(store, *(a_record(key=key) for key in keys))
        for name in ("task", "tas", "task2"):
            assert (await store.count(HERE, name, T0, LEASE, 10))[1] == 0

        # The record of the task itself is no instance of it, nor is what lives beside it or beside an instance.
        assert await store.count(HERE, "task", T0, LEASE, 10) == (4, 0, True, 1)
        assert await store.count(HERE, "task2", T0, LEASE, 10) == (1, 0, True, 1)
        assert await store.count(HERE, "tas", T0, LEASE, 10) == (1, 0, True, 1)
        assert await store.count(HERE, "ta", T0, LEASE, 10) == (0, 0, True, 0)
        await claim(store)
        assert (await store.count(HERE, "task", T0, LEASE, 10))[:2] == (0, 4)
        assert (await store.count(HERE, "task", T0 + LEASE, LEASE, 10))[:2] == (4, 0)

    async def test_no_more_is_counted_than_the_limit(self, store: Store) -> None:
        await create(store, *(a_record(f"{number:03}") for number in range(100)))

        due, leased, is_exact, total = await store.count(HERE, "task", T0, LEASE, 20)
        assert (due, leased, is_exact) == (20, 0, False)
        assert total in {None, 100}
        await claim(store, limit=60)
        due, leased, is_exact, _ = await store.count(HERE, "task", T0, LEASE, 20)
        assert due <= 20
        assert leased <= 20
        assert not is_exact

    async def test_of_a_partition_that_nobody_knows_there_is_nothing_to_count(self, store: Store) -> None:
        assert await store.count(Partition("no", "body"), "task", T0, LEASE, 10) == (0, 0, True, 0)

    async def test_the_partitions_of_a_realm_are_those_that_hold_something(self, store: Store) -> None:
        partitions = [
            Partition("one", "h", 0),
            Partition("one", "h", 1),
            Partition("one", "i"),
            Partition("two", "h"),
        ]
        await create(store, *(a_record(key=Key(partition, "task")) for partition in partitions))

        assert set(await store.partitions("one")) == set(partitions[:3])
        assert set(await store.partitions("two")) == {partitions[3]}
        assert await store.partitions("three") == []

    # History

    async def test_rows_of_history_are_written_with_their_change(self, store: Store) -> None:
        run = a_run(
            started_at=T0 + 1,
            attempts=2,
            worker="wörker",
            message="it's\n🕰 \x00",
            outcome=Outcome.DEAD_LETTERED,
            count=3,
            exact=False,
        )
        await create(store, a_record())
        before = await load(store, a_record())

        await store.swap([Change(before, changed(before), (HistoryRow(-1, run), HistoryRow(0, a_run(2))))])

        assert await store.history(before.key) == [a_run(2), run]

    async def test_rows_of_history_are_written_with_a_creation(self, store: Store) -> None:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()),))])

        assert await store.history(a_record().key) == [a_run()]

    async def test_the_latest_to_end_comes_first(self, store: Store) -> None:
        rows = [HistoryRow(slot, a_run(number)) for slot, number in enumerate([3, 1, 4, 2])]

        await store.swap([Change(None, a_record(), tuple(rows))])

        assert [run.id for run in await store.history(a_record().key)] == ["run-4", "run-3", "run-2", "run-1"]

    async def test_a_row_replaces_what_its_slot_held(self, store: Store) -> None:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run(1)), HistoryRow(1, a_run(2))))])
        before = await load(store, a_record())

        await store.swap([Change(before, changed(before), (HistoryRow(0, a_run(3)),))])

        assert await store.history(before.key) == [a_run(3), a_run(2)]

    async def test_the_last_row_of_a_slot_in_a_batch_stays(self, store: Store) -> None:
        home = a_record("home").key
        await create(store, *(a_record(str(number)) for number in range(4)))
        befores = await load_all(store, [a_record(str(number)) for number in range(4)])

        await store.swap(
            [
                Change(before, changed(before), (HistoryRow(0, a_run(9 - number)),), home)
                for number, before in enumerate(befores)
            ]
        )

        assert await store.history(home) == [a_run(6)]

    async def test_rows_can_be_kept_for_another_key(self, store: Store) -> None:
        home = a_record(key=Key(HERE, "task"))
        one_off = a_record(key=Key(HERE, "task", "", "run-1"))
        await create(store, home, one_off)

        made = await store.swap(
            [Change(await load(store, one_off), None, (HistoryRow(0, a_run()),), home.key)]
        )

        assert made == [True]
        assert await store.history(home.key) == [a_run()]
        assert await store.history(one_off.key) == []

    async def test_a_change_that_loses_writes_no_history(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())
        await store.swap([Change(before, changed(before))])

        await store.swap([Change(before, changed(before), (HistoryRow(0, a_run()),))])
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()),))])
        await store.swap([Change(before, None, (HistoryRow(0, a_run()),), a_record("home").key)])

        assert await store.history(before.key) == []
        assert await store.history(a_record("home").key) == []

    async def test_history_goes_with_its_record(self, store: Store) -> None:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()), HistoryRow(-1, a_run(2))))])
        await store.swap([Change(None, a_record("b"), (HistoryRow(0, a_run()),))])
        before = await load(store, a_record())

        await store.swap([Change(before, None, (HistoryRow(3, a_run(3)),))])
        await create(store, a_record())

        assert await store.history(a_record().key) == []
        assert await store.history(a_record("b").key) == [a_run()]

    async def test_history_outlives_what_lived_beside_its_schedule(self, store: Store) -> None:
        home = Key(HERE, "task")
        beside = a_record(key=Key(HERE, "task", "", "1"))
        await store.swap([Change(None, a_record(key=home), (HistoryRow(0, a_run()),)), Change(None, beside)])

        await store.swap([Change(await load(store, beside), None)])

        assert await store.history(home) == [a_run()]

    async def test_there_is_no_history_of_what_never_was(self, store: Store) -> None:
        assert await store.history(Key(HERE, "task", "never")) == []
        assert await store.history(Key(Partition("never", "seen"), "task")) == []

    # What cannot be read

    async def test_a_poisoned_row_hurts_only_itself(
        self, backend: Any, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        await create(store, a_record("bad"), a_record("good"), a_record("worse"), a_record("fine"))
        await self.poison(backend, a_record("bad").key)
        await self.poison(backend, a_record("worse").key)

        with caplog.at_level(logging.ERROR):
            found = await store.load([a_record(name).key for name in ("bad", "good", "worse", "fine")])

        assert [seen(record) for record in found] == [None, a_record("good"), None, a_record("fine")]
        assert sum("cannot be read" in entry.getMessage() for entry in caplog.records) == 2
        assert instances(await store.scan(HERE, "task", None, 10)) == ["fine", "good"]
        assert sorted(instances(await claim(store))) == ["fine", "good"]
        held = await load(store, a_record("good"))
        assert await store.swap([Change(held, completed(held, T0 + 5))]) == [True]

    async def test_a_page_of_poisoned_rows_does_not_end_a_scan(self, backend: Any, store: Store) -> None:
        await create(store, *(a_record(f"{number:02}") for number in range(12)))
        for number in range(2, 10):
            await self.poison(backend, a_record(f"{number:02}").key)
        found: list[str] = []

        for _ in range(TRIES_MAX):
            page = await store.scan(HERE, "task", Key(HERE, "task", found[-1]) if found else None, 2)
            if not page:
                break
            found += instances(page)

        assert found == ["00", "01", "10", "11"]

    async def test_poisoned_rows_at_the_head_do_not_fill_every_claim(
        self, backend: Any, store: Store
    ) -> None:
        await create(store, *(a_record(str(number), at=T0 + number) for number in range(6)))
        for number in range(5):
            await self.poison(backend, a_record(str(number)).key)
        found: list[str] = []
        calls = 0

        while not found and calls < 10:
            calls += 1
            claimed = await store.claim({HERE: 1}, f"lease-{calls}", "worker", T0 + 9, T0 + 9)
            found += instances(list(claimed.records))
            assert found or (claimed.next_claimable_at or T0 + 99) <= T0 + 9

        assert found == ["5"]

    # Time

    async def test_now_is_about_now(self, store: Store) -> None:
        await create(store, a_record())
        reported = [
            await store.now(),
            (await store.claim({HERE: 1}, "lease", "worker", T0, T0)).backend_now,
            (await store.renew([Renewal(a_record().key, "lease", LEASE)], T0)).backend_now,
        ]

        for instant in reported:
            assert isinstance(instant, int)
            assert abs(instant / SECOND - time.time()) < self.clock_tolerance

    async def test_time_can_be_pretended(self, store: Store) -> None:
        for year, now in enumerate((0, T0 - 10**15, 253_000_000_000_000_000)):
            await create(store, a_record(str(year), at=now))

            (held,) = await claim(store, now=now, lease_id=str(year))

            assert held.began_at == now
            assert held.lease == Lease(str(year), "worker", now + LEASE)
            await store.swap([Change(held, None)])

    # Notifications

    async def test_what_one_store_notifies_of_another_hears(self, open_another: OpenAnother) -> None:
        store, other = await open_another(), await open_another()
        listening = asyncio.create_task(_next(other.notified()))
        notification = Notification(Partition("réalm's", 'hand"ler', 3), T0 + 2**53)

        if not store.capabilities.notifies:
            await store.notify([notification])
            await asyncio.wait([listening], timeout=0.05)
            assert not listening.done()
            listening.cancel()
            return
        heard = await _heard(store, listening, [notification])

        assert heard == notification

    async def test_none_is_made_up(self, open_another: OpenAnother) -> None:
        store = await open_another()
        listening = asyncio.create_task(_next(store.notified()))
        await asyncio.sleep(0)

        await create(store, a_record())
        await claim(store)
        await asyncio.wait([listening], timeout=0.05)

        assert not listening.done()
        listening.cancel()
        await asyncio.wait([listening])

    # Many at once, and gone wrong

    async def test_many_tasks_use_one_store_at_once(self, store: Store) -> None:
        async def live(number: int) -> None:
            partition = Partition("realm", "handler", number)
            record = a_record(key=Key(partition, "task"))
            await create(store, record)
            held = await claim_in_the_end(store, partition, lease_id=str(number))
            assert held.lease is not None
            assert list((await store.renew([Renewal(held.key, held.lease.id, LEASE)], T0)).held) == [True]
            after = completed(held, T0 + number)
            assert await store.swap([Change(held, after, (HistoryRow(0, a_run(number)),))]) == [True]
            assert seen(await load(store, record)) == seen(after)
            assert await store.history(record.key) == [a_run(number)]
            assert len(await store.scan(partition, "task", None, 5)) == 1

        await asyncio.gather(*(live(number) for number in range(40)))

    async def test_a_cancellation_is_heard_whenever_it_comes(self, store: Store) -> None:
        """Who is cancelled ends, also in the very moment of an answer: some drivers lose a cancellation then."""

        async def ask_on() -> None:
            while True:
                await store.load([a_record().key])
                await asyncio.sleep(0)

        for turns in range(150):
            asking = asyncio.create_task(ask_on())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking], timeout=10)
            assert asking.cancelled()

    async def test_a_cancelled_call_leaves_the_store_usable(self, store: Store) -> None:
        records = [a_record(f"{number:02}") for number in range(20)]
        await create(store, *records)
        calls: list[asyncio.Task[Any]] = []
        for number in range(20):
            before = await load(store, records[number])
            calls += [
                asyncio.create_task(store.swap([Change(before, changed(before, attempt=9))])),
                asyncio.create_task(store.claim({HERE: 1}, f"lease-{number}", "worker", T0, T0)),
                asyncio.create_task(store.load([records[number].key])),
            ]
            for _ in range(number % 4):
                await asyncio.sleep(0)
            for call in calls[-3:]:
                call.cancel()

        await asyncio.wait(calls)

        for record in records:
            assert (await load(store, record)).version in range(T0, T0 + 3)
        await create(store, a_record("after"))
        assert await load(store, a_record("after")) is not None


async def _next(notifications: AsyncIterator[Notification]) -> Notification:
    async for notification in notifications:
        return notification
    raise AssertionError("notifications ended")


async def _heard(
    store: Store, listening: asyncio.Task[Notification], notifications: list[Notification]
) -> Notification:
    """Notify until it is heard: a listener may not yet be listening, and some may be lost."""
    deadline = time.monotonic() + PATIENCE
    while not listening.done() and time.monotonic() < deadline:
        await store.notify(notifications)
        await asyncio.wait([listening], timeout=0.05)
    assert listening.done(), f"not heard within {PATIENCE} s"
    return await listening
