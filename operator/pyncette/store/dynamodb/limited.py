"""The HTTP session of the driver, with a limit for the body of an answer."""

from __future__ import annotations

from typing import Any, Final

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

from pyncette.store.answers import TOO_LARGE, Answer


class LimitedSession(AIOHTTPSession):  # type: ignore[misc]
    """A session that closes the connection once a body is too large. aiohttp itself limits what precedes the body."""

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Session(await super()._get_session(proxy_url))


class _Session:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> _Response:
        return _Response(await self._session.request(method, **options))


class _Response:
    """As much of a response as the driver uses."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.url: Final = response.url
        self.status: Final = response.status
        self.raw_headers: Final = response.raw_headers

    async def read(self) -> bytes:
        """Return the body. Raises ClientPayloadError if it is too large."""
        answer = Answer()
        parts: list[bytes] = []
        async with self._response:
            async for part in self._response.content.iter_any():
                if not answer.add(len(part)):
                    self._response.close()
                    raise aiohttp.ClientPayloadError(TOO_LARGE)
                parts.append(part)
        return b"".join(parts)
