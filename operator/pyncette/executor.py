"""Executors, which limit the number of handlers that a worker runs at the same time."""

from pyncette.app.executors import DefaultExecutor, SynchronousExecutor

__all__ = ["DefaultExecutor", "SynchronousExecutor"]
