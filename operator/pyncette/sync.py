"""Schedules instances from programs without an event loop, such as those of Django and Flask."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pyncette.app.application import Pyncette
from pyncette.app.blocking_calls import BlockingCalls
from pyncette.app.context import PyncetteContext
from pyncette.core.log_messages import naming_logger
from pyncette.errors import StoreUnavailableError

__all__ = ["Client"]

logger = naming_logger(__name__)

TIMEOUT: Final = datetime.timedelta(seconds=30)
"""The default time limit of a call."""

CLOSE_SECONDS: Final = 2.0
"""Time for the backend to be closed. After that, the thread is left to end with the process."""

CLOSED_IN_A_CALL: Final = "the client was closed during the call"

_T = TypeVar("_T")


class Client(BlockingCalls):
    """
    The calls on instances of a `PyncetteContext`, blocking: with the same names, arguments, results and errors.

    It runs no tasks. Create one for each process, where you would create an engine of a database, and use it from any
    thread. It opens the backend at the first call, in an event loop of a thread of its own, and closes it at the end of a
    `with` block or at `close`. It does not keep the interpreter from exiting. After a fork, the child opens a backend of its
    own.

    A call that takes longer than *timeout* raises StoreUnavailableError; it may or may not have been executed.
    """

    def __init__(self, app: Pyncette, *, timeout: datetime.timedelta = TIMEOUT) -> None:
        if timeout <= datetime.timedelta(0):
            raise ValueError(f"timeout must be longer than zero, not {timeout}")
        self._app = app
        self._seconds = timeout.total_seconds()
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._closed = False
        _clients.add(self)

    def __enter__(self) -> Self:
        """Open the backend, which raises the errors of `app.create()`."""
        self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the backend. Calls in progress raise, and so do later ones. Idempotent."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if session is not None:
            session.close()

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _wait_for(self, call: Callable[[PyncetteContext], Coroutine[Any, Any, _T]]) -> _T:
        return self._opened().call(call, self._seconds)

    def _opened(self) -> _Session:
        """Return the session of this process, and open it if there is none."""
        session = self._session
        if session is not None and session.is_usable:  # perf: no lock for each call
            return session
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed: create one that lives as long as the process")
            if self._session is None or not self._session.is_usable:
                self._session = _Session(self._app, self._seconds)
            return self._session

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None and session.is_usable:
            session.close(0)

    def _after_fork(self) -> None:
        """In a child, forget the session of the parent. Another thread may have held the lock."""
        self._lock = threading.Lock()
        session, self._session = self._session, None
        if session is not None:
            _keep_for_ever(session)


class _Session:
    """An open backend, in the event loop of a thread of its own."""

    def __init__(self, app: Pyncette, seconds: float) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._opened = Future[PyncetteContext]()
        self._calls: set[Future[Any]] = set()
        # A daemon, so that the interpreter can exit: each call that has returned is written, and servers notice the end.
        self._thread = threading.Thread(target=self._run, name="pyncette-client", daemon=True)
        self._thread.start()
        try:
            self._context = self._opened.result(seconds)
        except TimeoutError:
            self.close(0)
            raise StoreUnavailableError(f"the backend was not opened within {seconds:g} s") from None
        except BaseException:  # the error of the backend, or an interruption
            self.close()
            raise

    @property
    def is_usable(self) -> bool:
        """False once it is closed, or its thread has ended."""
        return not self._is_closing and self._thread.is_alive()

    def call(self, work: Callable[[PyncetteContext], Coroutine[Any, Any, _T]], seconds: float) -> _T:
        """Run *work* in the event loop, and return its result. Raises StoreUnavailableError after *seconds*."""
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(
                "a client cannot be called in its own event loop, such as by a partition selector"
            )
        coroutine = work(self._context)
        try:
            call = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise RuntimeError(CLOSED_IN_A_CALL) from None
        self._calls.add(call)
        try:
            return call.result(seconds)
        except TimeoutError:
            if call.done():  # it is an error of the work itself
                raise
            raise StoreUnavailableError(
                f"the call did not end within {seconds:g} s; it may or may not have been executed"
            ) from None
        except CancelledError:
            raise RuntimeError(CLOSED_IN_A_CALL) from None
        finally:
            self._calls.discard(call)
            call.cancel()  # does nothing, unless it is given up

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Cancel the calls in progress, close the backend, and wait for that up to *seconds*."""
        self._is_closing = True
        for call in list(self._calls):
            call.cancel()
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(seconds)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        with (
            contextlib.suppress(asyncio.CancelledError),
            asyncio.Runner(loop_factory=lambda: self._loop) as runner,
        ):
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._task = asyncio.current_task()
        try:
            if self._is_closing:
                return
            async with self._app.create() as context:
                self._opened.set_result(context)
                await asyncio.get_running_loop().create_future()  # until it is cancelled
        except Exception as error:  # noqa: BLE001 - raised in the thread that opens it, or else when it is closed
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                logger.warning("could not close the backend of a client", extra={"error": str(error)})


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _keep_for_ever(session: _Session) -> None:
    """
    Keep *session* until the process has ended, even while the interpreter clears all modules.

    It shares its connections with the parent. If its coroutines were destroyed, they would close these, and the server would
    end the sessions of the parent.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _in_child() -> None:
    for client in list(_clients):
        client._after_fork()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_in_child)
