"""Worlds for pytest-asyncio: one fixture for each scope of event loops. The plugin loads it where pytest-asyncio is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from pyncette.testing.pytest_plugin import LOOP_SCOPES, running_world

if TYPE_CHECKING:
    from pyncette.testing.world import World


def _fixture(scope: Any) -> Any:
    # Not a plain fixture, which pytest-asyncio ignores in strict mode.
    @pytest_asyncio.fixture(loop_scope=scope, name=f"_pyncette_world_{scope}")
    async def world(pyncette_app: Any, pyncette_start: Any, pyncette_backend: Any) -> AsyncIterator[World]:
        async for one in running_world(pyncette_app, pyncette_start, pyncette_backend):
            yield one

    return world


globals().update({f"_pyncette_world_{scope}": _fixture(scope) for scope in LOOP_SCOPES})
