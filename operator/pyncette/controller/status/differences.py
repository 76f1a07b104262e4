"""Says whether a status has to be written, and how urgent that is."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from pyncette.controller.cluster.api import Manifest
from pyncette.resources.modelling import Model
from pyncette.resources.pool import PoolStatus
from pyncette.resources.resource import Condition
from pyncette.resources.task_status import Location, TaskStatus

S = TypeVar("S", bound=Model)


class Difference(IntEnum):
    """How two statuses differ, by the most urgent of their differences: the greater, the sooner it is written."""

    NONE = 0
    REST = 1
    """Times to come, and how much runs."""
    OUTCOMES = 2
    """How runs went, and what a condition says in its message."""
    CONDITIONS = 3
    """The status or the reason of a condition, or the locations, without which no record can move."""
    POOL_GONE = 4
    """The same, since the pool was deleted, as its reconciler finds. It concerns all tasks of the pool at once."""
    REQUESTS = 5
    """A request by annotation was handled; or, as the reconciler finds, the requested run has ended."""
    GENERATION = 6
    """Another generation of the spec."""


OUTCOMES: Final[dict[type[Model], tuple[str, ...]]] = {
    TaskStatus: (
        "last_schedule_time",
        "last_successful_time",
        "last_failure_time",
        "last_run",
        "consecutive_failures",
        "run_counts",
    ),
    # What a pool consists of, which autoscalers read.
    PoolStatus: ("realm", "replicas", "ready_replicas", "selector", "handlers"),
}
"""Fields that tell what came out."""

REQUESTS: Final = (
    "last_handled_run_request",
    "last_handled_resume_request",
    "last_handled_redrive_request",
)
"""Fields that acknowledge requests by annotation."""


def differs(stored: Manifest, wanted: TaskStatus | PoolStatus) -> Difference:
    """
    Compare the status that the API server holds, *stored* (empty if it has none), with the one *wanted*.

    It is their meaning that is compared: a null and a default that was left out are the same, the order of conditions
    is nothing, and instants are equal if they are to the microsecond. What a later release wrote, and this one does not
    know, is no difference; what it cannot read at all is the greatest one, since everything has to be written.
    """
    before = read_status(stored, type(wanted))
    if before is None or before.observed_generation != wanted.observed_generation:
        return Difference.GENERATION
    if isinstance(before, TaskStatus) and any(
        getattr(before, name) != getattr(wanted, name) for name in REQUESTS
    ):
        return Difference.REQUESTS
    if _judgements(before) != _judgements(wanted) or _locations(before) != _locations(wanted):
        return Difference.CONDITIONS
    if _by_type(before) != _by_type(wanted) or any(
        getattr(before, name) != getattr(wanted, name) for name in OUTCOMES[type(wanted)]
    ):
        return Difference.OUTCOMES
    alike = before.model_copy(update={"conditions": wanted.conditions})
    return Difference.NONE if alike == wanted else Difference.REST


def read_status(stored: Manifest, model: type[S]) -> S | None:
    """Return the status that the API server holds; None if this release cannot read it."""
    try:
        return model.model_validate(dict(stored), extra="ignore", by_alias=True, by_name=False)
    except ValidationError:
        return None


def _judgements(status: TaskStatus | PoolStatus) -> dict[str, tuple[Any, ...]]:
    """Return what conditions say to programs. Messages are left out: that of a failing task may be another each minute."""
    return {
        item.type: (item.status, item.reason, item.last_transition_time, item.observed_generation)
        for item in status.conditions
    }


def _locations(status: TaskStatus | PoolStatus) -> tuple[Location, ...]:
    return status.locations if isinstance(status, TaskStatus) else ()


def _by_type(status: TaskStatus | PoolStatus) -> dict[str, Condition]:
    return {item.type: item for item in status.conditions}
