"""Shows which tasks are gone from a cluster and go on running all the same, and confirms that they are to be stopped."""

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
    """What one cluster holds back on one backend."""

    backend: str
    cluster: str
    tasks: int
    names: Sequence[str]
    """Of the first of them."""


def backends_of(given: Backend | None, config: Path | None) -> list[Backend]:
    """Return the backend that is *given*, or those of the operator's settings. Raises ConfigurationError and Failure."""
    if given is not None:
        return [given]
    path = config or DEFAULT_FILE
    if config is None and not path.exists():
        raise Failure(
            f"no backend is said: set PYNCETTE_BACKEND or --backend, or run this in the operator's pod, where {path} is"
        )
    return [read_backend_file(str(backend.path)) for backend in load_settings(path, {}).backends]


def held_back(backends: Sequence[Backend], cluster: str | None) -> list[Held]:
    """Return what is held back on *backends*, of *cluster* or of all that use them. Raises StoreError."""
    found: list[Held] = []
    for backend in backends:
        found += with_store(backend, partial(_look, backend=backend, cluster=cluster))
    return found


def confirmed(backends: Sequence[Backend], cluster: str | None, count: int) -> list[Held]:
    """
    Confirm that the *count* tasks which are shown are to be stopped; the operator does so within seconds.

    Raises Failure if nothing is held back, if it is another number, if it is not clear of which cluster, or if others are
    held back by the time that this is written; StoreError.
    """
    found = held_back(backends, cluster)
    if not found:
        raise Failure("nothing is held back")
    clusters = {item.cluster for item in found}
    if len(clusters) > 1:
        raise Failure(
            f"several clusters hold something back: {', '.join(sorted(clusters))}; say which by --cluster"
        )
    total = sum(item.tasks for item in found)
    if total != count:
        raise Failure(
            f"{total} tasks are held back, not {count}: look at them by `pyncette sweep`, and confirm that number"
        )
    for backend in backends:
        for item in found:
            if item.backend == str(backend):
                with_store(backend, partial(_confirm, item=item))
    return found


async def _look(store: Store, backend: Backend, cluster: str | None) -> list[Held]:
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
            "what is held back has changed just now: look at it by `pyncette sweep`, and confirm that"
        )


async def _confirmed(store: Store, item: Held, notice: Notice) -> bool:
    """Confirm what *notice* shows, and say whether it is still *item*, and stands there now."""
    held = notice.held
    if (held.count, held.names) != (item.tasks, item.names):
        return False
    if held.confirmed:
        return True
    return await notice.write(store, msgspec.structs.replace(held, confirmed=held.count)) is not None
