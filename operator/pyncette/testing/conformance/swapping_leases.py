"""Promises of `swap` about leases: it gives, keeps, replaces and takes away those of the records that it writes."""

from __future__ import annotations

from pyncette.clock import SECOND
from pyncette.core.record import Change, Lease, State
from pyncette.store.base import Renewal, Store
from pyncette.testing.conformance.backend import OnBackend, OpenAnother
from pyncette.testing.conformance.records import (
    LEASE,
    T0,
    a_record,
    changed,
    claim,
    create,
    instances,
    load,
    seen,
)


class SwappingLeases(OnBackend):
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

        made = await store.swap([Change(held, changed(held, state=State(created_version=1)))])

        assert made == [True]
        assert (await load(store, held)).lease == Lease("lease", "worker", T0 + 30 * SECOND + LEASE)
        assert await claim(store, now=T0 + 30 * SECOND + LEASE - 1, lease_id="too soon") == []
