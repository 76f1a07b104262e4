"""Cron for Python functions: declare async handlers, and have them called when they are due."""

from pyncette._version import __version__

__all__ = ["__version__"]
