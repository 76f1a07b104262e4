"""Runs an app context as a process: its event loop, signals and exit codes."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar
from types import FrameType
from typing import Any, Final, Protocol

from pyncette.errors import ConfigurationError, StoreError
from pyncette.telemetry.logs import set_up_logging

logger = logging.getLogger(__name__)

SECOND_SIGNAL_SECONDS: Final = 1.0
"""Time after a second signal to cancel and release runs."""

REPEATED_SECONDS: Final = 0.5
"""A SIGTERM this soon after another one counts as the same: GNU timeout signals the process and then its group."""

being_loaded: ContextVar[bool] = ContextVar("being_loaded", default=False)
"""True while a command imports a task module. The command then starts the app on a backend of its own."""

COLLECTOR_THRESHOLDS: Final = (50_000, 20, 20)
"""Thresholds of `gc.set_threshold` for the three generations."""

SWITCH_SECONDS: Final = 0.0005
"""
How long a thread may run Python before it yields to another thread that is ready. Python's own interval is 5 ms.

The thread of SQLite waits for the lock of the interpreter after each call, while the event loop is busy. With 5 ms a worker
makes 8,800 runs a second instead of 40,000.
"""

INTERRUPTED: Final = 130
"""The exit code of shells for a program that SIGINT ended: 128 plus 2."""


EXIT_SECONDS: Final = 5.0
"""How long a process may take to exit while functions of handlers still run: they may have threads that it waits for."""


class Running(Protocol):
    """The part of an app context that a process runs."""

    @property
    def abandoned_runs(self) -> int:
        """How many functions still run in threads after `run` has ended."""
        ...

    async def run(self) -> None: ...

    def shutdown(self, grace: datetime.timedelta | None = None) -> None: ...


def run_until_stopped(create: Callable[[], AbstractAsyncContextManager[Running]]) -> None:
    """
    Run an app context until SIGINT or SIGTERM, and then until its handlers have returned.

    A second signal cancels the running handlers, and ends the process within a second. Two SIGTERM within half a second
    are one signal. On an error, print it to stderr and exit with 1.
    """
    if being_loaded.get():
        raise ConfigurationError(
            'main() is called while the module is imported: put it under `if __name__ == "__main__":`'
        )
    try:
        set_up_logging(level=os.environ.get("LOG_LEVEL", "INFO"))
        with asyncio.Runner(loop_factory=choose_loop()) as runner:
            code = runner.run(run_context(create))
    except (StoreError, ConfigurationError, BaseExceptionGroup) as error:
        cause = _cause(error)
        if not isinstance(cause, StoreError | ConfigurationError):
            raise
        logger.debug("the app failed", exc_info=error)
        sys.exit(f"pyncette: {cause}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    if code:
        sys.exit(code)


def choose_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's event loops if it is installed and USE_UVLOOP allows it, else None."""
    choice = os.environ.get("USE_UVLOOP", "").strip().lower()
    if choice in {"0", "false", "no", "off"}:
        return None
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ImportError:
        if choice:
            sys.exit("pyncette: USE_UVLOOP is set, but uvloop is not installed")
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def run_context(
    create: Callable[[], AbstractAsyncContextManager[Running]],
    grace: datetime.timedelta | None = None,
) -> int:
    """
    Run an app context until a signal, and return the exit code.

    After the first signal, running handlers have *grace* to finish (None: no limit), and are then cancelled and released.
    Raises the error if the app fails.
    """
    running = asyncio.current_task()
    assert running is not None
    stopping = _Stopping(running, grace)
    with stopping.by_signals():
        try:
            async with create() as context:
                _tune_garbage_collector()
                sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
                stopping.begun(context)
                try:
                    await context.run()
                finally:
                    if context.abandoned_runs:
                        _end_later(EXIT_SECONDS, 0)
        except asyncio.CancelledError:
            if not stopping.at_once:
                return 0  # stopped before the app had started
            logger.warning("ended immediately; running handlers were cancelled and released")
            return INTERRUPTED
    logger.info("ended")
    return 0


def _tune_garbage_collector() -> None:
    """
    Collect garbage cycles once in some hundred runs, and never among the objects that exist now.

    A run creates about a hundred objects and no cycles, so the default thresholds (every 700 objects) cost a busy worker
    a tenth of its time and find nothing. Only for a process that is nothing but a worker.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


class Signals:
    """The signals that a process receives, where a SIGTERM that is sent twice counts once."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._terminated_at = -math.inf

    def is_repeated(self, number: int) -> bool:
        """Return True if signal *number*, received now, repeats the one before."""
        if number != signal.SIGTERM:
            return False  # an impatient person presses Ctrl-C twice
        now = self._monotonic()
        if now - self._terminated_at < REPEATED_SECONDS:
            return True
        self._terminated_at = now
        return False


class _Stopping:
    """The handling of signals: the first one drains, the second one cancels."""

    def __init__(self, running: asyncio.Task[Any], grace: datetime.timedelta | None) -> None:
        self._running = running
        self._grace = grace
        self._context: Running | None = None
        self._loop = asyncio.get_running_loop()
        self._signals = Signals()
        self._seen = 0
        self.at_once = False

    def begun(self, context: Running) -> None:
        """Set the app context that a signal drains."""
        self._context = context

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Install handlers with the module signal, since those of an event loop wait while a task blocks it."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self._signals.is_repeated(number):
            return
        self._seen += 1
        if self._seen == 1:
            # In an empty context, since the signal is not part of the run that it interrupted.
            self._loop.call_soon_threadsafe(self._drain, signal.Signals(number).name, context=Context())
            return
        _end_later(SECOND_SIGNAL_SECONDS if self._seen == 2 else 0, INTERRUPTED)
        self._loop.call_soon_threadsafe(self._cancel, context=Context())

    def _drain(self, name: str) -> None:
        if self._context is None:
            logger.info("%s: stopped before the app had started", name)
            self._running.cancel()
            return
        logger.info(
            "%s: draining; no more tasks are claimed, and running handlers can finish. A second signal ends them immediately",
            name,
        )
        self._context.shutdown(self._grace)

    def _cancel(self) -> None:
        self.at_once = True
        self._running.cancel()


def _end_later(seconds: float, code: int) -> None:
    """End a process that has not exited after *seconds*. Its runs are taken over when their leases expire."""

    def end() -> None:
        sys.stderr.write(
            "pyncette: ended immediately; running tasks are taken over when their leases expire\n"
        )
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _cause(error: BaseException) -> BaseException:
    """Return the first error of a group: it caused the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
