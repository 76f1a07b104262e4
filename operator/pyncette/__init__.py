"""Cron for Python functions: declare async handlers, and have them called when they are due."""

from pyncette._version import __version__
from pyncette.app.application import Pyncette
from pyncette.app.context import Context, PyncetteContext
from pyncette.app.modes import ExecutionMode, FailureMode
from pyncette.app.retries import Retry

__all__ = [
    "Context",
    "ExecutionMode",
    "FailureMode",
    "Pyncette",
    "PyncetteContext",
    "Retry",
    "__version__",
]
