"""The session of the driver, whose HTTP verifies host names and limits the body of an answer."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

# These have no types.
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]

from pyncette.store.answers import TOO_LARGE, Answer
from pyncette.store.tls import tls_refusal


class Session(AioSession):  # type: ignore[misc]
    """
    A session of the driver, also for the clients by which the driver itself gets credentials, such as that of STS.

    With *tls_required*, a client raises ConfigurationError if its endpoint is not https, and always verifies it.
    """

    def __init__(self, *, tls_required: bool = False) -> None:
        super().__init__()
        self._tls_required = tls_required

    def create_client(self, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        config = config or AioConfig()
        config.http_session_cls = _VerifyingHttp if self._tls_required else _Http
        return super().create_client(*args, config=config, **kwargs)

    async def _create_client(self, service_name: str, *args: Any, **kwargs: Any) -> Any:
        client = await super()._create_client(service_name, *args, **kwargs)
        scheme = urlsplit(client.meta.endpoint_url).scheme
        if self._tls_required and scheme != "https":
            await client.close()
            raise tls_refusal(
                f"{_source_of_endpoint(service_name)} begins with {scheme}://", "write https://"
            )
        return client


def _source_of_endpoint(service_name: str) -> str:
    """Return the setting that the driver took the endpoint of a service from, which is not its own."""
    variables = (f"AWS_ENDPOINT_URL_{service_name.upper().replace('-', '_')}", "AWS_ENDPOINT_URL")
    configuration = "endpoint_url in the configuration file of AWS"
    return next((name for name in variables if os.environ.get(name)), configuration)


class _Http(AIOHTTPSession):  # type: ignore[misc]
    """
    HTTP that verifies host names, and closes the connection once a body is too large.

    The driver's own leaves host names to another library, which it does not use. aiohttp itself limits what precedes the
    body.
    """

    def _get_ssl_context(self) -> Any:
        context = super()._get_ssl_context()
        context.check_hostname = True
        return context

    def _setup_proxy_ssl_context(self, proxy_url: Any) -> Any:
        # Without a context, the driver verifies nothing at all.
        return super()._setup_proxy_ssl_context(proxy_url) or self._get_ssl_context()

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _LimitedHttp(await super()._get_session(proxy_url))


class _VerifyingHttp(_Http):
    """HTTP that verifies the server also where the environment names no authorities, by an empty AWS_CA_BUNDLE."""

    def __init__(self, verify: Any = True, **options: Any) -> None:
        super().__init__(verify=verify or True, **options)


class _LimitedHttp:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> _LimitedResponse:
        return _LimitedResponse(await self._session.request(method, **options))


class _LimitedResponse:
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
