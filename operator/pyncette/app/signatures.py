"""The arguments of a handler by its signature: their types, and what is stored and passed for them."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NotRequired, cast

import msgspec

from pyncette.app.handlers import Handler, function_of, mark_as_awaiting, name_of, unwrapped
from pyncette.core.suggestions import did_you_mean
from pyncette.errors import InvalidArgumentsError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

ALSO_SHOWN: Final = 60
"""Characters of an invalid value that its error quotes."""

MASK: Final = b"**********"
"""What pydantic writes in the place of a secret."""

_NAMED: Final = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


class Arguments:
    """
    The arguments that a handler takes after its context, by its signature.

    They are stored as JSON, and pydantic validates and converts them. Raises ValueError, which names the parameter, for
    a hint that cannot be resolved or has no JSON form.
    """

    # pydantic is imported here and below, where a handler has typed arguments: it takes a tenth of a second to load.

    def __init__(self, handler: str, hints: Mapping[str, Any], required: frozenset[str]) -> None:
        self._names = frozenset(hints)
        self._required = required
        self._adapter = _adapter_of(handler, hints)
        self._has_secrets = b'"writeOnly":true' in msgspec.json.encode(self._adapter.json_schema())

    @property
    def names(self) -> frozenset[str]:
        """The names of the parameters."""
        return self._names

    def stored(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return *given*, some of the arguments, as JSON values. Raises InvalidArgumentsError.

        A value can be of its type, or its JSON form.
        """
        from pydantic import ValidationError  # noqa: PLC0415 - see above
        from pydantic_core import PydanticSerializationError  # noqa: PLC0415

        for name in given:
            if name not in self._names:
                known = did_you_mean(name, self._names, f"the handler takes {', '.join(sorted(self._names))}")
                raise InvalidArgumentsError(f"unknown argument {name}; {known}")
        try:
            values = self._adapter.validate_python(dict(given))
            stored: dict[str, Any] = self._adapter.dump_python(values, mode="json", by_alias=True)
        except ValidationError as error:
            raise InvalidArgumentsError(_problems(error)) from None
        except PydanticSerializationError as error:
            raise InvalidArgumentsError(f"an argument has no JSON form: {error}") from None
        if self._has_secrets and MASK in msgspec.json.encode(stored):
            raise InvalidArgumentsError(
                "a secret such as a SecretStr would be stored as asterisks: pass a reference to it instead"
            )
        return stored

    def check(self, args: msgspec.Raw) -> None:
        """Raise InvalidArgumentsError if the handler cannot be called with the stored *args*."""
        self.values(args)

    def values(self, args: msgspec.Raw) -> dict[str, Any]:
        """
        Return the values to call the handler with, from the stored *args*. Raises InvalidArgumentsError.

        An argument that the handler does not take is left out, so that a parameter can be removed while instances that
        have it are still stored.
        """
        from pydantic import ValidationError  # noqa: PLC0415 - see above

        try:
            values: dict[str, Any] = self._adapter.validate_json(bytes(args), extra="ignore")
        except ValidationError as error:
            raise InvalidArgumentsError(_problems(error)) from None
        missing = self._required - values.keys()
        if missing:
            raise InvalidArgumentsError(
                "; ".join(f"the argument {name} is missing" for name in sorted(missing))
            )
        return values

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the arguments."""
        schema = self._adapter.json_schema()
        schema.pop("title", None)
        return schema | {"required": sorted(self._required), "additionalProperties": False}


def arguments_by_signature(handler: Handler, *, all_parameters: bool) -> Arguments | None:
    """
    Return the arguments that *handler* takes after its context; None if it is called with the context alone.

    Without *all_parameters*, a handler whose further parameters all have defaults is called with the context alone, as in
    Pyncette 1.x, and a decorator is called as its own signature says. Raises ValueError.
    """
    function = unwrapped(handler)
    parameters = _parameters(function, follow_wrapped=all_parameters)
    if (
        not parameters or parameters[0].name == "self"
    ):  # a method without its object, which is refused elsewhere
        return None
    further = [parameter for parameter in parameters[1:] if parameter.kind in _NAMED]
    required = frozenset(parameter.name for parameter in further if parameter.default is parameter.empty)
    if not further or not (required or all_parameters):
        return None
    if not all_parameters and not any(p.annotation is not p.empty for p in further):
        return None
    handler_name = name_of(function)
    hints = {parameter.name: _hint(handler_name, function, parameter) for parameter in further}
    return Arguments(handler_name, hints, required)


def context_hint(handler: Handler) -> Any:
    """Return the type that the first parameter of *handler* names; None if it names none, or one that is unknown."""
    function = unwrapped(handler)
    parameters = _parameters(function, follow_wrapped=True)
    if not parameters or parameters[0].annotation is inspect.Parameter.empty:
        return None
    try:
        return _resolved(function, parameters[0])
    except Exception:  # noqa: BLE001 - a hint is any expression; this one has no effect unless it is a class of contexts
        return None


def with_arguments(
    handler: Handler, arguments: Arguments | None, stored: Callable[[Any], msgspec.Raw]
) -> Handler:
    """Return *handler* as a function of the context alone; *stored* returns the stored arguments of a context."""
    if arguments is None:
        return handler
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def call(context: Any) -> None:
            await handler(context, **arguments.values(stored(context)))
    else:

        @functools.wraps(handler)
        def call(context: Any) -> Any:
            return handler(context, **arguments.values(stored(context)))

    mark_as_awaiting(call, handler)
    return call


def _parameters(function: Any, *, follow_wrapped: bool) -> list[inspect.Parameter]:
    if function_of(function) is None and not callable(function):
        return []
    try:
        return list(inspect.signature(function, follow_wrapped=follow_wrapped).parameters.values())
    except (TypeError, ValueError):
        return []


def _hint(handler: str, function: Any, parameter: inspect.Parameter) -> Any:
    name = parameter.name
    if parameter.annotation is parameter.empty:
        raise ValueError(
            f"The parameter {name} of the handler {handler} has no type hint, so its argument cannot be validated: "
            f"write `{name}: str`, or the type that it has"
        )
    try:
        return _resolved(function, parameter)
    except Exception as error:
        raise ValueError(
            f"The type hint {parameter.annotation!r} of the parameter {name} of the handler {handler} cannot be resolved "
            f"({error}): import the type at the top of the module, not under TYPE_CHECKING or inside a function"
        ) from error


def _resolved(function: Any, parameter: inspect.Parameter) -> Any:
    found = function_of(inspect.unwrap(function))
    names = {} if found is None else found.__globals__
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    return typing.get_type_hints(holder, names, include_extras=True)[parameter.name]


def _adapter_of(handler: str, hints: Mapping[str, Any]) -> TypeAdapter[dict[str, Any]]:
    """Return the validator of a dictionary that has some of the arguments."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - see Arguments
    from pydantic.errors import PydanticUserError  # noqa: PLC0415
    from typing_extensions import TypedDict  # noqa: PLC0415 - pydantic takes no other before Python 3.12

    for name, hint in hints.items():
        try:
            TypeAdapter(hint).json_schema()
        except PydanticUserError as error:
            raise ValueError(
                f"The parameter {name} of the handler {handler} cannot be an argument: its type {_shown(hint)} has no JSON "
                f"form ({str(error).splitlines()[0]})"
            ) from error
    fields = {name: NotRequired[hint] for name, hint in hints.items()}
    adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(cast("Any", TypedDict)("Arguments", fields))
    return adapter


def _problems(error: ValidationError) -> str:
    """Return what is wrong with each argument, with its place and its value."""
    problems = []
    for detail in error.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in detail["loc"])
        message = detail["msg"][:1].lower() + detail["msg"][1:]
        value = repr(detail["input"])
        shown = value if len(value) <= ALSO_SHOWN else f"{value[:ALSO_SHOWN]}…"
        problems.append(f"the argument {place} is invalid: {message}, not {shown}")
    return "; ".join(problems)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
