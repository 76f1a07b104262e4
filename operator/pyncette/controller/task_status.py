"""Decides what the status of a PyncetteTask says, from what is known of its spec, its pool and its record."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.controller.facts import PoolFacts, TaskFacts
from pyncette.resources.reading import Refusal
from pyncette.resources.task import PyncetteTask, TaskStatus


class Stored(NamedTuple):
    """A PyncetteTask as the API server holds it, but for its spec."""

    uid: str
    generation: int
    status: TaskStatus = TaskStatus()
    """As it was written last; that of the schema if it cannot be read."""
    deleting: bool = False
    """It has a deletionTimestamp, and somebody's finalizer keeps it for now."""


class Told(NamedTuple):
    """What the status is to be, and when it is to be worked out again."""

    status: TaskStatus
    again_at: Instant | None = None
    """When it changes by itself, without any event; None: never."""


def status_of_task(task: PyncetteTask | Refusal, seen: Stored, pool: PoolFacts, facts: TaskFacts) -> Told:
    """Return what the status of *task* is to be; the same whenever the same is known."""
    raise NotImplementedError
