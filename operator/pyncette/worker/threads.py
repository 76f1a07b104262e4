"""Runs plain functions in threads, and lets them wait for awaitables of the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from pyncette.core.log_messages import naming_logger
from pyncette.errors import LeaseLostException, StopRequested

logger = naming_logger(__name__)

SLOW_SECONDS: Final = 5.0
"""A log line names a function that still runs this long after it was asked to stop: its slot is taken until it returns."""

STOPS: Final = (StopRequested, LeaseLostException)
"""What a function raises when it ends because it was asked to."""

_T = TypeVar("_T")

_Work: TypeAlias = tuple[Callable[[], None], Callable[[], None]]
"""What a thread does, and what it calls once it is idle again."""


class Threads:
    """
    Threads that are reused. There are as many as ever worked at the same time, so the slots of a worker bound them.

    They are daemons, unlike those of a ThreadPoolExecutor: a function that never returns must not keep the process alive.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Work | None]] = []
        self._closed = False
        self._numbers = count(1)

    def start(self, work: Callable[[], None], idle: Callable[[], None]) -> None:
        """Do *work* in a thread, and call *idle* there once the thread can take other work. *work* must not raise."""
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is None:
            inbox = SimpleQueue()
            name = f"pyncette-handler-{next(self._numbers)}"
            threading.Thread(target=self._serve, args=(inbox,), name=name, daemon=True).start()
        inbox.put((work, idle))

    def close(self) -> None:
        """End the idle threads, and the others when they have finished their work. Nothing may start afterwards."""
        with self._lock:
            self._closed = True
            for inbox in self._idle:
                inbox.put(None)
            self._idle.clear()

    @property
    def is_closed(self) -> bool:
        return self._closed

    def _serve(self, inbox: SimpleQueue[_Work | None]) -> None:
        while (given := inbox.get()) is not None:
            work, idle = given
            work()
            with self._lock:
                closed = self._closed
                if not closed:
                    self._idle.append(inbox)
            idle()
            if closed:
                return
            del given, work, idle  # an idle thread keeps nothing alive


class Caller(Protocol):
    """The run that a function is called for."""

    @property
    def stop_reason(self) -> str:
        """Why the run should end; empty while it may go on."""
        ...

    def log_fields(self) -> dict[str, Any]: ...


class _Request(NamedTuple):
    """An awaitable that a thread waits for."""

    awaitable: Awaitable[Any]
    answer: Future[Any]


class ThreadCall:
    """
    One call of a plain function in a thread.

    A thread cannot be cancelled. A cancellation only asks the function to stop, and interrupts what the event loop awaits
    for it. The call ends when the function returns.
    """

    def __init__(self, threads: Threads, caller: Caller) -> None:
        self._threads = threads
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._task = asyncio.current_task()
        self._lock = threading.Lock()
        """Guards *_requests* and *_closed*."""
        self._requests: deque[_Request] = deque()
        self._closed = False
        self._posted = asyncio.Event()
        self._over = asyncio.Event()
        self._cancelled = False
        self._noticed = False
        """True once the function has learnt that it should stop."""
        self._slow: asyncio.TimerHandle | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self.abandoned = False
        """True once nobody waits for the function any more, although it still runs."""

    # --- On the event loop ---------------------------------------------------------------------------------------

    async def run(self, function: Callable[[], Any]) -> Any:
        """
        Call *function* in a thread, in a copy of the current context variables, and return what it returns.

        A function that returns after it has noticed the request to stop counts as cancelled: it may have left work undone.
        One that has not noticed has done its work.
        """
        self._threads.start(partial(copy_context().run, self._call, function), self._report)
        try:
            await self._serve()
        finally:
            self._close()
        error, self._error = self._error, None
        try:
            if error is not None and not (isinstance(error, STOPS) and self._is_stopped):
                raise error
            if error is not None or self._noticed:
                raise asyncio.CancelledError from error
        finally:
            del error  # its traceback leads back here
        if self._cancelled and inspect.isawaitable(self._result):
            # It has only begun: what it returned is the rest of its work.
            _discard(self._result)
            raise asyncio.CancelledError
        return self._result

    @property
    def is_over(self) -> bool:
        """True once the function has returned, or is abandoned."""
        return self._over.is_set()

    async def over(self) -> None:
        """Return once the function has returned, or is abandoned."""
        await self._over.wait()

    def stop(self) -> None:
        """Ask the function to stop."""
        if not self._cancelled:
            self._cancelled = True
            self._slow = self._loop.call_later(SLOW_SECONDS, self._warn)

    def abandon(self) -> None:
        """End the call without the function, which runs on: its worker ends, and nothing it does counts any more."""
        self.abandoned = True
        self._over.set()
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        """Await what the thread waits for, in the task of the run, until the function has returned."""
        while not self.is_over:
            try:
                await self._posted.wait()
                self._posted.clear()
                while self._requests and not self.abandoned:
                    await self._answer(self._requests.popleft())
            except asyncio.CancelledError:
                self.stop()
        if self.abandoned:
            raise asyncio.CancelledError

    async def _answer(self, request: _Request) -> None:
        assert self._task is not None
        cancellations = self._task.cancelling()
        try:
            result = await request.awaitable
        except asyncio.CancelledError as error:
            if (
                self._task.cancelling() == cancellations
            ):  # the awaitable itself was cancelled, and not the run
                request.answer.set_exception(error)
                return
            self.stop()
            self._noticed = True
            request.answer.set_exception(self._stop_error())
        except BaseException as error:  # noqa: BLE001 - the function decides about it
            request.answer.set_exception(error)
        else:
            request.answer.set_result(result)

    def _close(self) -> None:
        """Refuse to wait for anything more: threads of the function's own may have outlived it."""
        with self._lock:
            self._closed = True
            requests = list(self._requests)
            self._requests.clear()
        for request in requests:
            _discard(request.awaitable)
            request.answer.set_exception(self._stop_error())
        if self._slow is not None:
            self._slow.cancel()

    def _finish(self) -> None:
        self._over.set()
        self._posted.set()

    def _warn(self) -> None:
        logger.warning(
            "the handler was asked to stop, and still runs in its thread; its slot is taken until it returns: %s",
            self._why,
            extra=self._caller.log_fields(),
        )

    # --- In the thread -------------------------------------------------------------------------------------------

    @property
    def on_event_loop(self) -> bool:
        """True in the thread of the event loop, which must not wait for itself."""
        return threading.get_ident() == self._loop_thread

    @property
    def stop_requested(self) -> bool:
        """True once the function should stop. Reading it counts as noticing."""
        if self._is_stopped:
            self._noticed = True
        return self._noticed

    def raise_if_stopped(self) -> None:
        """Raise StopRequested once the function should stop."""
        if self.stop_requested:
            raise self._stop_error()

    def wait_for(self, awaitable: Awaitable[_T]) -> _T:
        """
        Have the event loop await *awaitable*, and return its result. On the event loop itself, return *awaitable*.

        Raises StopRequested if the run is cancelled meanwhile, or has ended.
        """
        if self.on_event_loop:
            return awaitable  # type: ignore[return-value]  # awaited by the caller, a coroutine with the context of a thread
        request = _Request(awaitable, Future())
        with self._lock:
            closed = self._closed
            if not closed:
                self._requests.append(request)
                self._loop.call_soon_threadsafe(self._posted.set)
        if closed:
            _discard(awaitable)
            raise StopRequested("the run has ended")
        try:
            result: _T = request.answer.result()
            return result
        finally:
            del request  # an error that it holds leads back here

    def call(self, function: Callable[[], _T]) -> _T:
        """Call *function* on the event loop."""
        if self.on_event_loop:
            return function()

        async def call() -> _T:
            return function()

        return self.wait_for(call())

    def _call(self, function: Callable[[], Any]) -> None:
        try:
            self._result = function()
        except BaseException as error:  # noqa: BLE001 - whatever it raises is raised on the event loop
            self._error = error

    def _report(self) -> None:
        if self.abandoned:
            logger.warning(
                "the handler returned after its worker had ended; its result is discarded",
                extra=self._caller.log_fields(),
            )
            return
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._finish)

    # --- Both ----------------------------------------------------------------------------------------------------

    @property
    def _is_stopped(self) -> bool:
        return self._cancelled or bool(self._caller.stop_reason)

    @property
    def _why(self) -> str:
        return self._caller.stop_reason or "the run was cancelled"

    def _stop_error(self) -> StopRequested:
        return StopRequested(self._why)


def _discard(awaitable: Awaitable[Any]) -> None:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
