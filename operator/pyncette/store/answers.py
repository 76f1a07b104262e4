"""Limits the size of one answer of a server, below the drivers, which have no limit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from pyncette.errors import StoreUnavailableError
from pyncette.store.base import ANSWER_BYTES_MAX, ANSWER_OBJECTS_MAX

CHECK_BYTES: Final = 2 * 2**20
"""Bytes of an answer between two checks of the limits. Most answers are smaller."""

TOO_LARGE: Final = (
    f"it sent more than {ANSWER_BYTES_MAX // 2**20} MiB or {ANSWER_OBJECTS_MAX:,} values in one answer"
)
"""The error of the closed connection. Drivers include it in their own error, which may lose its cause."""


class Answer:
    """The size of the data that a connection has received since the last request."""

    __slots__ = ("_check_at", "_objects", "is_too_large", "received")

    def __init__(self) -> None:
        self.is_too_large = False
        self._objects = 0
        self.begin()

    def begin(self) -> None:
        """Count from zero: a request follows."""
        self.received = 0
        self._check_at = CHECK_BYTES

    def add(self, size: int) -> bool:
        """Count *size* more bytes, and return whether the answer is still within the limits."""
        self.received += size
        if self.received > self._check_at:
            self._check()
        return not self.is_too_large

    def _check(self) -> None:
        """Compare a large answer with the limits. New objects of the whole process count."""
        objects = sys.getallocatedblocks()
        if self._check_at == CHECK_BYTES:
            self._objects = objects
        self._check_at = min(self.received + CHECK_BYTES, ANSWER_BYTES_MAX)
        if self.received > ANSWER_BYTES_MAX or objects - self._objects > ANSWER_OBJECTS_MAX:
            self.is_too_large = True


class _Limited(asyncio.BaseProtocol):
    """A protocol between a driver's protocol and its transport. It closes the connection once *answer* is too large."""

    def __init__(self, protocol: Any, answer: Answer, transport: Any = None) -> None:
        self.protocol: Final = protocol
        self._answer = answer
        self._transport = transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.protocol.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.protocol.connection_lost(ConnectionResetError(TOO_LARGE) if self._answer.is_too_large else error)

    def eof_received(self) -> bool | None:
        keeps_open: bool | None = self.protocol.eof_received()
        return keeps_open

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()


class _LimitedProtocol(_Limited, asyncio.Protocol):
    """A protocol that passes on the data of its transport."""

    def data_received(self, data: bytes) -> None:
        if self._answer.add(len(data)):
            self.protocol.data_received(data)
        else:
            self._transport.abort()


class _LimitedBufferedProtocol(_Limited, asyncio.BufferedProtocol):
    """A protocol whose transport writes into the buffer of the driver's protocol."""

    def get_buffer(self, size: int) -> Any:
        return self.protocol.get_buffer(size)

    def buffer_updated(self, size: int) -> None:
        if self._answer.add(size):
            self.protocol.buffer_updated(size)
        else:
            self._transport.abort()


def limit(transport: Any, answer: Answer) -> None:
    """Close *transport*, which is connected, once *answer* is too large."""
    transport.set_protocol(_limited(transport.get_protocol(), answer, transport))


class LimitedLoop:
    """
    The event loop *loop*, whose connections are closed once *answer* is too large.

    It is for drivers that create their own protocol. That protocol never receives more than the limit of one answer, even
    while it connects.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Final = loop
        self.answer: Final = Answer()
        # Drivers call these for each request.
        self.create_future = loop.create_future
        self.time = loop.time

    def as_loop(self) -> asyncio.AbstractEventLoop:
        """Return this object with the type that drivers expect."""
        return cast(asyncio.AbstractEventLoop, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loop, name)

    async def create_connection(self, factory: Callable[[], Any], *args: Any, **options: Any) -> Any:
        made = await self.loop.create_connection(lambda: _limited(factory(), self.answer), *args, **options)
        return self._connected(*made)

    async def create_unix_connection(self, factory: Callable[[], Any], *args: Any, **options: Any) -> Any:
        made = await self.loop.create_unix_connection(
            lambda: _limited(factory(), self.answer), *args, **options
        )
        return self._connected(*made)

    async def start_tls(self, transport: Any, protocol: Any, *args: Any, **options: Any) -> Any:
        encrypted = await self.loop.start_tls(transport.transport, protocol, *args, **options)
        return encrypted and _LimitedTransport(encrypted, self.answer)

    def _connected(self, transport: Any, protocol: Any) -> tuple[Any, Any]:
        return _LimitedTransport(transport, self.answer), protocol.protocol


class _LimitedTransport:
    """A transport whose later protocols are limited too."""

    def __init__(self, transport: Any, answer: Answer) -> None:
        self.transport: Final = transport
        self._answer = answer
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def set_protocol(self, protocol: Any) -> None:
        self.transport.set_protocol(_limited(protocol, self._answer, self.transport))


def is_too_large(error: BaseException | None) -> bool:
    """Return whether the driver's *error*, or any of its causes, is a connection closed with `TOO_LARGE`."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if TOO_LARGE in str(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def too_large(place: str) -> StoreUnavailableError:
    """Return the error of the store for an answer that is too large. The server may have carried out the request."""
    return StoreUnavailableError(f"{place} does not answer as a database does: {TOO_LARGE}")


def _limited(protocol: Any, answer: Answer, transport: Any = None) -> _Limited:
    is_buffered = isinstance(protocol, asyncio.BufferedProtocol)
    return (_LimitedBufferedProtocol if is_buffered else _LimitedProtocol)(protocol, answer, transport)
