"""Cron for Python functions: declare async handlers, and have them called when they are due."""

from pyncette._version import __version__
from pyncette.app import Pyncette, PyncetteContext
from pyncette.model import Context, ExecutionMode, FailureMode

__all__ = [
    "Context",
    "ExecutionMode",
    "FailureMode",
    "Pyncette",
    "PyncetteContext",
    "__version__",
]
