"""Reduces objects to what the operator may hold of them, before anything else does: tenants write up to 1.5 MB into each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from pyncette.controller.cluster.api import DEPLOYMENTS, POOLS, TASKS, Kind, Manifest
from pyncette.controller.cluster.decoding import decode
from pyncette.controller.reasons import Reason
from pyncette.resources.arguments import ARGS_BYTES_MAX, arguments_too_large, is_nested_deeper
from pyncette.resources.reading import Problem, Refusal, read_stored
from pyncette.resources.resource import GROUP, Resource

OWN_PREFIX: Final = f"{GROUP}/"
"""Of the annotations and labels that mean something to the operator."""

KEPT_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "resourceVersion",
)
"""Metadata that is kept besides our own prefix. Managed fields, the largest part, are dropped."""

DROPPED: Final = f"{OWN_PREFIX}dropped"
"""The key of a reduced manifest with the parts that were dropped, and their size. No API server has such a field."""

NESTED: Final = f"{OWN_PREFIX}nested"
"""The key of a reduced manifest with the parts that were dropped because they are nested too deeply."""

NESTING_MAX: Final = 64
"""Levels of a part of a spec. Pod templates have a dozen, and code that walks through a value may use a call for each."""

OWN_METADATA_MAX: Final = 32
"""Annotations of our own prefix that are kept, and labels likewise: there are fewer than ten."""

VALUE_CHARACTERS_MAX: Final = 1024
"""Of a kept annotation or label. A request is compared up to a quarter of that."""

FIELD_BYTES_MAX: Final = 16 * 1024
"""Of a field of a spec, as JSON: more than the schema lets any be that has no limit of its own."""

TEMPLATE_BYTES_MAX: Final = 64 * 1024
"""Of a pool's pod template, as JSON. A large one has some kilobytes."""

STATUS_BYTES_MAX: Final = 256 * 1024
"""Of a status, as JSON. The largest that the schemas take is below; controllers of Kubernetes write a hundredth."""

LARGE_BYTES: Final = 1024
"""Of arguments or of a template, as JSON, from which on they are large: the cache holds a limited number of bytes of these."""

ESCAPED: Final = 6
"""Bytes that the API server writes at most for a byte of text: it escapes `<` as `\\u003c`."""

_encode = msgspec.json.Encoder(order="deterministic").encode

M = TypeVar("M", bound=Resource)


class StoredObject(msgspec.Struct, frozen=True):
    """An object as the API server writes it, with parts that are not decoded yet."""

    metadata: dict[str, msgspec.Raw]
    spec: dict[str, msgspec.Raw] | None = None
    status: msgspec.Raw = msgspec.Raw(b"{}")

    def reduced(self, kind: Kind) -> dict[str, Any]:
        """Return the object like `reduced`."""
        return reduced(kind, {"metadata": self.metadata, "spec": self.spec, "status": self.status})


class Limit(NamedTuple):
    """The limit of a part of a spec, and how its excess is reported."""

    bytes_max: int
    """As JSON. A larger part is dropped."""
    reason: Reason
    message: Callable[[int], str]
    """The message for a part of so many bytes."""


def _too_large(limit: int, hint: str) -> Callable[[int], str]:
    return lambda size: f"takes {size:,} bytes as JSON, {limit:,} are allowed: {hint}"


OTHER: Final = Limit(
    FIELD_BYTES_MAX,
    Reason.TOO_LARGE,
    _too_large(FIELD_BYTES_MAX, "no value that the schema accepts is as large"),
)

LIMITS: Final[Mapping[Kind, Mapping[str, Limit]]] = {
    # Twice, since the exact count depends on how numbers are written: the model counts, and refuses what is between both.
    TASKS: {"args": Limit(2 * ARGS_BYTES_MAX, Reason.ARGUMENTS_TOO_LARGE, arguments_too_large)},
    POOLS: {
        "template": Limit(
            TEMPLATE_BYTES_MAX,
            Reason.TOO_LARGE,
            _too_large(TEMPLATE_BYTES_MAX, "keep large values in a ConfigMap, and mount it"),
        )
    },
}

KEPT_OF_DEPLOYMENTS: Final = frozenset({"replicas"})
"""The rest of the spec of a Deployment is compared with a fresh read."""


def reduced(kind: Kind, body: Manifest) -> dict[str, Any]:
    """
    Return an object without the parts that nothing needs, and without those that are larger than their limits.

    The parts of its spec may be raw JSON, which is decoded only within the limits. Doing this twice does it once.
    """
    dropped = dict(body.get(DROPPED) or {})
    nested = set(body.get(NESTED) or ())
    spec = body.get("spec")
    manifest: dict[str, Any] = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": _metadata(body["metadata"]),
        "status": _within(body.get("status", {}), STATUS_BYTES_MAX)[0] or {},
    }
    if isinstance(spec, Mapping):
        manifest["spec"] = _spec(kind, spec, dropped, nested)
    if dropped:
        manifest[DROPPED] = dropped
    if nested:
        manifest[NESTED] = sorted(nested)
    return manifest


def large_parts(manifest: Manifest) -> dict[str, int]:
    """Return which of its arguments and its template are large in a reduced object, and their bytes as JSON."""
    spec = manifest.get("spec") or {}
    sizes = {name: len(_encode(spec[name])) for name in ("args", "template") if name in spec}
    return {name: size for name, size in sizes.items() if size > LARGE_BYTES}


def without(manifest: Manifest, large: Mapping[str, int]) -> Manifest:
    """Return a reduced object without its *large* parts: see `is_incomplete`."""
    spec = manifest["spec"]
    kept = {name: value for name, value in spec.items() if name not in large}
    return {**manifest, "spec": kept, DROPPED: {**manifest.get(DROPPED, {}), **large}}


def is_incomplete(kind: Kind, manifest: Manifest) -> bool:
    """Return whether a part is missing in *manifest* that is within its limit, so that a read by name returns it."""
    return any(size <= _limit(kind, name).bytes_max for name, size in manifest.get(DROPPED, {}).items())


def read_reduced(kind: Kind, model: type[M], manifest: Manifest) -> M | Refusal:
    """Read a reduced object. One that lacks a part which is too large or nested is refused, and the problem says which."""
    problems = [
        Problem(("spec", name), limit.message(size), limit.reason.value)
        for name, size in manifest.get(DROPPED, {}).items()
        if size > (limit := _limit(kind, name)).bytes_max
    ]
    problems += [
        Problem(("spec", name), f"is nested in more than {NESTING_MAX} levels", Reason.TOO_LARGE.value)
        for name in manifest.get(NESTED, ())
    ]
    return Refusal(tuple(problems)) if problems else read_stored(model, manifest)


def _limit(kind: Kind, name: str) -> Limit:
    return LIMITS.get(kind, {}).get(name, OTHER)


def _spec(kind: Kind, spec: Mapping[str, Any], dropped: dict[str, int], nested: set[str]) -> dict[str, Any]:
    """Return the kept parts of a spec. Each other one is added to *dropped* with its size, or to *nested*."""
    kept = {}
    for name, value in spec.items():
        if kind is DEPLOYMENTS and name not in KEPT_OF_DEPLOYMENTS:
            continue
        part, size = _within(value, _limit(kind, name).bytes_max)
        if part is None and size:
            dropped[name] = size
        elif is_nested_deeper(part, NESTING_MAX):
            nested.add(name)
        else:
            kept[name] = part
    return kept


def _within(value: Any, limit: int) -> tuple[Any, int]:
    """Return *value*, decoded, and 0; if it is larger than *limit*, None and its bytes as JSON."""
    data = _encode(value)
    if len(data) > ESCAPED * limit:
        return None, len(data)
    if isinstance(value, msgspec.Raw):
        value = decode(data, Any)
        data = _encode(value) if len(data) > limit else data
    return (value, 0) if len(data) <= limit else (None, len(data))


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = {part: _decoded(metadata[part]) for part in KEPT_METADATA if part in metadata}
    for part in ("annotations", "labels"):
        given = _decoded(metadata.get(part)) or {}
        own = sorted(name for name in given if name.startswith(OWN_PREFIX))[:OWN_METADATA_MAX]
        if own:
            kept[part] = {name: str(given[name])[:VALUE_CHARACTERS_MAX] for name in own}
    return kept


def _decoded(value: Any) -> Any:
    return decode(value, Any) if isinstance(value, msgspec.Raw) else value
