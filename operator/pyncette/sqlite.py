"""The embedded backend: a file, or the memory of this process."""

from pyncette.app.default_backend import sqlite_repository

__all__ = ["sqlite_repository"]
