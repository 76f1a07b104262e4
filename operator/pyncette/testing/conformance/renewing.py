"""Promises of `renew`: a lease that is still held ends later, and nothing else changes."""

from __future__ import annotations

from pyncette.clock import SECOND
from pyncette.core.record import Change, Key, Lease, Partition, replace
from pyncette.core.spec import Spec
from pyncette.store.base import Renewal, Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import (
    HERE,
    LEASE,
    T0,
    a_record,
    claim,
    completed,
    create,
    instances,
    load,
    seen,
)


class Renewing(OnBackend):
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
