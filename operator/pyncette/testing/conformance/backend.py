"""What every test of a store stands on: a backend that holds nothing, and stores that are opened on it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from pyncette.core.record import Key
from pyncette.store.base import Store

OpenAnother = Callable[[], Awaitable[Store]]


class OnBackend:
    """Gives each test a backend that holds nothing, and as many stores on it as it asks for."""

    clock_tolerance = 300.0
    """Seconds that the backend's clock may be off in these tests."""

    @pytest.fixture
    def backend(self) -> Any:
        """Set up a backend that holds nothing, for one test, and take it down again."""
        raise NotImplementedError("a conformance test gives a fixture named backend")

    def open_store(self, backend: Any) -> Store:
        """Return one more store on *backend*, with a connection of its own, not yet entered."""
        raise NotImplementedError

    async def poison(self, backend: Any, key: Key) -> None:
        """Make what is stored as the spec of *key* unreadable, behind the back of every store."""
        raise NotImplementedError

    async def overwrite(self, backend: Any, key: Key, spec: str) -> None:
        """Store the text *spec* as the spec of *key*, behind the back of every store."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def open_another(self, backend: Any) -> AsyncIterator[OpenAnother]:
        async with contextlib.AsyncExitStack() as stack:

            async def open_another() -> Store:
                return await stack.enter_async_context(self.open_store(backend))

            yield open_another

    @pytest_asyncio.fixture
    async def store(self, open_another: OpenAnother) -> Store:
        return await open_another()
