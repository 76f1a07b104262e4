"""Runs an app within a web program of Starlette or FastAPI, without importing either."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeAlias

from pyncette.app.application import Pyncette
from pyncette.app.context import PyncetteContext, runtime_of
from pyncette.core.log_messages import naming_logger

__all__ = ["context_of", "lifespan"]

logger = naming_logger(__name__)

GRACE: Final = datetime.timedelta(seconds=20)
"""The default time for running handlers to finish. With the requests before it, a stop fits in the 30 s of Kubernetes."""

STATE: Final = "pyncette"
"""The name of the app context in the state of a request."""

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
"""The lifespan of a web program: called with the program, it yields the state of requests, or nothing."""


class HasState(Protocol):
    """A request or a WebSocket."""

    @property
    def state(self) -> Any: ...


def lifespan(
    app: Pyncette,
    *,
    run: bool = True,
    grace: datetime.timedelta | None = GRACE,
    within: Lifespan | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """
    Return the lifespan of a web program that runs *app*: `FastAPI(lifespan=lifespan(app))`.

    The app context is `request.state.pyncette`; `context_of` returns it with its type. Due tasks run in the event loop of the
    program; with `run=False` the program only schedules. At the end no more tasks are claimed, and running handlers have
    *grace* to finish (None: no limit) before they are cancelled and released.

    *within* is a lifespan of your own. It begins before the app and ends after it, so handlers can use what it opens. The
    state that it yields is that of requests, too.

    A backend that is misconfigured or unavailable raises at the start, and so does a fixture: the program does not start.
    """

    @contextlib.asynccontextmanager
    async def of(program: Any) -> AsyncIterator[Mapping[str, Any]]:
        async with contextlib.AsyncExitStack() as stack:
            own = None if within is None else await stack.enter_async_context(within(program))
            context = await stack.enter_async_context(app.create())
            if run:
                await stack.enter_async_context(_running(context, grace))
            yield {**(own or {}), STATE: context}

    return of


def context_of(request: HasState) -> PyncetteContext:
    """Return the app context of the program that serves *request*. Raises RuntimeError if its lifespan is not `lifespan`."""
    context: PyncetteContext | None = getattr(request.state, STATE, None)
    if context is None:
        raise RuntimeError(
            "this program has no app context: pass lifespan=pyncette.asgi.lifespan(app) to FastAPI or Starlette. "
            "The lifespan of a mounted program does not run: pass it to the outermost one"
        )
    return context


@contextlib.asynccontextmanager
async def _running(context: PyncetteContext, grace: datetime.timedelta | None) -> AsyncIterator[None]:
    """Run *context* in the background, once its fixtures are set up. At the end, drain it."""
    run = asyncio.create_task(context.run(), name="pyncette")
    started = asyncio.create_task(runtime_of(context).started.wait())
    try:
        await asyncio.wait({run, started}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:  # a fixture may take for ever
        run.cancel()
        await asyncio.wait({run})
        raise
    finally:
        started.cancel()
    if run.done():
        run.result()  # raises what kept it from starting
    run.add_done_callback(_report_end)
    try:
        yield
    finally:
        run.remove_done_callback(_report_end)
        context.shutdown(grace)
        await run


def _report_end(run: asyncio.Task[None]) -> None:
    """Log that the app has ended while the program still serves. Its error is raised again when the program ends."""
    error = None if run.cancelled() else run.exception()
    logger.critical("the app has ended: this process runs no more tasks", exc_info=error)
