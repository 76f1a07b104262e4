"""An app on the memory of the process and on pretended time."""

from collections.abc import Callable

import pytest

from pyncette.store.base import Store
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from tests.app.harness import NOON


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOON)


@pytest.fixture
def memory() -> Callable[[], Store]:
    """A repository factory whose stores share what they hold, as processes share a database."""
    backend = MemoryBackend()
    return lambda: MemoryStore(backend)
