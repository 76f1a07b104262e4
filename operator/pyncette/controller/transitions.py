"""Makes Events of what changed between two statuses of a task: of transitions alone, and few of those."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.controller.api import Manifest
from pyncette.resources.task import TaskStatus


class Regarding(NamedTuple):
    """The object that Events are about."""

    namespace: str
    name: str
    uid: str


def events_of(
    regarding: Regarding, before: TaskStatus, after: TaskStatus, now: Instant, instance: str = ""
) -> list[Manifest]:
    """Return the Events of a status that was written: *before* became *after*; *instance* is the operator's pod."""
    raise NotImplementedError
