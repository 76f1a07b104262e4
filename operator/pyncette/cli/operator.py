"""Runs the operator process: its identity, namespaces, probes, signals and exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, TypeVar

from pyncette.cli.failures import ExitCode, Failure, first_of
from pyncette.cli.operator_metrics import operator_metrics
from pyncette.controller.cluster.api import KUBE_SYSTEM, TASKS, Api, ApiError, ApiUnavailableError
from pyncette.controller.cluster.client import Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.cluster.watch import Watch, WatchEndedError
from pyncette.controller.metrics import FORBIDDEN
from pyncette.controller.service import Operator, OperatorError
from pyncette.controller.settings import OperatorSettings
from pyncette.telemetry.health import HealthServer

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
"""Time between attempts of a request that must succeed before the operator can start."""

RIGHTS_SECONDS: Final = 60.0
"""Time between checks of the permissions in each configured namespace."""

RECURSION_MAX: Final = 100_000
"""Ten times the nesting depth that the API server allows; each level takes a few calls at most."""

STACK_BYTES: Final = 64 * 1024 * 1024
"""The stack of each thread. It uses no memory until it is used."""

_T = TypeVar("_T")


def run_operator(settings: OperatorSettings) -> int:
    """
    Run until SIGINT or SIGTERM; return the exit code.

    Raises ConfigurationError if it cannot start, and Failure if it may have missed changes and must be restarted.
    """
    # The API server accepts arguments of a task that are nested thousands of levels deep. Reading them must not fail.
    sys.setrecursionlimit(RECURSION_MAX)
    threading.stack_size(STACK_BYTES)
    try:
        asyncio.run(_operate(settings))
    except Exception as error:
        cause = first_of(error)
        if isinstance(cause, ApiError | OperatorError | WatchEndedError):
            raise Failure(f"the operator must be restarted: {cause}", ExitCode.FAILED) from error
        raise
    return ExitCode.DONE


async def _operate(settings: OperatorSettings) -> None:
    stopped = asyncio.Event()
    with _signals(stopped):
        working = asyncio.ensure_future(_work(settings))
        stopping = asyncio.ensure_future(stopped.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            working.result()
            return
        logger.info("stopping; workers continue to run tasks")
        working.cancel()
        await asyncio.wait([working])
        if not working.cancelled() and (error := working.exception()) is not None:
            # An error during shutdown is no reason to restart.
            logger.info("an error occurred during shutdown", extra={"error": str(first_of(error))})


@contextlib.contextmanager
def _signals(stopped: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _work(settings: OperatorSettings) -> None:
    credentials = Credentials()
    probes = _Probes()
    async with Kubernetes(credentials) as api:
        with HealthServer(None, settings.health, {"/healthz": probes.is_alive, "/readyz": probes.is_ready}):
            cluster_id = settings.cluster_id or await _retried(lambda: api.uid_of_namespace(KUBE_SYSTEM))
            namespaces = await _visible(api, settings)
            operator = Operator(settings, cluster_id, api, namespaces)
            operator.metrics.gauge(FORBIDDEN).set(len(settings.namespaces) - len(namespaces))
            probes.operator = operator
            watch = Watch(credentials, operator.seen, namespaces)
            logger.info(
                "operator started", extra={"cluster": cluster_id, "namespaces": ",".join(namespaces) or "all"}
            )
            watching = asyncio.Event()
            async with contextlib.AsyncExitStack() as stack:
                if settings.metrics:
                    stack.enter_context(operator_metrics(settings, api, operator.metrics.registry))
                working = await stack.enter_async_context(asyncio.TaskGroup())
                working.create_task(watch.run(api, watching.set))
                if settings.namespaces:
                    working.create_task(_watch_permissions(api, settings, namespaces))
                await watching.wait()
                operator.liveness.discovered()
                working.create_task(operator.run())


class _Probes:
    """The health checks of the operator, from its start."""

    def __init__(self) -> None:
        self.operator: Operator | None = None

    def is_alive(self) -> bool:
        return self.operator is None or self.operator.liveness.is_alive()

    def is_ready(self) -> bool:
        return self.operator is not None and self.operator.liveness.is_ready()


async def _retried(request: Callable[[], Awaitable[_T]]) -> _T:
    """Return the result of *request*, and retry it while the API server is unavailable."""
    while True:
        try:
            return await request()
        except ApiUnavailableError as error:
            logger.warning("the API server does not answer", extra={"error": str(error)})
            await asyncio.sleep(RETRY_SECONDS)


# --- Namespaces ------------------------------------------------------------------------------------------------------


async def _visible(api: Api, settings: OperatorSettings) -> Sequence[str]:
    """Return the namespaces to watch, none for the whole cluster. Wait until at least one may be watched."""
    if not settings.namespaces:
        return ()
    while True:
        allowed = await _retried(lambda: _allowed(api, settings))
        for namespace in settings.namespaces:
            if namespace not in allowed:
                logger.warning(
                    "not watching a namespace of the settings: it does not exist, or permission is denied",
                    extra={"watched_namespace": namespace},
                )
        if allowed:
            return allowed
        await asyncio.sleep(RIGHTS_SECONDS)


async def _allowed(api: Api, settings: OperatorSettings) -> list[str]:
    return [namespace for namespace in settings.namespaces if await api.may("watch", TASKS, namespace)]


async def _watch_permissions(api: Api, settings: OperatorSettings, namespaces: Sequence[str]) -> None:
    """Raise OperatorError when the permitted namespaces change: a watch of a forbidden one would end all watches."""
    while True:
        await asyncio.sleep(RIGHTS_SECONDS)
        allowed = await _retried(lambda: _allowed(api, settings))
        if allowed != list(namespaces):
            raise OperatorError(
                f"the namespaces that the operator may watch have changed: {', '.join(allowed) or 'none'}"
            )
