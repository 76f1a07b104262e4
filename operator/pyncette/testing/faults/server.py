"""The base of each test under faults: a server to break and to repair, and stores on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Final, Protocol, TypeVar

import pytest

from pyncette.core.record import Record
from pyncette.errors import ConfigurationError, StoreError, StoreUnavailableError
from pyncette.store.backend import read_backend
from pyncette.store.base import Store

SECRET: Final = "hunter2"  # noqa: S105 - the tests check that no message repeats it
"""The password of each URL that a test is refused with."""

WAIT_SECONDS: Final = 30.0
"""Time limit for a server to do what a test waits for. It takes much less on a machine that is not busy."""

POLL_SECONDS: Final = 0.02

T = TypeVar("T")


class Network(Protocol):
    """A network between stores and their server, which a test holds up and tears."""

    torn: int
    """Number of replies that were torn."""

    def url_of(self, url: str) -> str:
        """Return *url* with this network before its server."""
        ...

    def hold(self) -> None:
        """Let nothing through. Connections stay open."""
        ...

    def release(self) -> None:
        """Let everything through again, beginning with what was held."""
        ...

    def tear(self, lengths: Iterator[int]) -> None:
        """Cut each connection, new ones too, after as many more bytes of replies as the next of *lengths*, while there is one."""
        ...


class OnServer:
    """Gives each test an empty place on a server, and the means to break that server. Each test leaves it as it was."""

    connections_max = 4
    """The largest number of connections of a store, apart from one that listens."""

    reads_while_stalled = True
    """Whether the server answers reads of a record whose writes are `stalled`."""

    @pytest.fixture
    def url(self) -> str:
        """Return the URL of an empty place for one test, as a user who may do everything there."""
        raise NotImplementedError("a test under faults gives a fixture named url")

    def open_store(self, url: str, *, create: bool = True) -> Store:
        """Return a store at *url*, not yet entered."""
        return read_backend(url).new_store(create=create)

    def open_impatient(self, url: str, seconds: float) -> Store:
        """Return a store at *url*, not yet entered, that waits for an answer for about *seconds*."""
        raise NotImplementedError

    def network(self) -> AbstractContextManager[Network]:
        """Put a network before the server."""
        raise NotImplementedError

    def urls_at(self, host: str, port: int) -> Sequence[str]:
        """Return URLs of each form, for a server at another *host* and *port*, with the password `SECRET`."""
        raise NotImplementedError

    def place_at(self, host: str, port: int) -> str:
        """Return the text by which an error names the server of `urls_at`."""
        return f"{host}:{port}"

    def kill_connections(self, url: str) -> int:
        """Close all connections to the place of *url* at the server, and return their number."""
        raise NotImplementedError

    def count_connections(self, url: str) -> int:
        """Return the number of connections to the place of *url* that the server has open."""
        raise NotImplementedError

    def stalled(self, url: str, record: Record) -> AbstractAsyncContextManager[None]:
        """Let writes to *record* wait inside of the context. Reads are answered."""
        raise NotImplementedError


def assert_is_one_sentence(error: BaseException, *parts: str) -> None:
    """Fail unless the text of *error* is one line with all *parts*, and without `SECRET`."""
    text = str(error)
    assert isinstance(error, StoreError | ConfigurationError)
    assert "\n" not in text
    assert SECRET not in text
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


async def until(condition: Callable[[], Awaitable[T]], seconds: float = WAIT_SECONDS) -> T:
    """Return the first result of *condition* that is true."""
    deadline = time.monotonic() + seconds
    while not (result := await condition()):
        assert time.monotonic() < deadline, f"still {result!r} after {seconds:g} seconds"
        await asyncio.sleep(POLL_SECONDS)
    return result


async def answers(store: Store) -> bool:
    """Return whether the backend of *store* answers."""
    try:
        await store.now()
    except StoreUnavailableError:
        return False
    return True
