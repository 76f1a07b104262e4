"""Shows which tasks are gone from a cluster and go on running all the same, and confirms that they are to be stopped."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.cli.failures import Failure
from pyncette.controller.sweep import HeldBack, clusters_with_held, read_held, write_held
from pyncette.store.base import Store


class HeldIn(NamedTuple):
    """What one cluster holds back."""

    cluster: str
    held: HeldBack


async def held_back(store: Store, cluster: str | None) -> list[HeldIn]:
    """Return what is held back on this backend, of *cluster* or of all that use it. Raises StoreError."""
    clusters = await clusters_with_held(store) if cluster is None else [cluster]
    found = [HeldIn(name, held) for name in clusters if (held := await read_held(store, name)) is not None]
    return [item for item in found if item.held.count]


async def confirm(store: Store, cluster: str | None, count: int) -> HeldIn:
    """
    Confirm that *count* tasks are to be stopped; the operator does so within seconds, if it still holds back as many.

    Raises Failure if nothing is held back, if it is another number, or if it is not clear in which cluster; StoreError.
    """
    found = await held_back(store, cluster)
    if not found:
        raise Failure("nothing is held back")
    if len(found) > 1:
        clusters = ", ".join(item.cluster for item in found)
        raise Failure(f"several clusters hold something back: {clusters}; say which by --cluster")
    (item,) = found
    if item.held.count != count:
        raise Failure(
            f"{item.held.count} tasks are held back, not {count}; look at them, and confirm that number"
        )
    await write_held(store, item.cluster, HeldBack(item.held.count, item.held.names, confirmed=count))
    return item
