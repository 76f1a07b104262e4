"""Finds out, without calling it, whether a function can be a handler: whether it takes a context, and can be awaited."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Awaitable, Callable
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, get_origin

from pyncette.errors import DoNotRetry

AWAITED: Final = "_pyncette_awaited"
"""Attribute of a wrapper of this library: the pair of the wrapper, and the handler that it awaits."""

AWAITABLE: Final = re.compile(r"\b(?:Awaitable|Coroutine|Future|Task)\b")
"""In an annotation that is a string: what it names can be awaited."""


class PlainHandlerWarning(RuntimeWarning):
    """A handler is declared whose result cannot be awaited, as far as can be told."""


class NotAwaitableError(DoNotRetry):
    """A handler returned something that cannot be awaited. It has run to its end, so it is not tried again."""


class PlainHandler(NamedTuple):
    """A handler that is not a coroutine function, and where it is defined."""

    message: str
    file: str
    line: int


def mark_as_awaiting(wrapper: Callable[..., Any], handler: Callable[..., Any]) -> None:
    """Take note that *wrapper* calls *handler* with the context, and awaits the result."""
    # With the wrapper itself: functools.wraps copies attributes to further wrappers, which may do otherwise.
    setattr(wrapper, AWAITED, (wrapper, handler))


def check_handler(handler: Any) -> None:
    """Raise ValueError for a *handler* that cannot be called with a context. Where this cannot be told, it passes."""
    handler = _behind_ours(handler)
    signature = _own_signature(handler)
    if signature is None:
        return
    try:
        signature.bind(None)
    except TypeError:
        name = _name(handler)
        # Where a method is declared in the body of its class, there is no object to call it on yet.
        hint = ", and declare a method of an object" if next(iter(signature.parameters), "") == "self" else ""
        raise ValueError(
            f"The handler {name} takes {signature}, and is called with the context alone: "
            f"write `async def {name}(context)`{hint}"
        ) from None


def plain_handler(handler: Any) -> PlainHandler | None:
    """
    Return what is wrong with a *handler* that is not a coroutine function; None if it is one, or if that cannot be told.

    Decorated functions, callable objects and lambdas may return an awaitable, and so may a function that is annotated
    to return one.
    """
    function = _function(_behind_ours(handler))
    if function is None or function.__name__ == "<lambda>" or hasattr(function, "__wrapped__"):
        return None
    code = function.__code__
    if inspect.isasyncgenfunction(function):
        message = f"The handler {function.__name__} is an async generator function: a handler must not yield"
    elif _is_awaitable(function):
        return None
    else:
        message = (
            f"The handler {function.__name__} is not a coroutine function: write `async def {function.__name__}(…)`, "
            "or annotate what it returns, as in `-> Awaitable[None]`"
        )
    return PlainHandler(message, code.co_filename, code.co_firstlineno)


def warn_of_plain(handler: Any) -> None:
    """Warn, with the place of its definition, about a *handler* that is not a coroutine function."""
    plain = plain_handler(handler)
    if plain is not None:
        warnings.warn_explicit(plain.message, PlainHandlerWarning, plain.file, plain.line)


def awaitable(handler: Any, result: Any) -> Awaitable[None]:
    """Return the *result* of a *handler*. Raises NotAwaitableError if it cannot be awaited."""
    if inspect.isawaitable(result):
        return result
    name = _name(handler)
    raise NotAwaitableError(
        f"the handler {name} returned {_kind(result)}, which cannot be awaited: write `async def {name}(…)`. "
        "It ran to its end, and is not tried again"
    )


def without_parentheses(decorator: str, given: Any) -> ValueError:
    """Return what a *decorator* raises that was *given* a function, or a value without a name, instead of options."""
    if callable(given):
        return ValueError(f"@app.{decorator} needs its parentheses: write @app.{decorator}(…)")
    return ValueError(f"@app.{decorator}(…) takes its options by name, as in name={given!r}")


def _behind_ours(handler: Any) -> Any:
    """Return what is called and awaited behind wrappers of this library."""
    while isinstance(handler, FunctionType):
        wrapper, awaited = handler.__dict__.get(AWAITED, (None, None))
        if wrapper is not handler:
            break
        handler = awaited
    return handler


def _function(handler: Any) -> FunctionType | None:
    """Return the function that is called in the end; None for what is no function of Python."""
    while not isinstance(handler, FunctionType):
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif isinstance(handler, MethodType):
            handler = handler.__func__
        else:
            return None
    return handler


def _own_signature(handler: Any) -> inspect.Signature | None:
    """Return how *handler* itself can be called, whatever it wraps; None if what it says of itself may be untrue."""
    function = _function(handler) or _function(getattr(type(handler), "__call__", None))  # noqa: B004 - the method itself
    if function is None or inspect.isclass(handler) or hasattr(function, "__signature__"):
        return None
    try:
        return inspect.signature(handler, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _is_awaitable(function: FunctionType) -> bool:
    if inspect.iscoroutinefunction(function) or getattr(function, "_is_coroutine", None) is not None:
        return True
    if function.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE:
        return True
    returned = function.__annotations__.get("return")
    if isinstance(returned, str):
        return AWAITABLE.search(returned) is not None
    kind = get_origin(returned) or returned
    return isinstance(kind, type) and issubclass(kind, Awaitable)


def _name(handler: Any) -> str:
    function = _function(handler)
    return type(handler).__name__ if function is None else function.__name__


def _kind(result: Any) -> str:
    return "None" if result is None else f"a {type(result).__name__}"
