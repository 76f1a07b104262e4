"""The namespaces that each backend is open to: listed in the settings, or selected by their labels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from pyncette.controller.cluster.api import Api, ApiError
from pyncette.controller.intervals import DEFAULT
from pyncette.controller.settings import ALL_NAMESPACES, BackendSettings

logger = logging.getLogger(__name__)

Changes: TypeAlias = Mapping[str, frozenset[str]]
"""By backend: the namespaces that it was opened to, or closed to."""


class OpenNamespaces:
    """
    The namespaces that *backends* are open to.

    The API server evaluates the selectors. The result is read every *seconds* and holds until the next read, so nothing is
    closed while the API server is unavailable. For an unknown namespace, `read_for` reads at once.
    """

    def __init__(self, backends: Iterable[BackendSettings], seconds: float = DEFAULT.namespaces) -> None:
        named = {backend.name: backend for backend in backends}
        self._listed: Final = {name: frozenset(backend.namespaces) for name, backend in named.items()}
        self._selectors: Final = {
            name: backend.namespace_selector.text
            for name, backend in named.items()
            if backend.namespace_selector is not None
        }
        self._seconds = seconds
        self._selected: dict[str, frozenset[str]] = dict.fromkeys(self._selectors, frozenset())
        self._read_for: set[str] = set()
        """Namespaces of the calls of `read_for` since the last `read`."""
        self._reading = asyncio.Lock()
        self._reads = 0
        """Number of reads that have begun."""

    def is_open(self, backend: str, namespace: str) -> bool:
        """Return whether pools in *namespace* may use *backend*."""
        listed = self._listed[backend]
        return (
            namespace in listed
            or ALL_NAMESPACES in listed
            or namespace in self._selected.get(backend, frozenset())
        )

    def is_exclusive(self, backends: Iterable[str], namespace: str) -> bool:
        """Return whether *backends* are open to *namespace*, and cannot be open to another one."""
        names = frozenset(backends)
        listed = frozenset[str]().union(*(self._listed[name] for name in names))
        return listed == {namespace} and names.isdisjoint(self._selectors)

    async def read(self, api: Api) -> Changes:
        """Read the selected namespaces, and return the changes. Raises ApiError."""
        async with self._reading:
            changes = await self._read(api)
            self._read_for.clear()
        return changes

    async def follow(self, api: Api, changed: Callable[[Changes], None]) -> None:
        """Read the selected namespaces regularly, if there are selectors, and call *changed* with the changes."""
        while self._selectors:
            await asyncio.sleep(self._seconds)
            try:
                changed(await self.read(api))
            except ApiError as error:
                logger.warning(
                    "could not read the namespaces that backends are open to", extra={"error": str(error)}
                )

    async def read_for(self, api: Api, namespace: str) -> Changes:
        """Read the selected namespaces unless it is known whether *namespace* is among them. Raises ApiError."""
        if not self._selectors or namespace in self._read_for or self._is_selected(namespace):
            return {}
        reads = self._reads
        async with self._reading:
            # Another call may have begun a read since, whose result serves both.
            changes = await self._read(api) if self._reads == reads else {}
            self._read_for.add(namespace)
        return changes

    def _is_selected(self, namespace: str) -> bool:
        return any(namespace in selected for selected in self._selected.values())

    async def _read(self, api: Api) -> Changes:
        self._reads += 1
        selected = {name: await api.namespaces_with(labels) for name, labels in self._selectors.items()}
        changed = {name: now ^ self._selected[name] for name, now in selected.items()}
        self._selected = selected
        return {name: namespaces for name, namespaces in changed.items() if namespaces}
