"""Says whether a status has to be written, and how urgent that is."""

from __future__ import annotations

from enum import IntEnum

from pyncette.controller.api import Manifest
from pyncette.resources.task import TaskStatus


class Difference(IntEnum):
    """How two statuses differ, by the most urgent of their differences: the greater, the sooner it is written."""

    NONE = 0
    REST = 1
    """Times to come, and how much runs."""
    OUTCOMES = 2
    """How runs went, what was handled, and what a condition says in its message."""
    CONDITIONS = 3
    """The status or the reason of a condition."""
    GENERATION = 4
    """Another generation of the spec."""


def differs(stored: Manifest, wanted: TaskStatus) -> Difference:
    """Compare the status that the API server holds with the one it should; empty if it has none."""
    raise NotImplementedError
