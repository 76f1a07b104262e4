"""The cache of observed objects, reduced to what decisions need. A newer version never gives way to an older one."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from pyncette.controller.cluster.api import Api, Kind, Manifest, NoSuchObjectError, ObjectName, Page
from pyncette.controller.cluster.liveness import WatchStaleness
from pyncette.controller.cluster.reduction import is_incomplete, large_parts, reduced, without_parts

Change: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED"] | None
"""The type of a watch event; None if the object was there when the watch started or restarted."""

LARGE_BYTES_MAX: Final = 64 * 2**20
"""Maximum size of all large arguments and templates in the cache. Passes read the others again by name."""

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.decode


class News(Enum):
    """The change that an observation brings."""

    NOTHING = "nothing"
    """It is known, or older than what is known, or irrelevant."""
    STATUS = "status"
    """Only the status has changed. We write that of our own kinds, so acting upon it would loop."""
    DESIRED = "desired"
    """The desired state has changed: a new object, another spec, an annotation of ours, the start of its deletion."""
    GONE = "gone"
    """The watch reports its deletion. A caller that acts upon that reads it again first."""


class Listed(NamedTuple):
    """The changes that a complete list brings."""

    names: frozenset[ObjectName]
    """All listed objects."""
    changed: Mapping[ObjectName, News]
    """Objects that have changed."""
    absent: Sequence[ObjectName]
    """Known objects that are missing. They were dropped from the cache."""
    fresh: bool
    """False: it is older than an earlier list, as after a restore of the cluster. Nothing follows from it."""


class Objects:
    """
    The objects of all kinds that are watched, as JSON in bytes: ten thousand tasks fit where their dicts would not.

    Each object is reduced, so its size is bounded. The cache holds large arguments and templates up to `LARGE_BYTES_MAX` in
    all, and drops the others: see `read_whole`.

    Watches repeat events, deliver late, and go back; an older version changes nothing. Resource versions of one kind grow,
    and may be compared as numbers since Kubernetes 1.35 (KEP-5504). Where one is no number, the generation decides, and
    the creation time distinguishes objects of one name.

    *noted* is called with the status of each object that changes, as JSON, and with None once the object is gone.
    """

    def __init__(
        self,
        sight: WatchStaleness,
        noted: Callable[[Kind, ObjectName, bytes | None], object] = lambda *_: None,
    ) -> None:
        self._sight = sight
        self._noted = noted
        self._held: dict[Kind, dict[ObjectName, _Held]] = {}
        self._large_bytes = 0
        """Size of the large arguments and templates that are held."""
        self._gone: dict[Kind, dict[ObjectName, _Gone]] = {}
        """Objects deleted since the last complete list: a late event must not bring them back."""
        self._listed_at: dict[tuple[Kind, str | None], int] = {}
        """The version of the last complete list. What is unknown and not newer than that is not there any more."""

    def observe(self, kind: Kind, change: Change, body: Manifest) -> News:
        """Add a watch event."""
        new = self._reduced(kind, body)
        name = _name_of(body)
        self._sight.delivered(kind, name, new.version)
        if change == "DELETED":
            return self._remove(kind, name, new)
        return self._take(kind, name, new)

    def learn(self, kind: Kind, body: Manifest) -> News:
        """Add the API server's response to a read or write of ours, which the watch has not delivered yet."""
        return self._take(kind, _name_of(body), self._reduced(kind, body))

    def found(self, kind: Kind, body: Manifest) -> None:
        """Add the response to a read by name: the object exists, whatever events and lists have reported before."""
        name, new = _name_of(body), self._reduced(kind, body)
        self._gone.get(kind, {}).pop(name, None)
        held = self._held.setdefault(kind, {}).get(name)
        if held is None or new.is_newer_than(held):
            self._hold(kind, name, new)

    async def absorb(
        self,
        kind: Kind,
        namespace: str | None,
        pages: AsyncIterable[Page],
        told: Callable[[ObjectName, News], object] = lambda *_: None,
    ) -> Listed:
        """
        Add a complete list of a namespace, or of all; raises what *pages* raises, and then nothing counts as absent.

        *told* is called with each change as soon as it is cached: the watch, which may deliver it a moment later, then no longer
        makes anything of it, and the list may break off. What it shows that the watch has not delivered is handed to the
        sight, which gives the watch some time to do so.
        """
        names: set[ObjectName] = set()
        changed: dict[ObjectName, News] = {}
        version: int | None = None
        fresh = True
        async for page in pages:
            version = _number(page.resource_version)
            fresh = version is None or version >= self._listed_at.get((kind, namespace), 0)
            if not fresh:
                break
            for body in page.items:
                name = _name_of(body)
                names.add(name)
                news = self._take_listed(kind, name, self._reduced(kind, body))
                if news is not News.NOTHING:
                    changed[name] = news
                    told(name, news)
        if not fresh:
            return Listed(frozenset(), {}, (), fresh=False)
        absent = self._let_go(kind, namespace, names, version)
        if version is not None:
            self._listed_at[kind, namespace] = version
        return Listed(frozenset(names), changed, absent, fresh=True)

    def get(self, kind: Kind, name: ObjectName) -> dict[str, Any] | None:
        """Return an object as it was last observed, or None if it is not there."""
        held = self._held.get(kind, {}).get(name)
        return None if held is None else held.manifest(kind)

    def uid(self, kind: Kind, name: ObjectName) -> str | None:
        """Return the uid of an object without reading the rest of it."""
        held = self._held.get(kind, {}).get(name)
        return None if held is None else held.uid

    def version(self, kind: Kind, name: ObjectName) -> str | None:
        """Return the resource version of an object, which is another one as soon as anything about it is."""
        held = self._held.get(kind, {}).get(name)
        return None if held is None else held.resource_version

    def names(self, kind: Kind, namespace: str | None = None) -> list[ObjectName]:
        """Return the names of all objects of *kind*, or of those in *namespace*."""
        return [name for name in self._held.get(kind, ()) if namespace in {None, name.namespace}]

    def each(self, kind: Kind, namespace: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the objects one by one: as a whole they take ten times the memory that they take here."""
        for name in self.names(kind, namespace):
            held = self._held[kind].get(name)
            if held is not None:
                yield held.manifest(kind)

    def count(self, kind: Kind) -> int:
        return len(self._held.get(kind, ()))

    # --- Inside --------------------------------------------------------------------------------------------------

    def _take(self, kind: Kind, name: ObjectName, new: _Held) -> News:
        held = self._held.setdefault(kind, {}).get(name)
        if self._is_of_the_past(kind, name, new) or (held is not None and not new.is_newer_than(held)):
            return News.NOTHING
        self._hold(kind, name, new)
        return News.DESIRED if held is None else new.news_after(held)

    def _reduced(self, kind: Kind, body: Manifest) -> _Held:
        return _Held.of(kind, body, LARGE_BYTES_MAX - self._large_bytes)

    def _hold(self, kind: Kind, name: ObjectName, new: _Held) -> None:
        before = self._held[kind].get(name)
        self._large_bytes += new.large_bytes - (0 if before is None else before.large_bytes)
        self._held[kind][name] = new
        self._noted(kind, name, new.status)

    def _drop(self, kind: Kind, name: ObjectName) -> None:
        self._large_bytes -= self._held[kind].pop(name).large_bytes
        self._noted(kind, name, None)

    def _take_listed(self, kind: Kind, name: ObjectName, new: _Held) -> News:
        held = self._held.get(kind, {}).get(name)
        news = self._take(kind, name, new)
        if self._held[kind].get(name) is new and (held is None or held.version != new.version):
            self._sight.listed_newer(kind, name, new.version)
        return news

    def _remove(self, kind: Kind, name: ObjectName, last: _Held) -> News:
        gone = self._gone.setdefault(kind, {})
        # The deletion of an earlier object of this name may be delivered after the last one's.
        if name not in gone or not _is_at_most(last.version, gone[name].version):
            gone[name] = _Gone(last.uid, last.version)
        held = self._held.get(kind, {}).get(name)
        if held is None or held.uid != last.uid:
            return News.NOTHING
        self._drop(kind, name)
        return News.GONE

    def _is_of_the_past(self, kind: Kind, name: ObjectName, new: _Held) -> bool:
        """Return whether it is older than a deletion or a list that was observed since."""
        gone = self._gone.get(kind, {}).get(name)
        if gone is not None and (gone.uid == new.uid or _is_at_most(new.version, gone.version)):
            return True
        if name in self._held[kind]:
            return False
        listed_at = max(self._listed_at.get((kind, where), 0) for where in (None, name.namespace))
        return _is_at_most(new.version, listed_at)

    def _let_go(
        self, kind: Kind, namespace: str | None, names: set[ObjectName], version: int | None
    ) -> list[ObjectName]:
        """Drop the objects that a complete list of that *version* does not show, and return them."""
        held = self._held.get(kind, {})
        absent = [
            name
            for name in self.names(kind, namespace)
            # What is newer than the list was created since then.
            if name not in names and not _is_above(held[name].version, version)
        ]
        for name in absent:
            self._drop(kind, name)
        gone = self._gone.get(kind, {})
        for name in [name for name, last in gone.items() if namespace in {None, name.namespace}]:
            if gone[name].version is None or _is_at_most(gone[name].version, version):
                del gone[name]
        self._sight.forget(kind, absent)
        return absent


async def read_whole(
    api: Api, objects: Objects, kind: Kind, name: ObjectName, stored: Manifest
) -> Manifest | None:
    """
    Return the object *stored* with all its parts. Read it by name if the cache dropped large parts. Raises ApiError.

    Return None if the object was deleted meanwhile. The watch or a resync will report the deletion.
    """
    if not is_incomplete(kind, stored):
        return stored
    try:
        found = await api.get(kind, name)
    except NoSuchObjectError:
        return None
    objects.found(kind, found)
    return reduced(kind, found)


class _Gone(NamedTuple):
    """The last that is known of an object that is gone."""

    uid: str
    version: int | None


class _Held(msgspec.Struct, frozen=True, gc=False):
    """An object in the cache."""

    uid: str
    resource_version: str
    version: int | None
    """The same as a number, where it is one."""
    generation: int
    created_at: str
    desired: bytes
    """The metadata and the spec: all but the status and the version."""
    status: bytes
    large_bytes: int
    """Size of its large arguments or template; 0 if they are not held."""

    @classmethod
    def of(cls, kind: Kind, body: Manifest, room: int) -> _Held:
        """Return *body* in the form of the cache, without its large parts if these exceed *room*, in bytes."""
        manifest: Manifest = reduced(kind, body)
        large = large_parts(manifest)
        large_bytes = sum(large.values())
        if large_bytes > room:
            manifest, large_bytes = without_parts(manifest, large), 0
        metadata = dict(manifest["metadata"])
        resource_version = metadata.pop("resourceVersion", "")
        desired = {
            part: value for part, value in manifest.items() if part not in {"status", "apiVersion", "kind"}
        }
        desired["metadata"] = metadata
        return cls(
            uid=metadata.get("uid", ""),
            resource_version=resource_version,
            version=_number(resource_version),
            generation=metadata.get("generation", 0),
            created_at=metadata.get("creationTimestamp", ""),
            desired=_encode(desired),
            status=_encode(manifest["status"]),
            large_bytes=large_bytes,
        )

    def is_newer_than(self, other: _Held) -> bool:
        if self.version is not None and other.version is not None:
            return self.version > other.version
        if self.uid != other.uid:
            return self.created_at >= other.created_at
        return self.generation >= other.generation and self.resource_version != other.resource_version

    def news_after(self, other: _Held) -> News:
        if self.desired != other.desired:
            return News.DESIRED
        return News.STATUS if self.status != other.status else News.NOTHING

    def manifest(self, kind: Kind) -> dict[str, Any]:
        manifest: dict[str, Any] = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            **_decode(self.desired),
        }
        manifest["metadata"]["resourceVersion"] = self.resource_version
        manifest["status"] = _decode(self.status)
        return manifest


def _name_of(body: Manifest) -> ObjectName:
    metadata = body["metadata"]
    return ObjectName(metadata.get("namespace", ""), metadata["name"])


def _number(resource_version: str) -> int | None:
    return int(resource_version) if resource_version.isdecimal() and resource_version.isascii() else None


def _is_above(version: int | None, bound: int | None) -> bool:
    return version is not None and bound is not None and version > bound


def _is_at_most(version: int | None, bound: int | None) -> bool:
    return version is not None and bound is not None and version <= bound
