"""A TCP proxy between workers and their backend that delays, tears and cuts what goes through it, as networks do."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

CHUNK_BYTES = 65_536

START_SECONDS = 10
"""How long to wait for a loop of our own, which has nothing else to do."""

T = TypeVar("T")


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    replied: int = 0
    """Bytes that went from the server to the client."""
    torn_at: int | None = None
    """Once the server has replied with that many bytes, nothing more goes through and both ends are cut off."""
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def cut(self) -> None:
        """Cut both ends off at once, with a reset: nobody says goodbye."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Proxy:
    """
    Listens on a loopback port, and passes on to another; a context manager.

    It runs on a thread with a loop of its own, so tests need not have one. All methods return once they are in effect.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._refusing = False
        self._delay_seconds = 0.0
        self._request_delay_seconds = 0.0
        self._passing: asyncio.Event | None = None
        self._lengths: Iterator[int] = iter(())
        self.port = 0
        self.torn = 0
        """Replies that were torn so far."""
        self.opened = 0
        """Connections that were opened so far."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def url_of(self, url: str) -> str:
        """Return *url* with the proxy in the place of the server."""
        return url.replace(f":{self._target[1]}", f":{self.port}")

    # --- What is done to those that go through -------------------------------------------------------------------

    def cut(self) -> int:
        """Cut every connection off, and return how many there were. New ones go through."""
        return self._call(self._cut())

    def refuse(self, *, refusing: bool = True) -> None:
        """Cut every connection off, and each new one too, until told otherwise."""
        self._call(self._refuse(refusing))

    def delay(self, seconds: float) -> None:
        """Let each reply wait for *seconds*."""
        self._call(self._set(lambda: setattr(self, "_delay_seconds", seconds)))

    def delay_requests(self, seconds: float) -> None:
        """Let each request wait for *seconds*: whoever asks for the time takes the half of it for the way back."""
        self._call(self._set(lambda: setattr(self, "_request_delay_seconds", seconds)))

    def hold(self) -> None:
        """Swallow nothing and pass on nothing: connections stay open, and are silent."""
        assert self._passing is not None
        self._call(self._set(self._passing.clear))

    def release(self) -> None:
        """Pass on again, and first what was held."""
        assert self._passing is not None
        self._call(self._set(self._passing.set))

    def tear(self, lengths: Iterator[int]) -> None:
        """
        Cut each connection off, new ones too, once the server has said as many more bytes as *lengths* tells for it.

        That is in the middle of a reply: the request has reached the server, which carries it out, and the client sees a
        part of the reply, or nothing of it. With lengths that have an end, the connections after that are left in peace.
        """
        self._call(self._tear(lengths))

    def heard(self, link: Link, chunk: bytes) -> None:
        """Is told of each piece of a request before the server is, on the proxy's own thread: for those who listen in."""

    # --- Inside --------------------------------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(START_SECONDS)

    async def _set(self, change: Callable[[], object]) -> None:
        change()

    async def _listen(self) -> None:
        self._passing = asyncio.Event()
        self._passing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        pumps = [pump for link in self._links for pump in link.pumps]
        await self._cut()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    async def _refuse(self, refusing: bool) -> None:
        self._refusing = refusing
        if refusing:
            await self._cut()

    async def _tear(self, lengths: Iterator[int]) -> None:
        self._lengths = lengths
        for link in self._links:
            self._limit(link)

    def _limit(self, link: Link) -> None:
        length = next(self._lengths, None)
        link.torn_at = None if length is None else link.replied + length

    async def _accept(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.opened += 1
        if self._refusing:
            client.transport.abort()
            return
        try:
            server_reader, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        link = Link(client, server)
        self._limit(link)
        self._links.add(link)
        link.pumps = [
            asyncio.create_task(self._pass_requests(link, client_reader)),
            asyncio.create_task(self._pass_replies(link, server_reader)),
        ]
        await asyncio.wait(link.pumps, return_when=asyncio.FIRST_COMPLETED)
        # Once one end is gone, so is the other: databases have no use for half-closed connections.
        link.cut()
        await asyncio.gather(*link.pumps, return_exceptions=True)
        self._links.discard(link)

    async def _pass_requests(self, link: Link, reader: asyncio.StreamReader) -> None:
        assert self._passing is not None
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if self._request_delay_seconds:
                    await asyncio.sleep(self._request_delay_seconds)
                await self._passing.wait()
                self.heard(link, chunk)
                link.server.write(chunk)
                await link.server.drain()

    async def _pass_replies(self, link: Link, reader: asyncio.StreamReader) -> None:
        assert self._passing is not None
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                await self._passing.wait()
                if link.torn_at is not None and link.replied + len(chunk) > link.torn_at:
                    link.client.write(chunk[: link.torn_at - link.replied])
                    await link.client.drain()
                    self.torn += 1
                    return
                link.replied += len(chunk)
                link.client.write(chunk)
                await link.client.drain()
