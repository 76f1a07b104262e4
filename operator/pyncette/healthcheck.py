"""Answers over HTTP whether an app is healthy, for load balancers and for Kubernetes' probes."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from pyncette.app.modes import datetime_of

if TYPE_CHECKING:
    from pyncette.app.application import Pyncette
    from pyncette.app.context import PyncetteContext

logger = logging.getLogger(__name__)

HEALTHY_POLL_INTERVALS: Final = 2
"""The last poll of a healthy app is younger than this."""

REQUEST_SECONDS: Final = 5.0
"""How long a client may take to send its request: one that says nothing must not stay for ever."""

REQUEST_BYTES_MAX: Final = 16 * 1024
"""More than any probe sends."""

HealthCheck: TypeAlias = "Callable[[PyncetteContext], Awaitable[bool] | bool]"


async def default_healthcheck(app_context: PyncetteContext) -> bool:
    """Say whether the last poll is younger than two poll intervals. A wait for the next due time counts as a poll."""
    age = datetime_of(app_context.clock.now()) - app_context.last_tick
    return age < HEALTHY_POLL_INTERVALS * app_context.app.poll_interval


def use_healthcheck_server(
    app: Pyncette,
    port: int = 8080,
    bind_address: str | None = None,
    healthcheck_handler: HealthCheck = default_healthcheck,
) -> None:
    """
    Serve the health of *app* over HTTP while it runs, on all addresses or on *bind_address*.

    GET, of any path, answers 200 "OK" if *healthcheck_handler* returns true, 500 "Not OK" if it does not or raises;
    other methods 405. The handler runs in the loop of the app, so an app whose loop is blocked does not answer, which
    probes take for ill.
    """

    async def healthcheck_server(app_context: PyncetteContext) -> AsyncIterator[asyncio.Server]:
        server = _HealthServer(app_context, healthcheck_handler)
        listening = await asyncio.start_server(server.serve, bind_address, port, limit=REQUEST_BYTES_MAX)
        logger.info("health is served on port %d", port)
        try:
            yield listening
        finally:
            # Not waited for: a client that keeps its connection open must not keep the app from ending.
            listening.close()

    app.use_fixture(f"_healthcheck_{bind_address or ''}_{port}", healthcheck_server)


class _HealthServer:
    """As much of HTTP/1.1 as a probe speaks: one request a connection, whose headers do not matter."""

    def __init__(self, app_context: PyncetteContext, healthcheck: HealthCheck) -> None:
        self._app_context = app_context
        self._healthcheck = healthcheck

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request. Whatever a client does ends its connection, and nothing else."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                method = await _read_method(reader)
            status, text = await self._answer(method)
            writer.write(_response(status, text))
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            logger.debug("a client of the health check went away")
        finally:
            writer.close()

    async def _answer(self, method: str | None) -> tuple[HTTPStatus, str]:
        if method is None:
            return HTTPStatus.BAD_REQUEST, "Bad Request"
        if method != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed"
        if await self._is_healthy():
            return HTTPStatus.OK, "OK"
        return HTTPStatus.INTERNAL_SERVER_ERROR, "Not OK"

    async def _is_healthy(self) -> bool:
        try:
            healthy = self._healthcheck(self._app_context)
            return bool(await healthy if inspect.isawaitable(healthy) else healthy)
        except Exception:
            logger.exception("the health check itself failed")
            return False


async def _read_method(reader: asyncio.StreamReader) -> str | None:
    """Return the method of a request, once it has come as a whole; None if it is no HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return None
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise
        return None
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[0].isalpha() or not words[2].startswith(b"HTTP/1."):
        return None
    return words[0].decode("ascii", "replace")


def _response(status: HTTPStatus, text: str) -> bytes:
    allow = "Allow: GET\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(text)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{text}"
    ).encode()
