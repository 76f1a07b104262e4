"""An app in simulated time, and on each backend that needs no server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pyncette.sqlite import sqlite_repository
from pyncette.store.base import Store
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from tests.app.harness import NOON


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOON)


@pytest.fixture(params=["memory", "sqlite"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """A repository factory whose stores share what they hold, as processes share a database."""
    if request.param == "sqlite":
        return partial(sqlite_repository, sqlite_database=str(tmp_path / "tasks.sqlite"))
    backend = MemoryBackend()
    return lambda: MemoryStore(backend)


@pytest.fixture
def memory() -> Callable[[], Store]:
    """The same, in memory, for what has nothing to do with backends."""
    backend = MemoryBackend()
    return lambda: MemoryStore(backend)
