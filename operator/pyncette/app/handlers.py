"""Checks the signature of handlers and middlewares, and that they can be awaited."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Awaitable, Callable, Iterable
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, TypeAlias, get_origin

from pyncette.errors import DoNotRetry

AWAITED: Final = "_pyncette_awaited"
"""Attribute of this library's wrappers: a pair of the wrapper and the handler that it awaits."""

Handler: TypeAlias = Callable[[Any], Awaitable[None]]
"""A handler, called with the context of its run."""

Middleware: TypeAlias = Callable[[Any, Any], Awaitable[None]]
"""A middleware, called with the context of a run and a function that runs the rest."""

AWAITABLE: Final = re.compile(r"\b(?:Awaitable|Coroutine|Future|Task)\b")
"""Matches a string annotation that names an awaitable type."""


class Callee(NamedTuple):
    """A kind of declared function, and how it is called."""

    noun: str
    parameters: str
    called_with: str
    arity: int

    def definition(self, name: str) -> str:
        """Return the first line of a valid definition."""
        return f"`async def {name}({self.parameters})`"


HANDLER: Final = Callee("handler", "context", "the context alone", 1)
MIDDLEWARE: Final = Callee("middleware", "context, next", "the context and `next`", 2)


class PlainHandlerWarning(RuntimeWarning):
    """A declared handler or middleware is not a coroutine function, so its result can probably not be awaited."""


class NotAwaitableError(DoNotRetry):
    """A handler or middleware returned something that cannot be awaited. It has run to its end, so it is not retried."""


class PlainHandler(NamedTuple):
    """A handler or middleware that is not a coroutine function, and where it is defined."""

    message: str
    file: str
    line: int


def place_of(handler: Any) -> tuple[str, int]:
    """Return the file and the line of the definition of *handler*, below its decorators of any kind; empty if unknown."""
    handler = inspect.unwrap(unwrapped(handler))
    function = function_of(handler) or function_of(getattr(type(handler), "__call__", None))  # noqa: B004 - the method itself
    return ("", 0) if function is None else (function.__code__.co_filename, function.__code__.co_firstlineno)


def mark_as_awaiting(wrapper: Callable[..., Any], handler: Callable[..., Any]) -> None:
    """Record that *wrapper* calls *handler* with the context and awaits the result."""
    # Includes the wrapper, since functools.wraps copies attributes to other wrappers, which may not await it.
    setattr(wrapper, AWAITED, (wrapper, handler))


def check_handler(handler: Any, callee: Callee = HANDLER, arguments: Iterable[str] = ()) -> None:
    """
    Raise ValueError if *handler* cannot be called as a *callee*, with the *arguments* by name.

    One with an unknown signature passes.
    """
    handler = unwrapped(handler)
    signature = _own_signature(handler)
    if signature is None:
        return
    try:
        signature.bind(*(None,) * callee.arity, **dict.fromkeys(arguments))
    except TypeError:
        name = name_of(handler)
        # A method that is declared in the body of its class has no object to be called on yet.
        hint = ", or declare a bound method" if next(iter(signature.parameters), "") == "self" else ""
        raise ValueError(
            f"The {callee.noun} {name} takes {signature}, and is called with {callee.called_with}: "
            f"write {callee.definition(name)}{hint}"
        ) from None


def plain_handler(handler: Any, callee: Callee = HANDLER) -> PlainHandler | None:
    """
    Return what is wrong with a *handler*, or another *callee*, that is not a coroutine function; None if it may be one.

    Decorated functions, callable objects and lambdas may return an awaitable, and so may a function that is annotated
    to return one.
    """
    function = function_of(unwrapped(handler))
    if function is None or function.__name__ == "<lambda>" or hasattr(function, "__wrapped__"):
        return None
    code = function.__code__
    if inspect.isasyncgenfunction(function):
        message = f"The {callee.noun} {function.__name__} is an async generator function: a {callee.noun} must not yield"
    elif _is_awaitable(function):
        return None
    else:
        message = (
            f"The {callee.noun} {function.__name__} is not a coroutine function: write `async def {function.__name__}(…)`, "
            "or annotate its return type, as in `-> Awaitable[None]`"
        )
    return PlainHandler(message, code.co_filename, code.co_firstlineno)


def warn_if_plain(handler: Any, callee: Callee = HANDLER) -> None:
    """Warn about a *handler*, or another *callee*, that is not a coroutine function, with the location of its definition."""
    plain = plain_handler(handler, callee)
    if plain is not None:
        warnings.warn_explicit(plain.message, PlainHandlerWarning, plain.file, plain.line)


def awaitable(handler: Any, result: Any, callee: Callee = HANDLER) -> Awaitable[None]:
    """Return the *result* of a *handler* or another *callee*. Raises NotAwaitableError if it cannot be awaited."""
    if inspect.isawaitable(result):
        return result
    name = name_of(handler)
    raise NotAwaitableError(
        f"the {callee.noun} {name} returned {_kind(result)}, which cannot be awaited: write `async def {name}(…)`. "
        "It ran to its end, so it is not retried"
    )


def without_parentheses(decorator: str, given: Any) -> ValueError:
    """Return the error of a *decorator* that was *given* a function or a positional value instead of options."""
    if callable(given):
        return ValueError(f"@app.{decorator} needs parentheses: write @app.{decorator}(…)")
    return ValueError(f"@app.{decorator}(…) takes its options as keywords, as in name={given!r}")


def unwrapped(handler: Any) -> Any:
    """Return the handler that wrappers of this library call and await."""
    while isinstance(handler, FunctionType):
        wrapper, awaited = handler.__dict__.get(AWAITED, (None, None))
        if wrapper is not handler:
            break
        handler = awaited
    return handler


def function_of(handler: Any) -> FunctionType | None:
    """Return the Python function that is called in the end; None if there is none."""
    while not isinstance(handler, FunctionType):
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif isinstance(handler, MethodType):
            handler = handler.__func__
        else:
            return None
    return handler


def _own_signature(handler: Any) -> inspect.Signature | None:
    """Return the signature of *handler* itself, not of what it wraps; None if it is unknown or may be untrue."""
    function = function_of(handler) or function_of(getattr(type(handler), "__call__", None))  # noqa: B004 - the method itself
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


def name_of(handler: Any) -> str:
    function = function_of(handler)
    return type(handler).__name__ if function is None else function.__name__


def _kind(result: Any) -> str:
    return "None" if result is None else f"a {type(result).__name__}"
