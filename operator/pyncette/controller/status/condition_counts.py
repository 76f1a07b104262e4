"""Counts tasks by their conditions, and keeps the counts current as statuses change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from pyncette.controller.cluster.api import ObjectName

_Conditions: TypeAlias = tuple[tuple[str, str], ...]
"""Types and statuses of the conditions of one task."""

_NOTHING: Final[_Conditions] = ()


class ConditionCounts:
    """
    The number of tasks by type and status of their conditions.

    *counted* is called with a type, a status and the number of such tasks whenever that number changes.
    """

    def __init__(self, counted: Callable[[str, str, int], None]) -> None:
        self._counted = counted
        self._conditions: dict[ObjectName, _Conditions] = {}
        self._shared: dict[_Conditions, _Conditions] = {}
        """Interned values: ten thousand tasks have the same few combinations."""
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, task: ObjectName, status: bytes | None) -> None:
        """Record the status of *task*, as JSON; None if the task is gone."""
        after = _NOTHING if status is None else _conditions_in(status)
        before = self._conditions.get(task, _NOTHING)
        if after == before:
            return
        if after:
            self._conditions[task] = self._shared.setdefault(after, after)
        else:
            self._conditions.pop(task, None)
        for pair in {*before} ^ {*after}:
            self._counts[pair] += 1 if pair in after else -1
            self._counted(*pair, self._counts[pair])

    def is_true(self, task: ObjectName, condition: str) -> bool:
        """Return whether *task* has *condition* with the status True."""
        return (condition, "True") in self._conditions.get(task, _NOTHING)


class _Condition(msgspec.Struct, gc=False):
    type: str
    status: str


class _Status(msgspec.Struct, gc=False):
    conditions: list[_Condition] = []


_decode = msgspec.json.Decoder(_Status).decode


def _conditions_in(status: bytes) -> _Conditions:
    """Return the conditions of *status*; none if this release cannot decode it."""
    try:
        return tuple((one.type, one.status) for one in _decode(status).conditions)
    except msgspec.DecodeError:
        return _NOTHING
