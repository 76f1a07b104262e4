"""Runs the operator as a process: who it is, what it may see, its probes, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Final

from pyncette.controller.credentials import Credentials
from pyncette.controller.kubernetes import Kubernetes
from pyncette.controller.service import Operator
from pyncette.controller.settings import OperatorSettings
from pyncette.telemetry.health import HealthServer

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 2.0
"""Between two tries of what has to succeed before anything else can begin."""

RIGHTS_SECONDS: Final = 60.0
"""How often it is asked again what the operator may see, where it is told namespace by namespace."""

KUBE_SYSTEM: Final = "kube-system"
"""The namespace whose uid tells a cluster from others: it is made with the cluster, and goes with it."""


async def operate(settings: OperatorSettings) -> None:
    """
    Run until SIGINT or SIGTERM.

    Raises ConfigurationError if it cannot begin; anything else means that the process is to be started again, since it
    cannot go on knowing all that there is.
    """
    stopped = asyncio.Event()
    with _signals(stopped):
        working = asyncio.ensure_future(_work(settings))
        stopping = asyncio.ensure_future(stopped.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            logger.info("ending; schedules go on firing")
            working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


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
    async with Kubernetes(credentials) as api:
        operator: Operator | None = None

        def is_alive() -> bool:
            return operator is None or operator.liveness.is_alive()

        def is_ready() -> bool:
            return operator is not None and operator.liveness.is_ready()

        with HealthServer(None, settings.health, {"/healthz": is_alive, "/readyz": is_ready}):
            cluster_id = settings.cluster_id or await _patiently(api.uid_of_namespace(KUBE_SYSTEM))
