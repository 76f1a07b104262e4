"""Finds out what a server is, and which of its settings may cost records."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.errors import StoreRefusedError
from pyncette.store.redis.connection import Connections

logger = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What servers say of themselves; empty where they say nothing."""

    evicting: str
    """The policy by which some server throws away what it likes once its memory is full."""
    forgetful: bool
    """Whether some server does not write each change to its disk."""


KEPT: Final = Settings("", forgetful=False)


async def settings_of(connections: Connections) -> Settings:
    """Return the settings that matter. Who may not ask for them knows of none; raises StoreUnavailableError."""
    servers = await _told(connections)
    if not servers:
        return KEPT
    return Settings(
        next((policy for server in servers if (policy := _evicting(server))), ""),
        any(not server.get("aof_enabled") for server in servers),
    )


async def servers_of(connections: Connections) -> Sequence[str]:
    """
    Return what the servers are, such as `Valkey 9.1.2`, each once; nothing if they do not tell.

    What came after Redis names itself, and gives as a version of Redis what it is compatible with.
    """
    return sorted({_name_of(server) for server in await _told(connections)})


async def _told(connections: Connections) -> Sequence[Mapping[str, Any]]:
    """Return what each server says of itself. Who may not ask hears nothing; raises StoreUnavailableError."""
    try:
        return await connections.ask_each("INFO", "all")
    except StoreRefusedError as error:
        logger.debug("the server does not tell about itself", extra={"error": str(error)})
        return []


def _name_of(server: Mapping[str, Any]) -> str:
    name = str(server.get("server_name", "redis"))
    version = server.get(f"{name}_version") or server.get("redis_version", "")
    return f"{name.capitalize()} {version}".rstrip()


def concerns_of(settings: Settings) -> Sequence[str]:
    """Return a sentence on each setting that may cost records."""
    concerns = []
    if settings.evicting:
        concerns.append(
            f"maxmemory-policy is {settings.evicting}: when its memory is full, the server throws away records;"
            " set it to noeviction"
        )
    if settings.forgetful:
        concerns.append(
            "appendonly is off: when the server crashes, all since its last snapshot is lost; set it to yes"
        )
    return concerns


class _Warned:
    """Which concerns this process has logged, by server: a worker opens several stores on one server."""

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
    """Return the policy if it may hit what is written here: that has no time to live, which the volatile ones ask for."""
    policy = str(server.get("maxmemory_policy", ""))
    return policy if policy.startswith("allkeys") and server.get("maxmemory") else ""
