"""Promises of `count` and `partitions`: what is due, what is leased, and where anything is."""

from __future__ import annotations

from pyncette.clock import SECOND
from pyncette.core.record import Change, Key, Partition
from pyncette.store.base import Renewal, Store
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import (
    ELSEWHERE,
    HERE,
    LEASE,
    T0,
    a_record,
    claim,
    completed,
    create,
)


class Counting(OnBackend):
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
