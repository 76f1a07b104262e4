"""Faults of a server that stops or crashes, and is back after a while, perhaps without its records."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from pyncette.core.record import Change
from pyncette.errors import SchemaError, StoreUnavailableError
from pyncette.store.base import Store
from pyncette.testing.conformance.records import T0, a_record, claim, completed, create, load_all
from pyncette.testing.faults.server import OnServer, until


class Restarting(OnServer):
    claims_afterwards = 60
    """Claims with records after the restart, all workers together, until the test ends. A slow server may do with fewer."""

    def stop(self, *, crash: bool) -> None:
        """Stop the server in an orderly way, or in mid-request."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the server again at the same place, with its records."""
        raise NotImplementedError

    def lose_records(self, url: str) -> None:
        """Have the server forget all that a store created at *url*."""
        raise NotImplementedError

    @pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])
    async def test_a_restart_under_load_loses_nothing_and_runs_nothing_twice(
        self, url: str, *, crash: bool
    ) -> None:
        """The version of each record counts its completions, whatever was on its way when the server went."""
        records = [a_record(f"{number:02}", lease_length=1, fence=T0) for number in range(30)]
        load = _Load(self.claims_afterwards)
        async with self.open_store(url) as store:
            await create(store, *records)
            async with asyncio.TaskGroup() as group:
                for seed in range(3):
                    group.create_task(load.work(store, seed))
                await asyncio.sleep(0.5)
                await asyncio.to_thread(self.stop, crash=crash)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(self.start)
                load.is_back = True
            found = await load_all(store, records)

        assert sum(load.sure.values()) > self.claims_afterwards
        assert load.failed_claims > 0
        for record in found:
            # Each claim is one version and one fence, each completion a version.
            completions = record.version - record.fence
            sure, unsure = load.sure[record.key.instance], load.unsure[record.key.instance]
            assert sure <= completions <= sure + unsure

    async def test_records_that_are_lost_under_a_running_program_are_reported(self, url: str) -> None:
        async with self.open_store(url) as store:
            await create(store, a_record())
            await asyncio.to_thread(self.lose_records, url)

            with pytest.raises(SchemaError, match="missing"):
                await until(lambda: _claim_in_vain(store))


async def _claim_in_vain(store: Store) -> bool:
    """Claim once. The first claims may find no server, or connect to it again and find nothing there."""
    with contextlib.suppress(StoreUnavailableError):
        assert await claim(store) == []
    return False


class _Load:
    """Workers that claim and complete all records again and again, and what they know of it."""

    def __init__(self, claims_afterwards: int) -> None:
        self.is_back = False
        """The server was restarted."""
        self.sure: Counter[str] = Counter()
        """Completions of each instance that were acknowledged."""
        self.unsure: Counter[str] = Counter()
        """Completions of each instance whose result is unknown."""
        self.failed_claims = 0
        self._claims_afterwards = claims_afterwards

    async def work(self, store: Store, seed: int) -> None:
        number = 0
        while self._claims_afterwards > 0:
            number += 1
            await self._work_once(store, T0 + 10 * number, f"{seed}-{number}")

    async def _work_once(self, store: Store, now: int, lease_id: str) -> None:
        try:
            held = await claim(store, limit=7, now=now, lease_id=lease_id)
        except StoreUnavailableError:
            self.failed_claims += 1
            await asyncio.sleep(0.02)
            return
        try:
            made = await store.swap([Change(record, completed(record, now)) for record in held])
        except StoreUnavailableError:
            self.unsure.update(record.key.instance for record in held)
            return
        self.sure.update(record.key.instance for record, ok in zip(held, made, strict=True) if ok)
        self._claims_afterwards -= bool(held) and self.is_back
