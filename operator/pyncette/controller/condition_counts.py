"""Counts tasks by what their conditions say, and keeps the count current as single statuses change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from pyncette.controller.api import ObjectName

_Said: TypeAlias = tuple[tuple[str, str], ...]
"""Types and statuses of the conditions of one task."""

_NOTHING: Final[_Said] = ()


class ConditionCounts:
    """
    How many tasks have which condition with which status.

    *counted* is called with a type, a status and the number of such tasks whenever that is another.
    """

    def __init__(self, counted: Callable[[str, str, int], None]) -> None:
        self._counted = counted
        self._said: dict[ObjectName, _Said] = {}
        self._shared: dict[_Said, _Said] = {}
        """Equal values once: ten thousand tasks say the same few things."""
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, task: ObjectName, status: bytes | None) -> None:
        """Take note of the status of *task*, as JSON; None: the task is gone."""
        said = _NOTHING if status is None else _conditions_in(status)
        before = self._said.get(task, _NOTHING)
        if said == before:
            return
        if said:
            self._said[task] = self._shared.setdefault(said, said)
        else:
            self._said.pop(task, None)
        for pair in {*before} ^ {*said}:
            self._counts[pair] += 1 if pair in said else -1
            self._counted(*pair, self._counts[pair])

    def is_true(self, task: ObjectName, condition: str) -> bool:
        """Say whether *task* has *condition* with the status True."""
        return (condition, "True") in self._said.get(task, _NOTHING)


class _Condition(msgspec.Struct, gc=False):
    type: str
    status: str


class _Status(msgspec.Struct, gc=False):
    conditions: list[_Condition] = []


_decode = msgspec.json.Decoder(_Status).decode


def _conditions_in(status: bytes) -> _Said:
    """Return the conditions of *status*: none if this release cannot make anything of it."""
    try:
        return tuple((one.type, one.status) for one in _decode(status).conditions)
    except msgspec.DecodeError:
        return _NOTHING
