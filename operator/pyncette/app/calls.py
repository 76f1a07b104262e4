"""Calls handlers: coroutine functions on the event loop, and plain functions in threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from pyncette.app.blocking import BlockingContext, blocking_class_of
from pyncette.app.context import Context
from pyncette.app.handlers import MIDDLEWARE, Call, Handler, Middleware, awaitable, is_plain, refuse_generator
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.threads import ThreadCall

NO_LOOP: Final = ("no running event loop", "There is no current event loop")
"""How the errors begin of code that needs an event loop, in a thread that has none."""


def wrapped(handler: Handler, middlewares: Sequence[Middleware]) -> Call:
    """Return *handler* inside of *middlewares*, the first of which is outermost."""
    call = call_of(handler)
    for middleware in reversed(middlewares):
        call = _around(middleware, call)
    return call


def call_of(handler: Handler) -> Call:
    """Return a coroutine function that calls *handler* with a context: in a thread if it is a plain function."""
    if inspect.iscoroutinefunction(handler):
        return handler
    if not is_plain(handler):

        async def call(context: Any, **arguments: Any) -> None:
            await awaitable(handler, handler(context, **arguments))

        return call

    context_class = blocking_class_of(handler)

    async def call_in_thread(context: Any, **arguments: Any) -> None:
        result = await _result_of(
            partial(handler, **arguments) if arguments else handler, context_class, context
        )
        if inspect.isawaitable(result):  # it wraps a coroutine function, and inspection did not tell
            await result
        refuse_generator(handler, result)

    return call_in_thread


def stored_args(context: Any) -> msgspec.Raw:
    """Return the arguments of a run as they are stored."""
    args: msgspec.Raw = context._held.record.spec.args  # noqa: SLF001 - a context of this app
    return args


def occurrence_of(context: Any) -> Occurrence | None:
    """Return the run of *context*; None for a context that a test has made."""
    return context._occurrence if isinstance(context, Context) else None  # noqa: SLF001 - not for handlers


async def _result_of(handler: Handler, context_class: type[BlockingContext], context: Any) -> Any:
    """Call *handler* in a thread of the worker, whose slots bound them."""
    occurrence = occurrence_of(context)
    if occurrence is None:
        return await asyncio.to_thread(handler, context)

    def call(thread_call: ThreadCall) -> Any:
        try:
            return handler(context_class(context, thread_call))
        except RuntimeError as error:
            if str(error).startswith(NO_LOOP):
                error.add_note(
                    "A plain function runs in a thread, without an event loop. To have it called on the event loop, "
                    "annotate it with `-> Awaitable[None]`."
                )
            raise

    return await occurrence.call_in_thread(call)


def _around(middleware: Middleware, inner: Call) -> Call:
    async def call(context: Any) -> None:
        await awaitable(middleware, middleware(context, partial(inner, context)), MIDDLEWARE)

    return call
