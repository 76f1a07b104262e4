"""Cron for Python functions: declare handlers, and have them called when they are due."""

from pyncette._version import __version__
from pyncette.app.application import Pyncette
from pyncette.app.blocking import BlockingContext, BlockingPyncetteContext
from pyncette.app.context import Context, PyncetteContext
from pyncette.app.modes import ExecutionMode, FailureMode

__all__ = [
    "BlockingContext",
    "BlockingPyncetteContext",
    "Context",
    "ExecutionMode",
    "FailureMode",
    "Pyncette",
    "PyncetteContext",
    "__version__",
]
