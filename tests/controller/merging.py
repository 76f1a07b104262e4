"""Server-side apply, as far as a controller can tell: what one manager no longer says goes, what others said stays."""

from copy import deepcopy
from typing import Any

KEYS = ("type", "name", "containerPort", "topologyKey")
"""What tells the items of a list apart, where all of them have it; a list without one is replaced as a whole."""


def applied(stored: Any, before: Any, after: Any) -> Any:
    """Return *stored*, once its manager applies *after*, having last applied *before*."""
    if isinstance(after, dict) and isinstance(stored, dict):
        return _applied_object(stored, before if isinstance(before, dict) else {}, after)
    key = _key_of(stored, after) if isinstance(after, list) and isinstance(stored, list) else None
    if key is not None:
        return _applied_list(stored, before if isinstance(before, list) else [], after, key)
    return deepcopy(after)


def _applied_object(stored: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    merged = {
        name: _without(value, before[name]) if name in before and name not in after else value
        for name, value in stored.items()
    }
    merged = {name: value for name, value in merged.items() if value is not GONE}
    for name, value in after.items():
        merged[name] = applied(merged[name], before.get(name), value) if name in merged else deepcopy(value)
    return merged


def _applied_list(stored: list[Any], before: list[Any], after: list[Any], key: str) -> list[Any]:
    earlier = {item[key]: item for item in before if isinstance(item, dict) and key in item}
    wanted = {item[key]: item for item in after}
    kept = []
    for item in stored:
        name = item[key]
        if name in wanted:
            kept.append(applied(item, earlier.get(name), wanted.pop(name)))
        elif (left := _without(item, earlier[name]) if name in earlier else item) is not GONE:
            kept.append(left)
    return [*kept, *map(deepcopy, wanted.values())]


def _without(stored: Any, before: Any) -> Any:
    """Return what is left of *stored* for others when its manager no longer says *before* of it, or GONE."""
    if not (isinstance(stored, dict) and isinstance(before, dict)):
        return GONE
    left = {}
    for name, value in stored.items():
        rest = _without(value, before[name]) if name in before else value
        if rest is not GONE:
            left[name] = rest
    return left or GONE


def _key_of(*lists: list[Any]) -> str | None:
    items = [item for items in lists for item in items]
    return next(
        (key for key in KEYS if items and all(isinstance(item, dict) and key in item for item in items)), None
    )


GONE = object()
