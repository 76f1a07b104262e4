"""Faults of a server whose clock is wrong."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from datetime import timedelta

import pytest

from pyncette.clock import SECOND
from pyncette.store.base import Renewal
from pyncette.testing.conformance.records import HERE, LEASE, T0, a_record, create, load
from pyncette.testing.faults.server import OnServer


class WrongClock(OnServer):
    def clock_ahead(self, ahead: timedelta) -> AbstractContextManager[None]:
        """Have the clock of the server be *ahead* inside of the context."""
        raise NotImplementedError

    async def test_every_reply_has_the_time_of_a_server_whose_clock_differs(self, url: str) -> None:
        with self.clock_ahead(timedelta(minutes=1)):
            async with self.open_store(url) as store:
                await create(store, a_record())
                reported = [
                    await store.now(),
                    (await store.claim({HERE: 1}, "lease", "worker", T0, T0)).backend_now,
                    (await store.claim({HERE: 1}, "nothing", "worker", T0, T0)).backend_now,
                    (await store.renew([Renewal(a_record().key, "lease", LEASE)], T0)).backend_now,
                ]

                for instant in reported:
                    assert instant / SECOND - time.time() == pytest.approx(60, abs=20)
                held = await load(store, a_record())
                assert held.lease is not None
                assert held.lease.expires_at == T0 + LEASE
