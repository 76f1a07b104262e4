"""Promises of a store about time: it tells that of its backend, and is told what to take for now."""

from __future__ import annotations

import time

from pyncette.clock import SECOND
from pyncette.core.record import Change, Lease
from pyncette.store.base import Renewal, Store
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import HERE, LEASE, T0, a_record, claim, create


class TellingTime(OnBackend):
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
