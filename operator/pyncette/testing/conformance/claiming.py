"""Promises of `claim`: what is due gets a lease, the soonest first, at the very instant, and from one claim alone."""

from __future__ import annotations

import asyncio

from pyncette.clock import SECOND
from pyncette.core.record import Change, Key, Lease, Partition, State, replace
from pyncette.store.base import Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import (
    ELSEWHERE,
    HERE,
    LEASE,
    T0,
    TRIES_MAX,
    a_record,
    claim,
    completed,
    create,
    instances,
    load,
    load_all,
    seen,
)


class Claiming(OnBackend):
    async def test_a_record_is_claimable_at_the_very_instant(self, store: Store) -> None:
        await create(store, a_record(at=T0))

        assert await claim(store, now=T0 - 1) == []
        assert instances(await claim(store, now=T0)) == ["a"]

    async def test_a_claim_stamps_the_lease_and_counts(self, store: Store) -> None:
        record = a_record(state=State(created_version=T0), lease_length=7 * SECOND)
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
