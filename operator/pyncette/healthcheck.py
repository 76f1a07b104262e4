"""Serves the health of an app over HTTP, for load balancers and for the probes of Kubernetes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pyncette.app.context import runtime_of
from pyncette.app.modes import datetime_of
from pyncette.telemetry.health import Answer, HealthServer, Protocol

if TYPE_CHECKING:
    from pyncette.app.application import Pyncette
    from pyncette.app.context import PyncetteContext

logger = logging.getLogger(__name__)

HEALTHY_POLL_INTERVALS: Final = 2
"""The last poll of a healthy app is younger than this many poll intervals."""

CHECK_SECONDS: Final = 5.0
"""Time limit of a health check, which holds a thread. It includes the time for which the event loop is blocked."""

PROTOCOL: Final = Protocol(
    healthy=Answer(HTTPStatus.OK, "OK"),
    unhealthy=Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "Not OK"),
    methods=("GET",),
)

HealthCheck: TypeAlias = "Callable[[PyncetteContext], Awaitable[bool] | bool]"


async def default_healthcheck(app_context: PyncetteContext) -> bool:
    """Return True if the last poll is younger than two poll intervals. Waiting for the next due time counts as polling."""
    runtime = runtime_of(app_context)
    age = datetime_of(runtime.clock.now()) - runtime.last_tick
    return age < HEALTHY_POLL_INTERVALS * runtime.app.poll_interval


def use_healthcheck_server(
    app: Pyncette,
    port: int = 8080,
    bind_address: str | None = None,
    healthcheck_handler: HealthCheck = default_healthcheck,
) -> None:
    """
    Serve the health of *app* over HTTP while it runs, on all addresses or on *bind_address*.

    GET of any path answers 200 "OK" if *healthcheck_handler* returns a true value, and 500 "Not OK" if it returns a
    false one, raises, or takes longer than five seconds. Other methods get 405. The handler runs in the event loop of
    the app: while that is blocked, probes fail. Raises OSError at start if it cannot listen on *port*.
    """

    async def healthcheck_server(app_context: PyncetteContext) -> AsyncIterator[HealthServer]:
        checks = _Checks(lambda: _is_healthy(app_context, healthcheck_handler))
        server = HealthServer(bind_address, port, {}, otherwise=checks.passes, protocol=PROTOCOL)
        server.start()
        logger.info("health is served on port %d", port)
        try:
            yield server
        finally:
            checks.end()
            # Not in the default executor, whose threads may all be taken by handlers.
            with ThreadPoolExecutor(1) as closer:
                await asyncio.get_running_loop().run_in_executor(closer, server.close)

    app.use_fixture(f"_healthcheck_{bind_address or ''}_{port}", healthcheck_server)


async def _is_healthy(app_context: PyncetteContext, healthcheck: HealthCheck) -> bool:
    healthy = healthcheck(app_context)
    return bool(await healthy if inspect.isawaitable(healthy) else healthy)


class _Checks:
    """Runs a check in the event loop that creates this, for other threads."""

    def __init__(self, check: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._running: set[Future[bool]] = set()
        self._ended = False

    def passes(self) -> bool:
        """Run the check, and return its result: False if it took too long, or if this has ended."""
        with self._lock:
            if self._ended:
                return False
            running = asyncio.run_coroutine_threadsafe(self._check(), self._loop)
            self._running.add(running)
        try:
            return running.result(CHECK_SECONDS)
        except CancelledError:
            return False
        except TimeoutError:
            if running.done():  # the check itself raised it
                raise
            running.cancel()
            logger.warning("the health check took longer than %s s", CHECK_SECONDS)
            return False
        finally:
            with self._lock:
                self._running.discard(running)

    def end(self) -> None:
        """Cancel the checks in progress, and run no more."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for check in running:
            check.cancel()
