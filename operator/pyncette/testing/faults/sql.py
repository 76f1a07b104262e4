"""Faults that only servers of SQL have: locks, databases, and a time zone."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Change
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from pyncette.store.base import Store
from pyncette.testing.conformance.records import a_record, changed, claim, create, instances, load
from pyncette.testing.faults.server import OnServer, assert_is_one_sentence


class SqlFaults(OnServer):
    """`stalled` holds a lock on the record."""

    lock_timeout = ""
    """The part of an error that says that a statement has waited for a lock for too long."""
    retries_lock_timeouts = False
    """A statement that has waited for too long is repeated, within a limit."""
    lock_seconds = 1.0
    """A lock that is held for so long makes a statement wait, and time out if it is then repeated."""

    def open_hasty(self, url: str) -> Store:
        """Return a store at *url*, not yet entered, that waits for locks for some seconds, and so less than usual."""
        raise NotImplementedError

    def elsewhere(self, url: str) -> AbstractContextManager[None]:
        """Have the database of *url* be in a time zone of the far East inside of the context."""
        raise NotImplementedError

    def administrator(self, url: str) -> str:
        """Return the URL of a user of the server of *url* who may use every database."""
        raise NotImplementedError

    async def test_a_call_that_waits_for_a_lock_is_given_up_and_a_claim_passes_the_lock_by(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.open_hasty(url) as store:
            await create(store, a_record(), a_record("b"))
            before = await load(store, a_record())
            async with self.stalled(url, before):
                assert instances(await claim(store)) == ["b"]

                with (
                    caplog.at_level(logging.INFO),
                    pytest.raises(StoreUnavailableError, match=self.lock_timeout),
                ):
                    await store.swap([Change(before, changed(before))])

            retried = any("rolled back a statement" in entry.getMessage() for entry in caplog.records)
            assert retried is self.retries_lock_timeouts
            assert await store.swap([Change(before, changed(before))]) == [True]

    async def test_a_change_that_waited_for_a_lock_is_made_once_it_is_free(self, url: str) -> None:
        async with self.open_store(url) as store:
            await create(store, a_record())
            before = await load(store, a_record())
            async with self.stalled(url, before):
                swap = asyncio.create_task(store.swap([Change(before, changed(before))]))
                await asyncio.sleep(self.lock_seconds)
                assert not swap.done()

            assert await swap == [True]

    async def test_a_missing_database_is_reported(self, url: str) -> None:
        parts = urlsplit(self.administrator(url))

        with pytest.raises(StoreRefusedError) as caught:
            async with self.open_store(parts._replace(path="/nowhere").geturl()):
                pass

        assert_is_one_sentence(caught.value, "database not found", "nowhere", "Create it")
        assert parts.password
        assert parts.password not in str(caught.value)

    async def test_the_zone_of_a_server_makes_no_difference(self, url: str) -> None:
        with self.elsewhere(url):
            async with self.open_store(url) as store:
                assert abs(await store.now() / SECOND - time.time()) < 20
