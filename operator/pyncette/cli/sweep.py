"""Shows the removals that the operator holds back, and confirms them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from pyncette.cli.failures import Failure
from pyncette.cli.stored import with_store
from pyncette.controller.reconcile.sweep import Notice, clusters_with_held, read_notice
from pyncette.controller.settings import DEFAULT_FILE, load_settings
from pyncette.store.backend import Backend
from pyncette.store.backend_file import read_backend_file
from pyncette.store.base import Store


class Held(NamedTuple):
    """The removals that one cluster holds back on one backend."""

    backend: str
    cluster: str
    tasks: int
    names: Sequence[str]
    """The names of the first tasks."""


def backends_of(given: Backend | None, config: Path | None) -> list[Backend]:
    """Return the *given* backend, or those of the operator's settings. Raises ConfigurationError or Failure."""
    if given is not None:
        return [given]
    path = config or DEFAULT_FILE
    if config is None and not path.exists():
        raise Failure(
            f"no backend configured: set PYNCETTE_BACKEND or pass --backend, or run this in the operator's pod, which has {path}"
        )
    return [read_backend_file(str(backend.path)) for backend in load_settings(path, {}).backends]


def held_back(backends: Sequence[Backend], cluster: str | None) -> list[Held]:
    """Return the removals that are held back on *backends*, by *cluster* or by all clusters. Raises StoreError."""
    found: list[Held] = []
    for backend in backends:
        found += with_store(backend, partial(_held_on, backend=backend, cluster=cluster))
    return found


def confirmed(backends: Sequence[Backend], cluster: str | None, count: int) -> list[Held]:
    """
    Confirm the removal of *count* tasks, which the operator then stops within seconds.

    Raises Failure if nothing is held back, if the number differs, if several clusters hold back removals, or if the
    removals change meanwhile. Raises StoreError.
    """
    found = held_back(backends, cluster)
    if not found:
        raise Failure("nothing is held back")
    clusters = {item.cluster for item in found}
    if len(clusters) > 1:
        raise Failure(
            f"several clusters hold back removals: {', '.join(sorted(clusters))}; select one with --cluster"
        )
    total = sum(item.tasks for item in found)
    if total != count:
        raise Failure(
            f"{total} tasks are held back, not {count}: run `pyncette sweep` to review them, and confirm that number"
        )
    for backend in backends:
        for item in found:
            if item.backend == str(backend):
                with_store(backend, partial(_confirm, item=item))
    return found


async def _held_on(store: Store, backend: Backend, cluster: str | None) -> list[Held]:
    clusters = await clusters_with_held(store) if cluster is None else [cluster]
    found = [(await read_notice(store, name)).held for name in clusters]
    return [
        Held(str(backend), name, held.count, held.names)
        for name, held in zip(clusters, found, strict=True)
        if held.count
    ]


async def _confirm(store: Store, item: Held) -> None:
    notice = await read_notice(store, item.cluster)
    if not await _confirmed(store, item, notice):
        raise Failure(
            "the tasks that are held back have just changed: run `pyncette sweep` to review them, and confirm again"
        )


async def _confirmed(store: Store, item: Held, notice: Notice) -> bool:
    """Confirm the removals of *notice* and return True, unless they differ from *item* or have changed."""
    held = notice.held
    if (held.count, held.names) != (item.tasks, item.names):
        return False
    if held.confirmed:
        return True
    return await notice.write(store, msgspec.structs.replace(held, confirmed=held.count)) is not None
