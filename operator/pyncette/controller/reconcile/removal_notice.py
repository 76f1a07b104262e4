"""Stores notices of held-back removals on a backend, so that a person can list and confirm them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Annotated, Final, NamedTuple

import msgspec

from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, inert_record, replace
from pyncette.core.spec import Spec
from pyncette.store.base import Store
from pyncette.store.codec import UNREADABLE

SWEEP_REALM: Final = f"{RESERVED_REALMS}sweep"
"""Realm of the notices. Each cluster id has a partition for the notices, and one for the pages of their names."""

PAGE: Final = 100
"""Number of names on a page, which is one record: names of 253 characters take less than 32 KiB."""

SCANNED: Final = 200
"""Number of records that one scan or load reads."""

NAMESPACES_MAX: Final = 10_000
"""Maximum number of notices that are read on a backend. Any writer there can create any number."""

COUNT_MAX: Final = 10_000_000

NAME: Final = re.compile(r"[a-z0-9][-.a-z0-9]{0,252}")
"""A name that Kubernetes accepts. Other names in a page are forged, and are never shown."""


class HeldBack(msgspec.Struct, frozen=True, omit_defaults=True):
    """The removals that are held back in a namespace."""

    count: Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)] = 0
    digest: str = ""
    """Digest of all names. It is part of the keys of their pages, so the pages of two lists are never mixed."""
    confirmed: Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)] = 0
    """The confirmed number; 0 if there is no confirmation."""


class Notice(NamedTuple):
    """The notice of a namespace on a backend, and its record; None if there is none."""

    cluster_id: str
    namespace: str
    record: Record | None
    held: HeldBack

    @property
    def is_confirmed(self) -> bool:
        return bool(self.held.count) and self.held.confirmed == self.held.count

    def is_about(self, names: Collection[str]) -> bool:
        """Return whether the notice lists exactly these *names*, and nobody has confirmed it."""
        if not names:
            return self.record is None
        return self.held == HeldBack(len(names), digest_of(names))

    async def names(self, store: Store, among: Collection[str] | None = None) -> Sequence[str]:
        """
        Return the names of the held-back tasks; with *among*, only those in it. Raises StoreError.

        Names that cannot be read are left out.
        """
        keys = self._page_keys(self.held.count, self.held.digest)
        found: list[str] = []
        for start in range(0, len(keys), SCANNED):
            for record in await store.load(keys[start : start + SCANNED]):
                names = () if record is None else _names_in(record)
                found += names if among is None else [name for name in names if name in among]
        return found

    async def hold(
        self, store: Store, names: Collection[str], *, is_confirmed: bool = False
    ) -> Notice | None:
        """
        Replace the held-back names by *names*, and return the new notice; None if it was changed meanwhile.

        Without names, remove the notice. Raises StoreError.
        """
        held = HeldBack(len(names), digest_of(names), len(names) if is_confirmed else 0)
        if held.digest != self.held.digest:
            await self._write_pages(store, sorted(names), held.digest)
        after = await self._write(store, held) if names else await self._remove(store)
        if after is not None:
            await self._remove_pages(store, held.digest)
        return after

    async def confirm(self, store: Store) -> Notice | None:
        """Store the confirmation of a person, and return the new notice; None if it was changed meanwhile."""
        return await self._write(store, msgspec.structs.replace(self.held, confirmed=self.held.count))

    async def _write(self, store: Store, held: HeldBack) -> Notice | None:
        spec = Spec(args=msgspec.Raw(msgspec.json.encode(held)))
        if self.record is None:
            after = inert_record(_key(self.cluster_id, self.namespace), spec, await store.now())
        else:
            after = replace(self.record, version=self.record.version + 1, spec=spec)
        (made,) = await store.swap([Change(self.record, after)])
        return self._replace(record=after, held=held) if made else None

    async def _remove(self, store: Store) -> Notice | None:
        if self.record is not None:
            (made,) = await store.swap([Change(self.record, None)])
            if not made:
                return None
        return self._replace(record=None, held=HeldBack())

    async def _write_pages(self, store: Store, names: Sequence[str], digest: str) -> None:
        now = await store.now()
        for number, key in enumerate(self._page_keys(len(names), digest)):
            page = names[number * PAGE : (number + 1) * PAGE]
            spec = Spec(args=msgspec.Raw(msgspec.json.encode(page)))
            # A page that exists was written before a crash, and holds the same names.
            await store.swap([Change(None, inert_record(key, spec, now))])

    async def _remove_pages(self, store: Store, kept: str) -> None:
        """Remove the pages of all lists but the one with the digest *kept*."""
        partition, after = _pages(self.cluster_id), None
        while page := await store.scan(partition, self.namespace, after, SCANNED):
            after = page[-1].key
            await store.swap([Change(record, None) for record in page if record.key.instance != kept])

    def _page_keys(self, count: int, digest: str) -> list[Key]:
        partition = _pages(self.cluster_id)
        return [Key(partition, self.namespace, digest, f"{number:06}") for number in range(-(-count // PAGE))]


def digest_of(names: Collection[str]) -> str:
    """Return the digest of *names*, independent of their order; empty without names."""
    return blake2b("\n".join(sorted(names)).encode(), digest_size=16).hexdigest() if names else ""


async def clusters_with_notices(store: Store) -> list[str]:
    """Return the ids of the clusters that hold, or held, removals back on this backend. Raises StoreError."""
    return sorted({partition.handler for partition in await store.partitions(SWEEP_REALM)})


async def namespaces_with_notices(store: Store, cluster_id: str) -> set[str]:
    """Return the namespaces of a cluster with a notice, from the first `NAMESPACES_MAX` notices. Raises StoreError."""
    partition, found, after, read = _notices(cluster_id), set[str](), None, 0
    while read < NAMESPACES_MAX and (page := await store.scan(partition, None, after, SCANNED)):
        after, read = page[-1].key, read + len(page)
        found |= {record.key.task for record in page if NAME.fullmatch(record.key.task)}
    return found


async def load_notices(store: Store, cluster_id: str, namespaces: Collection[str]) -> dict[str, Notice]:
    """Return the notice of each of *namespaces*; an empty one for a namespace without a notice. Raises StoreError."""
    names, found = sorted(namespaces), dict[str, Notice]()
    for start in range(0, len(names), SCANNED):
        part = names[start : start + SCANNED]
        records = await store.load([_key(cluster_id, name) for name in part])
        found |= {name: _notice(cluster_id, name, record) for name, record in zip(part, records, strict=True)}
    return found


def _notices(cluster_id: str) -> Partition:
    return Partition(SWEEP_REALM, cluster_id)


def _pages(cluster_id: str) -> Partition:
    return Partition(SWEEP_REALM, cluster_id, 1)


def _key(cluster_id: str, namespace: str) -> Key:
    return Key(_notices(cluster_id), namespace)


def _notice(cluster_id: str, namespace: str, record: Record | None) -> Notice:
    """Return the notice in *record*. An unreadable one counts as empty, so the operator writes it again."""
    held = HeldBack()
    if record is not None:
        with contextlib.suppress(*UNREADABLE):
            held = msgspec.json.decode(record.spec.args, type=HeldBack)
    return Notice(cluster_id, namespace, record, held)


def _names_in(page: Record) -> Sequence[str]:
    try:
        names = msgspec.json.decode(page.spec.args, type=tuple[str, ...])
    except UNREADABLE:
        return ()
    return [name for name in names if NAME.fullmatch(name)]
