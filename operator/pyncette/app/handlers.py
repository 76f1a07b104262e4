"""Checks the signature of handlers and middlewares, and decides by inspection which of them can be awaited."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple, TypeAlias, get_origin

from pyncette.errors import DoNotRetry

AWAITED: Final = "_pyncette_awaited"
"""Attribute of this library's wrappers: a pair of the wrapper and the handler that it awaits."""

Handler: TypeAlias = Callable[..., Any]
"""A handler, called with the context of its run, and the arguments that its signature names."""

Call: TypeAlias = Callable[..., Coroutine[Any, Any, None]]
"""A coroutine function that calls a handler with the context of its run, and with arguments by name."""

Middleware: TypeAlias = Callable[[Any, Any], Awaitable[None]]
"""A middleware, called with the context of a run and a function that runs the rest."""

NEEDS_LOOP: Final = frozenset({"create_task", "ensure_future", "get_running_loop"})
"""Functions that only work on the event loop. A function of Pyncette 1.x may call them, and return what they return."""

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


class UnawaitableWarning(RuntimeWarning):
    """A declared handler yields, or a declared middleware is not a coroutine function: its result cannot be awaited."""


class NotAwaitableError(DoNotRetry):
    """A handler or middleware returned something that cannot be awaited. A retry would return the same."""


class Unawaitable(NamedTuple):
    """What is wrong with a handler or middleware whose result cannot be awaited, and where it is defined."""

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


def unawaitable(handler: Any, callee: Callee = HANDLER) -> Unawaitable | None:
    """
    Return what is wrong with a *handler* that yields, or a middleware that is not a coroutine function; None if it is fine.

    Decorated functions, callable objects and lambdas may return an awaitable, and so may a function that is annotated
    to return one.
    """
    function = function_of(unwrapped(handler))
    if function is None or function.__name__ == "<lambda>" or hasattr(function, "__wrapped__"):
        return None
    if _is_awaitable(function):
        return None
    name = function.__name__
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        kind = "an async generator" if inspect.isasyncgenfunction(function) else "a generator"
        message = f"The {callee.noun} {name} is {kind} function: a {callee.noun} must not yield"
    elif callee is HANDLER:
        return None
    else:
        message = (
            f"The {callee.noun} {name} is not a coroutine function: write `async def {name}(…)`, "
            "or annotate its return type, as in `-> Awaitable[None]`"
        )
    return Unawaitable(message, function.__code__.co_filename, function.__code__.co_firstlineno)


def warn_if_unawaitable(handler: Any, callee: Callee = HANDLER) -> None:
    """Warn about a *handler*, or another *callee*, whose result cannot be awaited, with the location of its definition."""
    wrong = unawaitable(handler, callee)
    if wrong is not None:
        warnings.warn_explicit(wrong.message, UnawaitableWarning, wrong.file, wrong.line)


def is_plain(handler: Any) -> bool:
    """
    Return True if *handler* is to be called in a thread; False if a call returns an awaitable, without doing the work.

    It returns one if it is a coroutine function, or is annotated to return an awaitable. So does one without an annotation
    of its result whose own code needs the event loop, as in Pyncette 1.x. A partial, a method, an object with `__call__`
    and a decorated function are what they call. A class is plain unless its objects can be awaited.
    """
    while True:
        if isinstance(handler, functools.partial):
            handler = handler.func
        elif isinstance(handler, MethodType):
            handler = handler.__func__
        elif inspect.isclass(handler):
            return not issubclass(handler, Awaitable)
        elif inspect.iscoroutinefunction(handler) or (
            isinstance(handler, FunctionType) and _is_awaitable(handler)
        ):
            return False
        elif hasattr(handler, "__wrapped__"):
            handler = handler.__wrapped__
        elif isinstance(handler, FunctionType):
            return not _needs_loop(handler)
        else:
            handler = getattr(type(handler), "__call__", None)  # noqa: B004 - the method itself
            if not isinstance(handler, FunctionType):
                return True  # its code is not Python, and tells nothing


def awaitable(handler: Any, result: Any, callee: Callee = HANDLER) -> Awaitable[None]:
    """Return the *result* of a *handler* or another *callee*. Raises NotAwaitableError if it cannot be awaited."""
    if inspect.isawaitable(result):
        return result
    name = name_of(handler)
    raise NotAwaitableError(
        f"the {callee.noun} {name} returned {_kind(result)}, which cannot be awaited: write `async def {name}(…)`. "
        "It ran to its end, so it is not retried"
    )


def refuse_generator(handler: Any, result: Any) -> None:
    """Raise NotAwaitableError if the *result* of a plain *handler* is a generator, which has run nothing yet."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise NotAwaitableError(
            f"the handler {name_of(handler)} returned {_kind(result)}, so nothing of it has run: a handler must not yield"
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


def _needs_loop(function: FunctionType) -> bool:
    """Return whether *function*, which does not say what it returns, would fail in a thread."""
    return "return" not in function.__annotations__ and not NEEDS_LOOP.isdisjoint(function.__code__.co_names)


def name_of(handler: Any) -> str:
    function = function_of(handler)
    return type(handler).__name__ if function is None else function.__name__


def _kind(result: Any) -> str:
    name = type(result).__name__
    return "None" if result is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
