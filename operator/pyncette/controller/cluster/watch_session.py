"""The HTTP session of the watch. It reduces objects before kopf decodes and queues them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import kopf
import msgspec

from pyncette.controller.cluster.api import DEPLOYMENTS, OWN_KINDS, Kind
from pyncette.controller.cluster.decoding import decodable, decode
from pyncette.controller.cluster.reduction import StoredObject

WATCHED_KINDS: Final = (*OWN_KINDS, DEPLOYMENTS)

LINE_BYTES_MAX: Final = 16 * 2**20
"""Maximum size of an event. The API server accepts objects of up to 3 MB."""

_KINDS: Final = {(kind.api_version, kind.name): kind for kind in WATCHED_KINDS}


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as the API server writes it."""

    type: str
    object: msgspec.Raw


class TypeMeta(msgspec.Struct, frozen=True):
    """The kind of an object or of a list."""

    api_version: str = msgspec.field(name="apiVersion", default="")
    kind: str = ""


class StoredList(msgspec.Struct, frozen=True):
    """A page of a list as the API server writes it."""

    metadata: dict[str, Any]
    items: list[StoredObject] | None = None


async def reduced_event(line: bytes) -> bytes:
    """Return an event with a reduced object. Return *line* itself if the event is not about an object of a watched kind."""
    event = decode(await decodable(line), StoredEvent)
    kind = _kind_of(event.object)
    if kind is None or event.type == "BOOKMARK":
        return line
    manifest = decode(event.object, StoredObject).reduced(kind)
    return msgspec.json.encode({"type": event.type, "object": manifest})


async def reduced_list(body: bytes) -> Any:
    """Return the decoded *body*. If it is a list of a watched kind, reduce each object."""
    text = await decodable(body)
    kind = _kind_of(text, "List")
    if kind is None:
        return decode(text, Any)
    page = decode(text, StoredList)
    return {
        "apiVersion": kind.api_version,
        "kind": f"{kind.name}List",
        "metadata": page.metadata,
        "items": [item.reduced(kind) for item in page.items or ()],
    }


def _kind_of(text: bytes | bytearray | msgspec.Raw, suffix: str = "") -> Kind | None:
    type_meta = decode(text, TypeMeta)
    return _KINDS.get((type_meta.api_version, type_meta.kind.removesuffix(suffix)))


class ReducedLines:
    """The content of a response, with each line, an event of a watch, reduced. Everything else is delegated to *stream*."""

    def __init__(self, stream: aiohttp.StreamReader) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield whole reduced events. Raises ClientPayloadError if one exceeds `LINE_BYTES_MAX`."""
        begun = bytearray()
        async for part in self._stream.iter_chunked(size):
            *lines, rest = part.split(b"\n")
            for line in lines:
                yield await reduced_event(bytes(begun + line)) + b"\n" if begun or line else b"\n"
                begun.clear()
            begun += rest
            if len(begun) > LINE_BYTES_MAX:
                raise aiohttp.ClientPayloadError(f"an event has more than {LINE_BYTES_MAX:,} bytes")
        yield bytes(begun)


class ReducedResponse(aiohttp.ClientResponse):
    """A response of the API server. Its list or its stream of events arrives at kopf reduced."""

    _content: Any = None
    """None until the headers have arrived. A response may be closed before that."""

    @property
    def content(self) -> Any:
        return self._content

    @content.setter
    def content(self, stream: Any) -> None:
        self._content = stream if stream is None else ReducedLines(stream)

    async def json(self, **_: Any) -> Any:
        """Return the body as `reduced_list` does. Raises JSONDecodeError for invalid JSON, as kopf expects."""
        body = await self.read()
        try:
            return await reduced_list(body)
        except msgspec.DecodeError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error


class KeptSession:
    """
    The part of an aiohttp *session* that kopf uses. Its `close` does nothing.

    When kopf stops, it closes its session while watchers still run. With a closed session, they would log errors.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.headers = session.headers
        self.request = session.request

    @property
    def closed(self) -> bool:
        return self.session.closed

    async def close(self) -> None:
        """Do nothing, since kopf calls this too early: `end` closes the session."""

    async def end(self) -> None:
        """Close the session."""
        await self.session.close()


def session_of(login: kopf.ConnectionInfo) -> KeptSession:
    """Return a session with the credentials of *login*."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=login.as_ssl_context()),
        headers=login.as_http_headers(),
        proxy=login.proxy_url,
        trust_env=login.trust_env,
        response_class=ReducedResponse,
    )
    return KeptSession(session)
