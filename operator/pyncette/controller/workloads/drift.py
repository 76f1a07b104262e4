"""Tells whether an object of the API server is already as we would apply it, so that nothing is written when nothing differs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import InvalidOperation
from hashlib import blake2b
from typing import Any, Final

from pyncette.controller.cluster.api import Manifest
from pyncette.resources.quantity import number_of
from pyncette.resources.resource import GROUP

APPLIED: Final = f"{GROUP}/applied"
"""Annotation with a hash of what was applied: a field that is no longer wanted is in no manifest, but in this."""

LIST_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "claims": ("name",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "evictionResponders": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "protocol"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Lists of which each manager owns items, by the name of their field; all others are one manager's as a whole."""

DEFAULT_KEYS: Final = {"protocol": "TCP"}
"""The default of the API server for a missing part of a key."""

QUANTITIES: Final = frozenset({"limits", "requests", "overhead", "sizeLimit", "divisor"})
"""Fields that hold a quantity, or a mapping to quantities."""

TEXTS: Final = frozenset({"annotations", "labels", "matchLabels", "nodeSelector"})
"""Mappings whose names are the user's, so that none of the above means anything within."""

SET_IF_FALSE: Final = frozenset(
    {
        "allowPrivilegeEscalation",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "hostUsers",
        "replicas",
        "runAsNonRoot",
    }
)
"""Fields that mean something else when they are absent. Of most others the API server does not keep a false or a 0."""


def marked(manifest: Manifest) -> dict[str, Any]:
    """Return *manifest* with the annotation that records what was applied."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: _fingerprint(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _fingerprint(manifest: Manifest) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def covers(actual: Manifest, wanted: Manifest) -> bool:
    """
    Return whether *actual* has all that *wanted* says.

    What the API server and others have added does not matter; quantities are compared as such. A *wanted* that is
    `marked` is also not covered by an object from which one of our fields would have to go.
    """
    # Items of a list have no kind and apiVersion.
    identity = {name: wanted[name] for name in ("apiVersion", "kind")}
    return _covers_mapping({**identity, **actual}, wanted, "")


def _covers(actual: Any, wanted: Any, field: str) -> bool:
    if field in QUANTITIES and not isinstance(wanted, Mapping | list):
        return _is_same_quantity(actual, wanted)
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and _covers_mapping(actual, wanted, field)
    if isinstance(wanted, list):
        return isinstance(actual, list) and _covers_list(actual, wanted, field)
    return bool(actual == wanted)


def _covers_mapping(actual: Mapping[str, Any], wanted: Mapping[str, Any], field: str) -> bool:
    if field in TEXTS:
        return all(actual.get(name) == value for name, value in wanted.items())
    inner = field if field in QUANTITIES else None
    return all(
        _covers(actual[name], value, inner or name) if name in actual else _is_absence(name, value)
        for name, value in wanted.items()
    )


def _is_absence(name: str, wanted: Any) -> bool:
    return name not in SET_IF_FALSE and wanted in (None, False, 0, "", {}, [])


def _covers_list(actual: Sequence[Any], wanted: Sequence[Any], field: str) -> bool:
    keys = LIST_KEYS.get(field)
    if keys is None or not all(isinstance(item, Mapping) for item in (*actual, *wanted)):
        return len(actual) == len(wanted) and all(
            _covers(there, item, "") for there, item in zip(actual, wanted, strict=True)
        )
    found = {_name(item, keys): item for item in actual}
    return all(_name(item, keys) in found and _covers(found[_name(item, keys)], item, "") for item in wanted)


def _name(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(item.get(key, DEFAULT_KEYS.get(key))) for key in keys)


def _is_same_quantity(actual: Any, wanted: Any) -> bool:
    try:
        return number_of(actual) == number_of(wanted)
    except InvalidOperation:
        return bool(actual == wanted)
