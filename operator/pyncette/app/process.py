"""Runs an app context in a process of its own: an event loop, signals that drain it, and errors that become exit codes."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import Context, ContextVar
from types import FrameType
from typing import Any, Final, Protocol

from pyncette.errors import ConfigurationError, StoreError
from pyncette.telemetry.logs import set_up_logging

logger = logging.getLogger(__name__)

SECOND_SIGNAL_SECONDS: Final = 1.0
"""After a second signal: how long what runs may take to be cancelled and given back."""

being_loaded: ContextVar[bool] = ContextVar("being_loaded", default=False)
"""Whether a command is importing a task module: it will start the app itself, on a backend of its own choice."""

COLLECTOR_THRESHOLDS: Final = (50_000, 20, 20)
"""Objects made before cycles are looked for among the youngest; and how many such looks before the older ones' turn."""

SWITCH_SECONDS: Final = 0.0005
"""
How long a thread may run Python before it yields to another thread that is ready. Python's own interval is 5 ms.

The thread of SQLite waits for the lock of the interpreter after each call, while the event loop is busy. With 5 ms a worker
makes 8,800 runs a second instead of 40,000.
"""

INTERRUPTED: Final = 130
"""What shells report of a program that a signal ended: 128, and 2 for SIGINT."""


class Running(Protocol):
    """What a process runs: an app context."""

    async def run(self) -> None: ...

    def shutdown(self, grace: datetime.timedelta | None = None) -> None: ...


def run_until_stopped(create: Callable[[], AbstractAsyncContextManager[Running]]) -> None:
    """
    Run an app context until SIGINT or SIGTERM, and then until its handlers have returned.

    A second signal cancels what runs, and ends the process a second later at the latest. Exits with 1, and a sentence
    on stderr, if it cannot go on.
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
        logger.debug("cannot go on", exc_info=error)
        sys.exit(f"pyncette: {cause}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    if code:
        sys.exit(code)


def choose_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's, where it can be had, and unless USE_UVLOOP says otherwise."""
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

    After the first signal what runs may go on for *grace* (without end, if None), and is then cancelled and given back.
    Raises what makes going on impossible.
    """
    running = asyncio.current_task()
    assert running is not None
    stopping = _Stopping(running, grace)
    with stopping.by_signals():
        try:
            async with create() as context:
                _calm_collector()
                sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
                stopping.begun(context)
                await context.run()
        except asyncio.CancelledError:
            if not stopping.at_once:
                return 0  # told to stop before there was anything to let end
            logger.warning("ended at once; what ran was given back")
            return INTERRUPTED
    return 0


def _calm_collector() -> None:
    """
    Have cycles looked for once in some hundred runs, and never again among what was loaded by now.

    A run makes some hundred objects and no cycle of its own, so Python's own pace (each 700 objects) costs a worker under load a
    tenth of its time, and finds nothing. Only for a process that is a worker and nothing else.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


class _Stopping:
    """How a process is stopped: the first signal drains, the second cancels."""

    def __init__(self, running: asyncio.Task[Any], grace: datetime.timedelta | None) -> None:
        self._running = running
        self._grace = grace
        self._context: Running | None = None
        self._loop = asyncio.get_running_loop()
        self._seen = 0
        self.at_once = False

    def begun(self, context: Running) -> None:
        """From now on there is something to drain."""
        self._context = context

    @contextmanager
    def by_signals(self) -> Iterator[None]:
        """Listen, by handlers of Python's own kind, since those of a loop wait for a handler that blocks it."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._seen += 1
        if self._seen == 1:
            # In a context of its own, since the signal is not part of the run that it interrupted.
            self._loop.call_soon_threadsafe(self._drain, signal.Signals(number).name, context=Context())
            return
        end = threading.Timer(SECOND_SIGNAL_SECONDS if self._seen == 2 else 0, _end)
        end.daemon = True
        end.start()
        self._loop.call_soon_threadsafe(self._cancel, context=Context())

    def _drain(self, name: str) -> None:
        if self._context is None:
            logger.info("%s: ended before it began", name)
            self._running.cancel()
            return
        logger.info("%s: no more is claimed, and what runs may finish; once more ends it at once", name)
        self._context.shutdown(self._grace)

    def _cancel(self) -> None:
        self.at_once = True
        self._running.cancel()


def _end() -> None:
    """End a process that does not end by itself. What it held is claimed again once its leases expire."""
    sys.stderr.write("pyncette: ended at once; what still ran is taken over when its lease expires\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def _cause(error: BaseException) -> BaseException:
    """Return the first of what happened at once, which the others followed from."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
