"""Promises of `load`: a record comes back as it was written, whatever its names and its numbers."""

from __future__ import annotations

import msgspec
import pytest

from pyncette.core.record import (
    Change,
    Counts,
    Dropped,
    Key,
    Lease,
    Outcome,
    Owner,
    Partition,
    Started,
    State,
    Summary,
    replace,
)
from pyncette.core.schedule import Cron
from pyncette.core.spec import Missed, Mode, Policies, Spec
from pyncette.store.base import KEY_BYTES_MAX, PARTITION_BYTES_MAX, Store
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import (
    HERE,
    ODD_NAMES,
    T0,
    a_record,
    changed,
    claim,
    create,
    instances,
    load,
    seen,
)


class Loading(OnBackend):
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
                created_version=T0,
                started=Started(
                    T0, T0 + 8, (Dropped(Outcome.MISSED, T0, T0 + 1, 10_000, exact=False),), due_at=T0 - 4
                ),
                exhausted=True,
                withdrawn_at=T0 + 9,
                schedule_version=2**53 + 1,
                owner=Owner("uid", 3, "hash"),
                summary=Summary(last_message="it's 100% \\ \n\t\x00 🕰", counts=Counts(succeeded=2**53 + 1)),
                floor=T0 + 2**53 + 1,
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
