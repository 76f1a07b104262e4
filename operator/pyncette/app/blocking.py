"""The contexts of plain functions: those of coroutines, with methods that block the thread of the function."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pyncette.app.blocking_calls import BlockingCalls
from pyncette.app.context import Context, PyncetteContext
from pyncette.app.handlers import Handler
from pyncette.app.results import InstanceResult
from pyncette.app.signatures import context_hint
from pyncette.errors import LeaseLostException, StopRequested
from pyncette.worker.threads import ThreadCall

_T = TypeVar("_T")


class BlockingContext(Context):
    """
    The argument of a handler that is a plain function, and runs in a thread.

    It has the attributes of `Context`, also those that middlewares set. Its methods block the thread until the event loop
    has done the work. In a coroutine, on the event loop, they return awaitables, like those of `Context`: a function may
    return a coroutine that uses its context.
    """

    __slots__ = ("_call", "_context")

    _blocks = True

    _context: Context

    def __init__(self, context: Context, call: ThreadCall) -> None:
        self.__dict__ = context.__dict__  # so that middlewares and the function see each other's attributes
        self._context = context._context if isinstance(context, BlockingContext) else context  # noqa: SLF001 - an attribute of this class
        self._call = call

    @property
    def app_context(self) -> BlockingPyncetteContext:  # type: ignore[override]  # its methods block
        return BlockingPyncetteContext(self._app_context, self._call)

    @property
    def stop_requested(self) -> bool:
        """
        True once the function should return: its run was cancelled, or has lost its lease.

        A function that returns after it has read True counts as cancelled, since it may have left work undone.
        """
        return self._call.stop_requested

    @property  # type: ignore[override]  # it blocks
    def heartbeat(self) -> Callable[[], None]:
        """
        Renew the lease to its full length. The worker does so as well, as long as the function runs.

        Raises LeaseLostException if the lease is lost, and StopRequested if the run was cancelled.
        """
        return self._heartbeat

    @heartbeat.setter
    def heartbeat(self, heartbeat: Callable[[], Any]) -> None:
        self._context.heartbeat = heartbeat  # type: ignore[method-assign]  # as a decorator may, that wraps a coroutine

    def wait_for(self, awaitable: Awaitable[_T]) -> _T:
        """
        Have the event loop await *awaitable*, such as a call of an asynchronous fixture, and return its result.

        Raises StopRequested if the run is cancelled meanwhile.
        """
        return self._call.wait_for(awaitable)

    def _heartbeat(self) -> Any:
        try:
            self._call.raise_if_stopped()
            beat: Any = self._context.heartbeat()  # a middleware may have replaced it
            return self._call.wait_for(beat) if inspect.isawaitable(beat) else beat
        except StopRequested:
            if self._occurrence.lease_lost:
                raise LeaseLostException(self.task) from None
            raise


def blocking_class_of(handler: Handler) -> type[BlockingContext]:
    """Return the class of the contexts of *handler*: that which its first parameter names, or `BlockingContext`."""
    named = context_hint(handler)
    return named if isinstance(named, type) and issubclass(named, BlockingContext) else BlockingContext


class BlockingPyncetteContext(BlockingCalls):
    """
    The app context of a plain function. It has the attributes of `PyncetteContext`, and methods that block.

    In a coroutine, on the event loop, they return what those of `PyncetteContext` return.
    """

    def __init__(self, app_context: PyncetteContext, call: ThreadCall) -> None:
        self._app_context = app_context
        self._call = call

    @property
    def last_tick(self) -> datetime.datetime:
        """The end of the last poll, in UTC."""
        return self._app_context.last_tick

    @property
    def ready(self) -> bool:
        """True if it polls and the backend answered the last request."""
        return self._app_context.ready

    def shutdown(self, grace: datetime.timedelta | None = None) -> None:
        """End the worker when the running handlers have returned, this one among them."""
        self._call.call(lambda: self._app_context.shutdown(grace))

    def _wait_for(self, call: Callable[[PyncetteContext], Coroutine[Any, Any, _T]]) -> _T:
        return self._call.wait_for(call(self._app_context))

    def _stream(
        self,
        items: Iterable[_T],
        write: Callable[[PyncetteContext, Iterable[_T]], AsyncIterator[InstanceResult]],
    ) -> Iterator[InstanceResult]:
        if self._call.on_event_loop:
            return write(self._app_context, items)  # type: ignore[return-value]  # an async iterator, for a coroutine
        return super()._stream(items, write)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return the value of a fixture."""
            if name in {"_app_context", "_call"}:  # not yet there while it is being copied
                raise AttributeError(name)
            return getattr(self._app_context, name)


TaskFunc: TypeAlias = Callable[[Context], Awaitable[None]] | Callable[[BlockingContext], None]
"""A handler: a coroutine function, or a plain function that runs in a thread."""
