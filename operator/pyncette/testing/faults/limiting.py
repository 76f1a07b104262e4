"""Faults of a server that serves less than it should for a while: it only reads, or takes no more connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Final

import pytest

from pyncette.errors import StoreUnavailableError
from pyncette.testing.conformance.records import a_record, claim, create, instances, load
from pyncette.testing.faults.server import OnServer, assert_is_one_sentence

READ_ONLY: Final = r"(?i)read.?only"
TOO_MANY: Final = r"too many connections|max_user_connections|max number of clients"
"""What servers say."""


class Limiting(OnServer):
    def read_only(self, url: str) -> AbstractContextManager[None]:
        """Have the server refuse all writes inside of the context, as one does that waits for its promotion."""
        raise NotImplementedError

    def one_connection(self, url: str) -> AbstractContextManager[str]:
        """Give a URL of the place of *url* to which the server takes one connection only."""
        raise NotImplementedError

    async def test_a_server_that_only_reads_is_unavailable_until_it_writes(self, url: str) -> None:
        async with self.open_store(url) as store, AsyncExitStack() as stack:
            await create(store, a_record())
            with self.read_only(url):
                reading = await stack.enter_async_context(self.open_store(url, create=False))
                assert (await load(reading, a_record())).key == a_record().key
                writes: list[Callable[[], Awaitable[object]]] = [
                    lambda: claim(reading),
                    lambda: create(reading, a_record("b")),
                ]
                for write in writes:
                    with pytest.raises(StoreUnavailableError, match=READ_ONLY) as caught:
                        await write()
                    assert_is_one_sentence(caught.value)

            assert instances(await claim(reading)) == ["a"]

    async def test_a_server_with_too_many_connections_is_unavailable(self, url: str) -> None:
        async with self.open_store(url):
            pass

        with self.one_connection(url) as limited:
            async with self.open_store(limited):
                with pytest.raises(StoreUnavailableError, match=TOO_MANY) as caught:
                    async with self.open_store(limited):
                        pass

        assert_is_one_sentence(caught.value)
