"""Reduces objects to the parts that the operator needs, within limits. A tenant can write up to 1.5 MB into an object."""

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
"""Prefix of the annotations and labels that the operator reads."""

KEPT_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "resourceVersion",
)
"""Metadata that is kept, in addition to our own annotations and labels. Managed fields, the largest part, are dropped."""

DROPPED: Final = f"{OWN_PREFIX}dropped"
"""Key of a reduced manifest: the dropped parts of the spec and their sizes. The API server has no such field."""

NESTED: Final = f"{OWN_PREFIX}nested"
"""Key of a reduced manifest: the parts of the spec that were dropped because they are nested too deeply."""

NESTING_MAX: Final = 64
"""Maximum nested levels of a part of a spec. Pod templates have a dozen. Recursive code needs a call for each level."""

OWN_METADATA_MAX: Final = 32
"""Maximum number of our own annotations, and of our own labels, that are kept. There are fewer than ten."""

VALUE_CHARACTERS_MAX: Final = 1024
"""Maximum length of a kept annotation or label. Requests are compared up to a quarter of that."""

FIELD_BYTES_MAX: Final = 16 * 1024
"""Maximum size of a field of a spec, as JSON. The schema allows less, except for fields with a limit of their own."""

TEMPLATE_BYTES_MAX: Final = 64 * 1024
"""Maximum size of a pod template, as JSON. A usual one has some kilobytes."""

STATUS_BYTES_MAX: Final = 256 * 1024
"""Maximum size of a status, as JSON. The schemas allow less, and controllers of Kubernetes write a hundredth."""

LARGE_BYTES: Final = 1024
"""Size above which arguments and templates are large. The cache holds a limited number of bytes of large ones."""

ESCAPED_BYTES_MAX: Final = 6
"""Maximum number of bytes that the API server writes for a byte of text: it escapes `<` as `\\u003c`."""

_encode = msgspec.json.Encoder(order="deterministic").encode

M = TypeVar("M", bound=Resource)


class StoredObject(msgspec.Struct, frozen=True):
    """An object as the API server writes it, with parts that are not decoded yet."""

    metadata: dict[str, msgspec.Raw]
    spec: dict[str, msgspec.Raw] | None = None
    status: msgspec.Raw = msgspec.Raw(b"{}")

    def reduced(self, kind: Kind) -> dict[str, Any]:
        """Return the reduced manifest of the object (see the function `reduced`)."""
        return reduced(kind, {"metadata": self.metadata, "spec": self.spec, "status": self.status})


class Limit(NamedTuple):
    """The limit of a part of a spec, and the report of a part that exceeds it."""

    bytes_max: int
    """Maximum size as JSON. A larger part is dropped."""
    reason: Reason
    message: Callable[[int], str]
    """Returns the message for the size of a part in bytes."""


def _too_large(limit: int, hint: str) -> Callable[[int], str]:
    return lambda size: f"takes {size:,} bytes as JSON, {limit:,} are allowed: {hint}"


DEFAULT_LIMIT: Final = Limit(
    FIELD_BYTES_MAX,
    Reason.TOO_LARGE,
    _too_large(FIELD_BYTES_MAX, "no value that the schema accepts is as large"),
)

LIMITS: Final[Mapping[Kind, Mapping[str, Limit]]] = {
    # Twice the limit of the model, which counts exactly. The size here depends on how the API server writes numbers.
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
"""Fields of the spec of a Deployment that are kept. The others are compared with a fresh read."""


def reduced(kind: Kind, body: Manifest) -> dict[str, Any]:
    """
    Return an object without the parts that nothing needs, and without those that exceed their limits. Idempotent.

    Parts of the spec may be raw JSON, which is decoded only within the limits.
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
    """Return the large ones of the arguments and the template of a reduced object, with their sizes as JSON in bytes."""
    spec = manifest.get("spec") or {}
    sizes = {name: len(_encode(spec[name])) for name in ("args", "template") if name in spec}
    return {name: size for name, size in sizes.items() if size > LARGE_BYTES}


def without_parts(manifest: Manifest, large: Mapping[str, int]) -> Manifest:
    """Return a reduced object without its *large* parts, which makes it incomplete (see `is_incomplete`)."""
    spec = manifest["spec"]
    kept = {name: value for name, value in spec.items() if name not in large}
    return {**manifest, "spec": kept, DROPPED: {**manifest.get(DROPPED, {}), **large}}


def is_incomplete(kind: Kind, manifest: Manifest) -> bool:
    """Return whether a read by name would return parts that are missing in *manifest*, since they are within their limits."""
    return any(size <= _limit(kind, name).bytes_max for name, size in manifest.get(DROPPED, {}).items())


def read_reduced(kind: Kind, model: type[M], manifest: Manifest) -> M | Refusal:
    """Read a reduced object. Refuse one with a part that was too large or nested too deeply; a problem names each part."""
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
    return LIMITS.get(kind, {}).get(name, DEFAULT_LIMIT)


def _spec(kind: Kind, spec: Mapping[str, Any], dropped: dict[str, int], nested: set[str]) -> dict[str, Any]:
    """Return the kept parts of a spec. Add each part that is too large to *dropped*, and each that is too deep to *nested*."""
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
    """Return the decoded *value* and 0. If it exceeds *limit*, return None and its size as JSON in bytes."""
    data = _encode(value)
    if len(data) > ESCAPED_BYTES_MAX * limit:
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
