"""Serves the health of an app over HTTP, for load balancers and for the probes of Kubernetes."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from pyncette.app.modes import datetime_of
from pyncette.telemetry.health import Answer, HealthServer, Protocol

if TYPE_CHECKING:
    from pyncette.app.application import Pyncette
    from pyncette.app.context import PyncetteContext

logger = logging.getLogger(__name__)

HEALTHY_POLL_INTERVALS: Final = 2
"""The last poll of a healthy app is younger than this many poll intervals."""

PROTOCOL: Final = Protocol(
    healthy=Answer(HTTPStatus.OK, "OK"),
    unhealthy=Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "Not OK"),
    methods=("GET",),
)

HealthCheck: TypeAlias = "Callable[[PyncetteContext], Awaitable[bool] | bool]"


async def default_healthcheck(app_context: PyncetteContext) -> bool:
    """Return True if the last poll is younger than two poll intervals. Waiting for the next due time counts as polling."""
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

    GET of any path answers 200 "OK" if *healthcheck_handler* returns a true value, and 500 "Not OK" if it returns a
    false one or raises. Other methods get 405. The handler runs in the event loop of the app: while that is blocked,
    requests are not answered and probes fail. Raises ConfigurationError at start if it cannot listen on *port*.
    """

    async def healthcheck_server(app_context: PyncetteContext) -> AsyncIterator[HealthServer]:
        loop = asyncio.get_running_loop()

        def is_healthy() -> bool:
            return asyncio.run_coroutine_threadsafe(
                _is_healthy(app_context, healthcheck_handler), loop
            ).result()

        server = HealthServer(bind_address, port, {}, otherwise=is_healthy, protocol=PROTOCOL)
        server.start()
        logger.info("health is served on port %d", port)
        try:
            yield server
        finally:
            await asyncio.to_thread(server.close)

    app.use_fixture(f"_healthcheck_{bind_address or ''}_{port}", healthcheck_server)


async def _is_healthy(app_context: PyncetteContext, healthcheck: HealthCheck) -> bool:
    healthy = healthcheck(app_context)
    return bool(await healthy if inspect.isawaitable(healthy) else healthy)
