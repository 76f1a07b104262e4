"""
Cron for Python functions: declare handlers, and have them called when they are due.

The names are imported on first use, since pytest imports this package in every project that has it installed, for the
plugin of `pyncette.testing`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pyncette._version import __version__

if TYPE_CHECKING:
    from pyncette.app.application import Pyncette
    from pyncette.app.blocking import BlockingContext, BlockingPyncetteContext
    from pyncette.app.context import Context, PyncetteContext
    from pyncette.app.modes import ExecutionMode, FailureMode
    from pyncette.app.retries import Retry

__all__ = [
    "BlockingContext",
    "BlockingPyncetteContext",
    "Context",
    "ExecutionMode",
    "FailureMode",
    "Pyncette",
    "PyncetteContext",
    "Retry",
    "__version__",
]

_HOMES: Final = {
    "BlockingContext": "pyncette.app.blocking",
    "BlockingPyncetteContext": "pyncette.app.blocking",
    "Context": "pyncette.app.context",
    "ExecutionMode": "pyncette.app.modes",
    "FailureMode": "pyncette.app.modes",
    "Pyncette": "pyncette.app.application",
    "PyncetteContext": "pyncette.app.context",
    "Retry": "pyncette.app.retries",
}

_MODULES: Final = frozenset({"clock", "errors"})
"""Modules that are attributes without an import of their own, as in earlier versions."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pyncette.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pyncette' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals() | dict.fromkeys(__all__))
