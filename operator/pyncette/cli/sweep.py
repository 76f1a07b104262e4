"""Shows the removals that the operator holds back, and confirms them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pyncette.cli.failures import Failure
from pyncette.cli.settings import OPERATOR_FILE
from pyncette.cli.stored import with_store
from pyncette.controller.reconcile.removal_notice import (
    Notice,
    clusters_with_notices,
    load_notices,
    namespaces_with_notices,
)
from pyncette.controller.settings import load_settings
from pyncette.store.backend import Backend
from pyncette.store.base import Store


class Held(NamedTuple):
    """The removals that one cluster holds back in one namespace on one backend."""

    backend: str
    cluster: str
    namespace: str
    tasks: int
    names: Sequence[str]
    """The names of the tasks. Names that cannot be read are left out."""


class Selection(NamedTuple):
    """A cluster and a namespace whose removals are shown or confirmed; None: all."""

    cluster: str | None = None
    namespace: str | None = None


def backends_of(given: Backend | None, config: Path | None) -> list[Backend]:
    """Return the *given* backend, or those of the operator's settings. Raises ConfigurationError or Failure."""
    if given is not None:
        return [given]
    path = config or OPERATOR_FILE
    if config is None and not path.exists():
        raise Failure(
            f"no backend configured: set PYNCETTE_BACKEND or pass --backend, or run this in the operator's pod, which has {path}"
        )
    return [backend.read() for backend in load_settings(path, {}).backends]


def held_back(backends: Sequence[Backend], selection: Selection) -> list[Held]:
    """Return the removals of *selection* that are held back on *backends*. Raises StoreError."""
    found: list[Held] = []
    for backend in backends:
        found += with_store(backend, partial(_held_on, backend=backend, selection=selection))
    return found


def confirmed(backends: Sequence[Backend], selection: Selection, count: int) -> list[Held]:
    """
    Confirm the removal of *count* tasks, which the operator then stops within seconds.

    Raises Failure if nothing is held back, if the number differs, if several clusters hold back removals, or if the
    removals change meanwhile. Raises StoreError.
    """
    found = held_back(backends, selection)
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
            f"{total} tasks are held back, not {count}: run `pyncette sweep` to review them, and confirm that number, "
            "or select a namespace with --namespace"
        )
    for backend in backends:
        items = [item for item in found if item.backend == str(backend)]
        if items:
            with_store(backend, partial(_confirm, items=items))
    return found


async def _held_on(store: Store, backend: Backend, selection: Selection) -> list[Held]:
    clusters = await clusters_with_notices(store) if selection.cluster is None else [selection.cluster]
    found: list[Held] = []
    for cluster in clusters:
        if selection.namespace is None:
            namespaces = await namespaces_with_notices(store, cluster)
        else:
            namespaces = {selection.namespace}
        for namespace, notice in (await load_notices(store, cluster, namespaces)).items():
            if notice.held.count:
                names = tuple(await notice.names(store))
                found.append(Held(str(backend), cluster, namespace, notice.held.count, names))
    return found


async def _confirm(store: Store, items: Sequence[Held]) -> None:
    for item in items:
        notices = await load_notices(store, item.cluster, [item.namespace])
        if not await _confirmed(store, item, notices[item.namespace]):
            raise Failure(
                "the tasks that are held back have just changed: run `pyncette sweep` to review them, and confirm again"
            )


async def _confirmed(store: Store, item: Held, notice: Notice) -> bool:
    """Confirm the removals of *notice* and return True, unless they differ from *item* or have changed."""
    if (notice.held.count, tuple(await notice.names(store))) != (item.tasks, item.names):
        return False
    return notice.is_confirmed or await notice.confirm(store) is not None
