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

GROWTH_MAX: Final = ANSWER_OBJECTS_MAX // 4
"""How many more objects the process may get during an answer before those of the connection are counted."""

OBJECTS_MAX: Final = ANSWER_OBJECTS_MAX // 2
"""How many objects of the connection are counted from then on. The rest is for what arrives between two checks."""

TOO_LARGE: Final = (
    f"it sent more than {ANSWER_BYTES_MAX // 2**20} MiB or {ANSWER_OBJECTS_MAX:,} values in one answer"
)
"""The error of the closed connection. Drivers include it in their own error, which may lose its cause."""


class Answer:
    """
    The size of the data that a connection has received since the last request.

    At first, the objects of the whole process are compared from time to time, which is cheap. Once there are more by
    `GROWTH_MAX`, those of the connection itself are counted.
    """

    __slots__ = ("_before", "_check_at", "_objects", "is_too_large", "of_many", "received")

    def __init__(self) -> None:
        self.is_too_large = False
        self._objects = self._before = 0
        self.begin()

    def begin(self) -> None:
        """Count from zero: a request follows."""
        self.received = 0
        self._check_at = CHECK_BYTES
        self.of_many = False
        """True once it may consist of too many objects, so that each part of it is to be passed to `count`."""

    def add(self, size: int) -> bool:
        """Count *size* more bytes, and return whether the answer is still within the limits."""
        self.received += size
        if self.received > self._check_at:
            self._check()
        return not self.is_too_large

    def count(self, receive: Callable[[Any], None], data: Any) -> None:
        """
        Pass *data* to *receive*, and count the objects that come to be by that.

        They are those of *receive* itself, and of the tasks that it wakes: drivers parse in either. Callbacks run in the order
        in which they are scheduled. So those of *receive* run between the two here, and no others of this thread do.
        """
        call_soon = asyncio.get_running_loop().call_soon
        call_soon(self._open)
        self._open()
        try:
            receive(data)
        finally:
            self._close()
            call_soon(self._close)

    def _open(self) -> None:
        self._before = sys.getallocatedblocks()

    def _close(self) -> None:
        if self.of_many:  # else the next request has begun
            self._objects += max(0, sys.getallocatedblocks() - self._before)
            self.is_too_large = self.is_too_large or self._objects > OBJECTS_MAX

    def _check(self) -> None:
        """Compare a large answer with the limits."""
        objects = sys.getallocatedblocks()
        if self._check_at == CHECK_BYTES:
            self._before = objects
        elif not self.of_many and objects - self._before > GROWTH_MAX:
            self.of_many, self._objects = True, 0
        self._check_at = min(self.received + CHECK_BYTES, ANSWER_BYTES_MAX)
        if self.received > ANSWER_BYTES_MAX:
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
        if not self._answer.add(len(data)):
            self._transport.abort()
        elif self._answer.of_many:
            self._answer.count(self.protocol.data_received, data)
        else:
            self.protocol.data_received(data)


class _LimitedBufferedProtocol(_Limited, asyncio.BufferedProtocol):
    """A protocol whose transport writes into the buffer of the driver's protocol."""

    def get_buffer(self, size: int) -> Any:
        return self.protocol.get_buffer(size)

    def buffer_updated(self, size: int) -> None:
        if not self._answer.add(size):
            self._transport.abort()
        elif self._answer.of_many:
            self._answer.count(self.protocol.buffer_updated, size)
        else:
            self.protocol.buffer_updated(size)


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
