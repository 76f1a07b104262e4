"""Merges a part of a pod template into a whole one, as `kubectl patch` does it: Kubernetes' strategic merge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.controller.cluster.api import Manifest
from pyncette.errors import PyncetteException
from pyncette.resources.modelling import listed
from pyncette.resources.reading import Path, dotted

DIRECTIVE: Final = "$patch"
RETAIN: Final = "$retainKeys"
REPLACE: Final = "replace"
DELETE: Final = "delete"

_OF_CONTAINERS: Final = {
    "": "name",
    ".env": "name",
    ".ports": "containerPort",
    ".volumeDevices": "devicePath",
    ".volumeMounts": "mountPath",
}

MERGE_KEYS: Final[Mapping[str, str]] = {
    f"spec.{containers}{field}": key
    for containers in ("containers", "initContainers", "ephemeralContainers")
    for field, key in _OF_CONTAINERS.items()
} | {
    "metadata.ownerReferences": "uid",
    "spec.evictionResponders": "name",
    "spec.hostAliases": "ip",
    "spec.imagePullSecrets": "name",
    "spec.resourceClaims": "name",
    "spec.schedulingGates": "name",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.volumes": "name",
    "spec.volumes.ephemeral.volumeClaimTemplate.metadata.ownerReferences": "uid",
}
"""
Lists of a PodTemplateSpec that are merged item by item, and the field that identifies their items: the API's own
markers, which a test compares with what an API server publishes. All other lists are replaced as a whole.
"""


DEPTH_MAX: Final = 40
"""Twice as deep as any field of a pod. The API server lets a template be nested as deep as to exhaust the stack here."""


class MergeRefusedError(PyncetteException):
    """The part says something that cannot be merged: where, and what to write instead."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{dotted(path)}: {message}")
        self.path = path
        self.message = message


class Place(NamedTuple):
    """Where in the template we are."""

    fields: str = ""
    """Names of fields, as `MERGE_KEYS` has them."""
    path: Path = ()
    """The same for people, with the items of lists."""

    def field(self, name: str) -> Place:
        return self._below(f"{self.fields}.{name}" if self.fields else name, name)

    def item(self, which: str | int) -> Place:
        return self._below(self.fields, which)

    def _below(self, fields: str, step: str | int) -> Place:
        if len(self.path) >= DEPTH_MAX:
            raise MergeRefusedError(self.path[:2], f"must not be nested more than {DEPTH_MAX} deep")
        return Place(fields, (*self.path, step))


def merge(whole: Manifest, part: Manifest) -> dict[str, Any]:
    """
    Return the PodTemplateSpec that *whole* becomes with *part*, which decides where both say something.

    A null removes a field, `$patch: delete` an item, `$patch: replace` and `$retainKeys` what is around them. What a new
    item of a list says goes before the items that were there, as kubectl has it. Raises MergeRefusedError for a
    directive that is unknown, or of no effect, and for an item that does not say which it is.
    """
    return _mapping(whole, part, Place())


def item_named(key: str, value: Any) -> str:
    """Return how an item of a list is shown in a path."""
    return f"{key}={value}"


def _mapping(whole: Mapping[str, Any], part: Mapping[str, Any], place: Place) -> dict[str, Any]:
    if DIRECTIVE in part:
        return _directed(part, place)
    result = dict(_retained(whole, part, place))
    for name, value in part.items():
        if name == RETAIN:
            continue
        _refuse_directive(name, place)
        if value is None or (_is_removal(value) and not isinstance(result.get(name), Mapping)):
            result.pop(name, None)
        else:
            result[name] = _value(result.get(name), value, place.field(name))
    return result


def _value(whole: Any, part: Any, place: Place) -> Any:
    if isinstance(whole, Mapping) and isinstance(part, Mapping):
        return _mapping(whole, part, place)
    if isinstance(whole, list) and isinstance(part, list) and place.fields in MERGE_KEYS:
        return _items(whole, part, MERGE_KEYS[place.fields], place)
    return _plain(part, place)


def _directed(part: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Return what becomes of a mapping whose part says what to do with it as a whole."""
    match part[DIRECTIVE]:
        case "replace":
            rest = {name: value for name, value in part.items() if name != DIRECTIVE}
            return dict(_plain(rest, place))
        case "delete":
            return {}
        case unknown:
            raise _unknown_directive(unknown, place)


def _retained(whole: Mapping[str, Any], part: Mapping[str, Any], place: Place) -> Mapping[str, Any]:
    retained = part.get(RETAIN)
    if RETAIN not in part:
        return whole
    if not isinstance(retained, list):
        raise MergeRefusedError((*place.path, RETAIN), "must be a list of the fields that are to be left")
    given = [name for name, value in part.items() if value is not None and name != RETAIN]
    beyond = [name for name in given if name not in retained]
    if beyond:
        raise MergeRefusedError(
            (*place.path, RETAIN), f"must also list {listed(beyond)}, which is given here"
        )
    return {name: value for name, value in whole.items() if name in retained}


# --- Lists -----------------------------------------------------------------------------------------------------------


def _items(whole: Sequence[Any], part: Sequence[Any], key: str, place: Place) -> list[Any]:
    """Merge two lists whose items are identified by *key*."""
    for position, item in enumerate(part):
        if not isinstance(item, Mapping):
            raise MergeRefusedError((*place.path, position), "must be a mapping of fields to values")
        if DIRECTIVE in item and item[DIRECTIVE] not in (REPLACE, DELETE):
            raise _unknown_directive(item[DIRECTIVE], place.item(position))
        if key not in item and item.get(DIRECTIVE) != REPLACE:
            raise MergeRefusedError((*place.path, position), f"needs {key}, which identifies the items")
    named = [item for item in part if DIRECTIVE not in item]
    if any(item.get(DIRECTIVE) == REPLACE for item in part):
        return [_plain(item, place.item(item_named(key, item[key]))) for item in named]
    deleted = [item[key] for item in part if item.get(DIRECTIVE) == DELETE]
    left = [item for item in whole if item[key] not in deleted]
    return _in_order([item[key] for item in left], _merged_items(left, named, key, place), named, key)


def _merged_items(
    left: Iterable[Mapping[str, Any]], named: Iterable[Mapping[str, Any]], key: str, place: Place
) -> dict[Any, Any]:
    merged: dict[Any, Any] = {_hashable(item[key]): item for item in left}
    for item in named:
        name = _hashable(item[key])
        here = place.item(item_named(key, item[key]))
        merged[name] = _mapping(merged[name], item, here) if name in merged else _plain(item, here)
    return merged


def _in_order(
    there: Sequence[Any], merged: Mapping[Any, Any], named: Iterable[Mapping[str, Any]], key: str
) -> list[Any]:
    """Return the items: those of the part in its order, and each of the others before the first that it stood before."""
    places = {_hashable(name): position for position, name in enumerate(there)}
    given = list(dict.fromkeys(_hashable(item[key]) for item in named))
    others = [name for name in places if name not in given]
    ordered: list[Any] = []
    for name in given:
        while others and places[others[0]] < places.get(name, -1):
            ordered.append(others.pop(0))
        ordered.append(name)
    return [merged[name] for name in (*ordered, *others)]


def _hashable(name: Any) -> Any:
    """Return a name as a key of a dict, whatever the user wrote there; the API server refuses what is no name."""
    return name if isinstance(name, str | int | float) else repr(name)


# --- What is taken as it is ------------------------------------------------------------------------------------------


def _plain(value: Any, place: Place) -> Any:
    """Return a value that has nothing to be merged with: what would remove something is left out."""
    if isinstance(value, Mapping):
        for name in value:
            _refuse_directive(name, place)
        if DIRECTIVE in value:
            raise MergeRefusedError(
                (*place.path, DIRECTIVE), f"there is nothing here to {value[DIRECTIVE]}; leave this out"
            )
        return {
            name: _plain(inner, place.field(name))
            for name, inner in value.items()
            if inner is not None and not _is_removal(inner) and name != RETAIN
        }
    if isinstance(value, list):
        return [
            _plain(item, place.item(position))
            for position, item in enumerate(value)
            if not _is_directive(item)
        ]
    return value


def _is_removal(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(DIRECTIVE) == DELETE


def _is_directive(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get(DIRECTIVE) in (REPLACE, DELETE)


def _refuse_directive(name: str, place: Place) -> None:
    if name.startswith("$") and name not in (DIRECTIVE, RETAIN):
        # $setElementOrder and $deleteFromPrimitiveList are what kubectl apply computes, and nobody writes; a list
        # without names is replaced as a whole anyway.
        raise MergeRefusedError(
            (*place.path, name),
            "is not supported; there are $patch and $retainKeys, and a null removes a field",
        )


def _unknown_directive(given: Any, place: Place) -> MergeRefusedError:
    return MergeRefusedError((*place.path, DIRECTIVE), f"must be replace or delete, not {given}")
