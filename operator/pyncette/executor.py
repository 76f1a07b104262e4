"""Executors say how many handlers a worker runs at once."""

from pyncette.app.executors import DefaultExecutor, SynchronousExecutor

__all__ = ["DefaultExecutor", "SynchronousExecutor"]
