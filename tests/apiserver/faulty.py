"""A proxy before the API server that does to requests and to watches what networks, load and upgrades do to them."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

from tests.servers import ApiServer

CHUNK_BYTES = 65_536

Matches = Callable[[web.Request], bool]


def is_watch(request: web.Request) -> bool:
    return request.query.get("watch") == "true"


def is_list(request: web.Request) -> bool:
    return request.method == "GET" and not is_watch(request) and "limit" in request.query


class Stream:
    """A watch that goes through."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.injected: asyncio.Queue[bytes | None] = asyncio.Queue()
        """Lines that the API server never said; None ends the stream."""
        self.transport: asyncio.Transport | None = None


class FaultyApiServer:
    """
    Passes on to an API server what it is asked, as whoever asks, over plain HTTP.

    Faults are told by methods, and last until they are told otherwise.
    """

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.port = 0
        self.requests: list[str] = []
        """Method and path of each request, and what was answered."""
        self.streams: set[Stream] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self._streaming = asyncio.Event()
        self._streaming.set()
        self._refusals: list[tuple[Matches, int, Any, float]] = []
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        app = web.Application(client_max_size=10_000_000)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        trust = ssl.create_default_context(cafile=str(self._server.authority))
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=0), auto_decompress=False
        ) as self._session:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            try:
                yield self
            finally:
                await runner.cleanup()

    def kubeconfig(self, path: Path, **user: str) -> Path:
        """Write a kubeconfig whose *user* (the administrator, unless told otherwise) comes through here."""
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "it",
                    "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": "it", "user": user or {"token": self._server.token}}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                }
            )
        )
        return path

    # --- Faults --------------------------------------------------------------------------------------------------

    def refuse(self, matches: Matches, code: int, times: float = float("inf"), body: Any = None) -> None:
        """Answer *code* to the next requests that match, in place of the API server."""
        status = {"kind": "Status", "code": code, "message": f"refused with {code}"}
        self._refusals.append((matches, code, status if body is None else body, times))

    def relent(self) -> None:
        """Refuse nothing any more."""
        self._refusals.clear()

    def fall_silent(self) -> None:
        """Keep connections open, and pass on nothing."""
        self._passing.clear()

    def speak_again(self) -> None:
        self._passing.set()

    def mute_streams(self) -> None:
        """Pass on nothing more of what watches say; all else goes through."""
        self._streaming.clear()

    def say(self, line: dict[str, Any] | bytes, plural: str = "pyncettetasks", *, ends: bool = True) -> None:
        """Put *line* into the streams of *plural*, and end them unless told otherwise."""
        for stream in self._streams_of(plural):
            stream.injected.put_nowait(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
            if ends:
                stream.injected.put_nowait(None)

    def cut(self, plural: str = "pyncettetasks") -> None:
        """Cut the streams of *plural* off with a reset."""
        for stream in self._streams_of(plural):
            if stream.transport is not None:
                stream.transport.abort()

    def _streams_of(self, plural: str) -> list[Stream]:
        found = [stream for stream in self.streams if f"/{plural}" in stream.path]
        assert found, f"nobody watches {plural}"
        return found

    # --- Passing on ----------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refusal_of(request)
        if refusal is not None:
            code, body = refusal
            self.requests.append(f"{request.method} {request.path} {code}")
            return web.json_response(body, status=code)
        await self._passing.wait()
        headers = {"Accept-Encoding": "identity"} | {
            name: value
            for name, value in request.headers.items()
            if name.lower() in {"authorization", "accept", "content-type", "user-agent"}
        }
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                f"{self._server.url}{request.raw_path}",
                headers=headers,
                data=await request.read() or None,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            ) as answer:
                self.requests.append(f"{request.method} {request.path} {answer.status}")
                return await self._pass_on(request, answer)
        except aiohttp.ClientError:
            # Nobody behind us: a proxy in this place would say 502, a load balancer would cut.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.content_type
        await response.prepare(request)
        stream = Stream(request.path)
        stream.transport = request.transport
        if is_watch(request) and answer.status == 200:
            self.streams.add(stream)
        try:
            async for chunk in self._chunks(answer, stream):
                await self._passing.wait()
                if is_watch(request):
                    await self._streaming.wait()
                await response.write(chunk)
        finally:
            self.streams.discard(stream)
        await response.write_eof()
        return response

    async def _chunks(self, answer: aiohttp.ClientResponse, stream: Stream) -> AsyncIterator[bytes]:
        said = asyncio.create_task(answer.content.readany())
        injected = asyncio.create_task(stream.injected.get())
        try:
            while True:
                await asyncio.wait({said, injected}, return_when=asyncio.FIRST_COMPLETED)
                if injected.done():
                    line = injected.result()
                    if line is None:
                        return
                    yield line
                    injected = asyncio.create_task(stream.injected.get())
                if said.done():
                    chunk = said.result()
                    if not chunk:
                        return
                    yield chunk
                    said = asyncio.create_task(answer.content.readany())
        finally:
            for task in (said, injected):
                task.cancel()
                with suppress(asyncio.CancelledError, aiohttp.ClientError):
                    await task

    def _refusal_of(self, request: web.Request) -> tuple[int, Any] | None:
        for number, (matches, code, body, times) in enumerate(self._refusals):
            if times > 0 and matches(request):
                self._refusals[number] = (matches, code, body, times - 1)
                return code, body
        return None
