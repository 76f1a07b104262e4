"""Runs the operator as a process: who it is, what it may see, its probes, its signals, and how it ends."""

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
from pyncette.controller.cluster.api import KUBE_SYSTEM, TASKS, Api, ApiError, ApiUnavailableError
from pyncette.controller.cluster.client import Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.cluster.watch import Watch, WatchEndedError
from pyncette.controller.metrics import FORBIDDEN
from pyncette.controller.service import Operator, OperatorError
from pyncette.controller.settings import OperatorSettings
from pyncette.telemetry.health import HealthServer
from pyncette.telemetry.metrics import MetricsServer

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 2.0
"""Between two tries of what has to succeed before anything else can begin."""

RIGHTS_SECONDS: Final = 60.0
"""How often it is asked what the operator may see, where it is told namespace by namespace."""

RECURSION_MAX: Final = 100_000
"""Ten times the levels that the API server's own parser allows; each takes a few calls at most."""

STACK_BYTES: Final = 64 * 1024 * 1024
"""Of each thread, which costs nothing until it is used."""

_T = TypeVar("_T")


def run_operator(settings: OperatorSettings) -> int:
    """
    Run until SIGINT or SIGTERM; return the exit code.

    Raises ConfigurationError if it cannot begin, and Failure if this process cannot go on knowing all that there is: it is
    to be started again.
    """
    # The API server takes JSON that is nested thousands of levels deep, as arguments of a task: to read that is no reason to fail.
    sys.setrecursionlimit(RECURSION_MAX)
    threading.stack_size(STACK_BYTES)
    try:
        asyncio.run(_operate(settings))
    except Exception as error:
        cause = first_of(error)
        if isinstance(cause, ApiError | OperatorError | WatchEndedError):
            raise Failure(f"the operator has to start again: {cause}", ExitCode.FAILED) from error
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
        logger.info("ending; schedules go on firing")
        working.cancel()
        await asyncio.wait([working])
        if not working.cancelled() and (error := working.exception()) is not None:
            # What fails while all is being ended is no reason to be started again.
            logger.info("not all ended in order", extra={"error": str(first_of(error))})


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
            cluster_id = settings.cluster_id or await _patiently(lambda: api.uid_of_namespace(KUBE_SYSTEM))
            namespaces = await _visible(api, settings)
            operator = Operator(settings, cluster_id, api, namespaces)
            operator.metrics.gauge(FORBIDDEN).set(len(settings.namespaces) - len(namespaces))
            probes.operator = operator
            watch = Watch(credentials, operator.seen, namespaces)
            logger.info("begun", extra={"cluster": cluster_id, "namespaces": ",".join(namespaces) or "all"})
            watching = asyncio.Event()
            async with contextlib.AsyncExitStack() as stack:
                if settings.metrics:
                    metrics = MetricsServer(None, settings.metrics, operator.metrics.registry)
                    stack.enter_context(metrics)
                working = await stack.enter_async_context(asyncio.TaskGroup())
                working.create_task(watch.run(api, watching.set))
                if settings.namespaces:
                    working.create_task(_notice_rights(api, settings, namespaces))
                await watching.wait()
                operator.liveness.discovered()
                working.create_task(operator.run())


class _Probes:
    """What probes are told, from the start on."""

    def __init__(self) -> None:
        self.operator: Operator | None = None

    def is_alive(self) -> bool:
        return self.operator is None or self.operator.liveness.is_alive()

    def is_ready(self) -> bool:
        return self.operator is not None and self.operator.liveness.is_ready()


async def _patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Return the answer to what has to be known before anything else, however long the API server is away."""
    while True:
        try:
            return await ask()
        except ApiUnavailableError as error:
            logger.warning("the API server does not answer", extra={"error": str(error)})
            await asyncio.sleep(ASK_SECONDS)


# --- Where it may look -----------------------------------------------------------------------------------------------


async def _visible(api: Api, settings: OperatorSettings) -> Sequence[str]:
    """Return the namespaces to watch, none for all of the cluster; waits as long as there is not one that may be watched."""
    if not settings.namespaces:
        return ()
    while True:
        allowed = await _patiently(lambda: _allowed(api, settings))
        for namespace in settings.namespaces:
            if namespace not in allowed:
                logger.warning(
                    "a namespace of the settings is not watched: it is not there, or the operator has no rights in it",
                    extra={"watched_namespace": namespace},
                )
        if allowed:
            return allowed
        await asyncio.sleep(RIGHTS_SECONDS)


async def _allowed(api: Api, settings: OperatorSettings) -> list[str]:
    return [namespace for namespace in settings.namespaces if await api.may("watch", TASKS, namespace)]


async def _notice_rights(api: Api, settings: OperatorSettings, namespaces: Sequence[str]) -> None:
    """Raise OperatorError once the operator may look at others than *namespaces*: a watch of one that is forbidden ends all."""
    while True:
        await asyncio.sleep(RIGHTS_SECONDS)
        allowed = await _patiently(lambda: _allowed(api, settings))
        if allowed != list(namespaces):
            raise OperatorError(
                f"the namespaces that may be watched are others now: {', '.join(allowed) or 'none'}"
            )
