"""Promises of `claim` about when it is worth it to claim again."""

from __future__ import annotations

import asyncio

from pyncette.core.record import Change, Key, Partition, State
from pyncette.store.base import Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import (
    ELSEWHERE,
    HERE,
    LEASE,
    T0,
    TRIES_MAX,
    a_record,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
)


class LookingAgain(OnBackend):
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

    async def test_a_claim_that_got_all_claimable_records_returns_a_later_time(self, store: Store) -> None:
        await create(store, a_record("a"), a_record("b"), a_record("later", at=T0 + 9))

        for limit in (3, 0):
            claimed = await store.claim({HERE: limit}, f"lease-{limit}", "worker", T0, T0)

            assert instances(list(claimed.records)) == (["a", "b"] if limit else [])
            assert claimed.next_claimable_at == T0 + 9

    async def test_a_due_record_that_another_process_edits_is_claimed_or_a_reason_to_claim_again_at_once(
        self, open_another: OpenAnother
    ) -> None:
        store, other = await open_another(), await open_another()
        await create(store, a_record())

        async def edit_on() -> None:
            for number in range(TRIES_MAX):
                before = await load(other, a_record())
                await other.swap([Change(before, changed(before, state=State(created_version=number)))])
                await asyncio.sleep(0)

        editing = asyncio.create_task(edit_on())
        number = 0
        while not editing.done():
            number += 1
            claimed = await store.claim({HERE: 2}, f"lease-{number}", "worker", T0, T0)
            if claimed.records:
                await _release(store)
            else:
                assert claimed.next_claimable_at is not None
                assert claimed.next_claimable_at <= T0
            await asyncio.sleep(0)
        await editing


async def _release(store: Store) -> None:
    """Make the record due again without a lease, on top of concurrent writes."""
    for _ in range(TRIES_MAX):
        held = await load(store, a_record())
        if await store.swap([Change(held, completed(held, T0))]) == [True]:
            return
    raise AssertionError("every attempt to release the record lost a race")
