"""Faults of users: they log in wrongly, or lack a right. They are reported in one sentence, and without a password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager

import pytest

from pyncette.core.record import Change, HistoryRow, Key, Partition
from pyncette.errors import StoreRefusedError
from pyncette.store.backend import read_backend
from pyncette.store.base import Notification, Renewal, Store
from pyncette.testing.conformance.records import (
    HERE,
    LEASE,
    T0,
    a_record,
    a_run,
    changed,
    claim,
    completed,
    create,
    instances,
    load,
)
from pyncette.testing.faults.server import OnServer, assert_is_one_sentence

LISTEN_SECONDS = 0.2
"""A listener is refused within this time."""


class Refusing(OnServer):
    def wrong_logins(self, url: str) -> AbstractContextManager[Sequence[str]]:
        """Give URLs of the place of *url* whose user or password is wrong; the password is `SECRET`."""
        raise NotImplementedError

    def reader(self, url: str) -> AbstractContextManager[str]:
        """Give the URL of a user who may only read at the place of *url*, where there may be nothing yet."""
        raise NotImplementedError

    def rights(self) -> Sequence[str]:
        """Return the rights that the documentation says a worker needs."""
        raise NotImplementedError

    def worker(self, url: str) -> AbstractContextManager[str]:
        """Give the URL of a user who has these rights at the place of *url*, which was migrated."""
        raise NotImplementedError

    def revoked(self, url: str, right: str) -> AbstractContextManager[None]:
        """Take one of these rights from that user inside of the context."""
        raise NotImplementedError

    def denial_of(self, right: str) -> str:  # noqa: ARG002 - for others to override
        """Return the part of the server's message that names the missing *right*."""
        return ""

    async def test_a_wrong_login_is_reported_without_its_password(self, url: str) -> None:
        with self.wrong_logins(url) as wrong:
            for each in wrong:
                with pytest.raises(StoreRefusedError) as caught:
                    async with self.open_store(each):
                        pass

                assert_is_one_sentence(caught.value, "authentication failed", "Check the")

    async def test_a_user_who_may_only_read_can_read_and_is_refused_to_write(self, url: str) -> None:
        async with self.open_store(url) as store:
            await create(store, a_record())
        with self.reader(url) as reader:
            async with self.open_store(reader, create=False) as store:
                assert await store.load([a_record("b").key]) == [None]
                assert (await load(store, a_record())).key == a_record().key
                assert instances(await store.scan(HERE, None, None, 5)) == ["a"]
                assert await store.partitions("realm") == [HERE]
                assert await store.history(a_record().key) == []
                with pytest.raises(StoreRefusedError) as caught:
                    await create(store, a_record("b"))

        assert_is_one_sentence(caught.value, "permission denied", "Grant the right")

    async def test_a_user_who_may_not_create_what_is_missing_is_reported(self, url: str) -> None:
        with self.reader(url) as reader, pytest.raises(StoreRefusedError) as caught:
            async with self.open_store(reader):
                pass

        assert_is_one_sentence(caught.value, "permission denied", "Grant the right")

    async def test_a_user_with_the_documented_rights_needs_no_more(self, url: str) -> None:
        await read_backend(url).migrate()
        with self.worker(url) as worker:
            async with self.open_store(worker) as store:
                await self.work(store, "handler")

    async def test_each_of_the_documented_rights_is_needed(self, url: str) -> None:
        await read_backend(url).migrate()
        with self.worker(url) as worker:
            for number, right in enumerate(self.rights()):
                with self.revoked(url, right):
                    error = await self._refusal(worker, f"handler {number}")

                assert error is not None, f"{right} is not needed"
                assert_is_one_sentence(error, "permission denied", "Grant the right", self.denial_of(right))

    async def _refusal(self, url: str, handler: str) -> StoreRefusedError | None:
        """Return the error of a worker at *url*, if there is one."""
        try:
            async with self.open_store(url) as store:
                await self.work(store, handler)
        except StoreRefusedError as error:
            return error
        return None

    async def work(self, store: Store, handler: str) -> None:
        """Do all that a worker does, with records of *handler*, which has none."""
        partition = Partition("realm", handler)
        record, other = (a_record(key=Key(partition, "task", name)) for name in "ab")
        rows = (HistoryRow(0, a_run()),)
        await store.now()
        assert await store.load([record.key]) == [None]
        await create(store, record)
        (held,) = await claim(store, partition=partition)
        assert list((await store.renew([Renewal(held.key, "lease", LEASE)], T0)).held) == [True]
        assert await store.swap([Change(held, completed(held, T0), rows)]) == [True]
        (again,) = await claim(store, lease_id="again", partition=partition)
        assert await store.swap([Change(again, completed(again, T0))]) == [True]
        grouped = await load(store, record)
        group = [Change(grouped, changed(grouped), rows, group=1), Change(None, other, group=1)]
        assert await store.swap(group) == [True, True]

        assert len(await store.history(record.key)) == 1
        assert len(await store.scan(partition, None, None, 5)) == 2
        assert (await store.count(partition, "task", T0, LEASE, 5)).due == 2
        assert partition in await store.partitions("realm")

        assert await store.swap([Change(await load(store, record), None)]) == [True]
        group = [
            Change(await load(store, other), None, group=1),
            Change(None, a_record(key=record.key), group=1),
        ]
        assert await store.swap(group) == [True, True]
        assert await store.swap([Change(await load(store, record), None)]) == [True]
        assert await store.history(record.key) == []
        if store.capabilities.notifies:
            await store.notify([Notification(partition, T0)])
            await self._listen(store)

    async def _listen(self, store: Store) -> None:
        """Listen until it would have been refused."""
        listening = asyncio.create_task(_next(store.notified()))
        await asyncio.wait([listening], timeout=LISTEN_SECONDS)
        if listening.done():
            await listening
        listening.cancel()
        await asyncio.wait([listening])


async def _next(notifications: AsyncIterator[Notification]) -> Notification:
    async for notification in notifications:
        return notification
    raise AssertionError("notifications ended")
