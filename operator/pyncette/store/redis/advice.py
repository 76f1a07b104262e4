"""Reads the product and version of a server, and warns of settings that may lose records."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.core.log_messages import naming_logger
from pyncette.errors import StoreRefusedError
from pyncette.store.redis.connection import Connections

logger = naming_logger(__name__)


class Settings(NamedTuple):
    """Settings of the servers; the defaults stand for a server that does not report them."""

    evicting: str
    """The policy by which a server evicts records once its memory is full; empty if none does."""
    forgetful: bool
    """A server does not write each change to its disk."""


KEPT: Final = Settings("", forgetful=False)


async def settings_of(connections: Connections) -> Settings:
    """Return the settings that matter, or `KEPT` without the right to read them. Raises StoreUnavailableError."""
    servers = await _info(connections)
    if not servers:
        return KEPT
    return Settings(
        next((policy for server in servers if (policy := _evicting(server))), ""),
        any(not server.get("aof_enabled") for server in servers),
    )


async def servers_of(connections: Connections) -> Sequence[str]:
    """
    Return the products and versions of the servers, such as `Valkey 9.1.2`, each once. Raises StoreUnavailableError.

    Successors of Redis report their own name, and the version of Redis that they are compatible with.
    """
    return sorted({_name_of(server) for server in await _info(connections)})


async def _info(connections: Connections) -> Sequence[Mapping[str, Any]]:
    """Return the answer of each server to INFO; empty without the right to ask. Raises StoreUnavailableError."""
    try:
        return await connections.ask_each("INFO", "all")
    except StoreRefusedError as error:
        logger.debug("the server does not answer INFO", extra={"error": str(error)})
        return []


def _name_of(server: Mapping[str, Any]) -> str:
    name = str(server.get("server_name", "redis"))
    version = server.get(f"{name}_version") or server.get("redis_version", "")
    return f"{name.capitalize()} {version}".rstrip()


def concerns_of(settings: Settings) -> Sequence[str]:
    """Return a sentence on each setting that may lose records."""
    concerns = []
    if settings.evicting:
        concerns.append(
            f"maxmemory-policy is {settings.evicting}: when its memory is full, the server evicts records;"
            " set it to noeviction"
        )
    if settings.forgetful:
        concerns.append(
            "appendonly is off: a crash of the server loses all changes since its last snapshot; set it to yes"
        )
    return concerns


class _Warned:
    """The concerns that this process has logged, by server: a worker opens several stores on one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._concerns: dict[str, Sequence[str]] = {}

    def new(self, server: str, concerns: Sequence[str]) -> Sequence[str]:
        """Return those of *concerns* that were not in the last call for *server*."""
        with self._lock:
            before = self._concerns.get(server, ())
            self._concerns[server] = concerns
        return [concern for concern in concerns if concern not in before]


_warned: Final = _Warned()


def warn(server: str, concerns: Sequence[str]) -> None:
    """Log *concerns* about *server*, each once in this process until it is fixed."""
    for concern in _warned.new(server, concerns):
        logger.warning("the server may lose records", extra={"why": concern, "server": server})


def _evicting(server: Mapping[str, Any]) -> str:
    """Return the eviction policy if it may evict records. Those have no time to live, so the volatile policies do not."""
    policy = str(server.get("maxmemory_policy", ""))
    return policy if policy.startswith("allkeys") and server.get("maxmemory") else ""
