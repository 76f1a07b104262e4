"""Passes the configuration of an app to its factories, and refuses unknown settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, Protocol, TypeVar

from pyncette.core.record import check_realm
from pyncette.core.suggestions import did_you_mean
from pyncette.errors import ConfigurationError
from pyncette.store.base import ANSWER_RECORDS_MAX, Store

BATCH_SIZE: Final = 100

OWN_KEYS: Final = frozenset({"batch_size", "realm"})
"""The settings of the app itself. All others are passed to the factory and the executor."""

BACKENDS: Final = ("backend", "dynamodb", "mysql", "postgres", "redis")
"""The modules of the factories, whose settings begin with these names."""

VERBS: Final = ("capabilities", "load", "swap", "claim", "renew", "scan", "now")
"""The attributes that distinguish a store from other objects that a factory may return."""


_F = TypeVar("_F", bound=Callable[..., Any])


class Executor(Protocol):
    """An instance of `executor_cls`; *slots* limits the handlers that run at the same time."""

    slots: int


def refuse_unknown(configuration: Mapping[str, Any], *takers: Callable[..., Any]) -> None:
    """Raise ConfigurationError for a key that neither the app nor any of *takers* accepts, with a suggestion."""
    known = set(OWN_KEYS)
    for taker in takers:
        keys = _keys_of(taker)
        if keys is None:
            return
        known |= keys
    for key in configuration:
        if key not in known:
            raise ConfigurationError(
                f"unknown setting {key}; {_other_backend(key, known) or _suggestion(key, known)}"
            )


def takes_all_settings(prefix: str | None = None) -> Callable[[_F], _F]:
    """
    Make a factory ignore unknown keywords, so that a wrapper may pass on all that it received.

    An unknown keyword that begins with *prefix* raises ConfigurationError. An app still reads the signature, and refuses
    keys that no factory accepts.
    """

    def decorator(factory: _F) -> _F:
        known = _keys_of(factory)
        assert known is not None

        @functools.wraps(factory)
        def call(*args: Any, **settings: Any) -> Any:
            for key in settings:
                if prefix is not None and key.startswith(prefix) and key not in known:
                    raise ConfigurationError(
                        f"unknown setting {key} of {_label(factory)}; {_suggestion(key, known)}"
                    )
            return factory(*args, **{key: value for key, value in settings.items() if key in known})

        return call  # type: ignore[return-value]

    return decorator


def made_by(taker: Callable[..., Any], configuration: Mapping[str, Any]) -> Any:
    """Call *taker* with the part of *configuration* that it accepts. Raises ConfigurationError if a setting is missing."""
    keys = _keys_of(taker)
    missing = [
        parameter.name
        for parameter in _named_parameters(taker)
        if parameter.default is parameter.empty and parameter.name not in configuration
    ]
    if missing:
        raise ConfigurationError(f"{_label(taker)} needs {', '.join(missing)}: pass it to Pyncette(…)")
    return taker(**{key: value for key, value in configuration.items() if keys is None or key in keys})


def require_store(made: Any, factory: Callable[..., Any]) -> Store:
    """Return *made*, which *factory* returned. Raises ConfigurationError if it is not a store."""
    if all(hasattr(type(made), verb) for verb in VERBS):
        store: Store = made
        return store
    raise ConfigurationError(
        f"{_label(factory)} returned a {type(made).__name__}, which is not a store. Repositories written for Pyncette 1.x "
        "are not supported: a backend implements pyncette.store.base.Store"
    )


def slots_of(executor: Any) -> int:
    """Return the slots of *executor*. Raises ConfigurationError if it has none."""
    slots = getattr(executor, "slots", None)
    if not isinstance(slots, int):
        raise ConfigurationError(
            f"{type(executor).__name__} is not an executor of this version: it has no attribute slots"
        )
    return slots


def batch_size_of(configuration: Mapping[str, Any]) -> int:
    """
    Return the configured `batch_size`, or as many records as one answer may have, if that is less.

    A claim whose answer is cut off would leave its records leased and not run. Raises ConfigurationError if it is invalid.
    """
    size = configuration.get("batch_size", BATCH_SIZE)
    if not isinstance(size, int) or size < 1:
        raise ConfigurationError(f"batch_size must be an integer of at least 1, not {size!r}")
    return min(size, ANSWER_RECORDS_MAX)


def realm_of(configuration: Mapping[str, Any]) -> str:
    """Return the configured `realm`. Raises ConfigurationError if it is invalid or reserved."""
    realm = str(configuration.get("realm", ""))
    try:
        check_realm(realm)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return realm


def _keys_of(taker: Callable[..., Any]) -> AbstractSet[str] | None:
    """Return the settings in the signature of *taker*; None if it accepts all."""
    if any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(taker).parameters.values()
    ):
        return None
    return {parameter.name for parameter in _named_parameters(taker)}


def _named_parameters(taker: Callable[..., Any]) -> list[inspect.Parameter]:
    return [
        parameter
        for parameter in inspect.signature(taker).parameters.values()
        if parameter.kind in {parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]


def _other_backend(key: str, known: AbstractSet[str]) -> str | None:
    """Return what to pass for *key*, if it is a setting of a factory that was not passed."""
    name = key.partition("_")[0]
    if name not in BACKENDS or any(other.startswith(f"{name}_") for other in known):
        return None
    return f"pass its backend too: from pyncette.{name} import {name}_repository, and Pyncette({name}_repository, …)"


def _suggestion(key: str, known: AbstractSet[str]) -> str:
    names = sorted(known)
    return did_you_mean(key, names, f"valid settings: {', '.join(names)}")


def _label(factory: Callable[..., Any]) -> str:
    return getattr(factory, "__name__", None) or repr(factory)
