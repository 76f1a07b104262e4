"""Writes the conditions of a status: with the time of their last transition, and as long as the schema lets them be."""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

from pyncette.clock import Instant
from pyncette.controller.reasons import Reason
from pyncette.core.printable import one_line
from pyncette.core.times import datetime_of
from pyncette.resources.modelling import whole_second
from pyncette.resources.pool import PoolStatus
from pyncette.resources.resource import AWAITED, CONDITION_CHARACTERS_MAX, Condition
from pyncette.resources.task_status import TaskStatus

READY: Final = "Ready"
RECONCILING: Final = "Reconciling"
STALLED: Final = "Stalled"

Holds: TypeAlias = Literal["True", "False", "Unknown"]


def condition_of(status: TaskStatus | PoolStatus, kind: str) -> Condition | None:
    """Return the condition of a type; None: the status has none, or only the one that the schema gives to a new object."""
    return next((item for item in status.conditions if item.type == kind and item != AWAITED), None)


def condition(
    before: Condition | None,
    kind: str,
    holds: Holds,
    reason: Reason,
    message: str,
    *,
    generation: int,
    now: Instant,
    anew: bool = False,
) -> Condition:
    """
    Return a condition of *generation* that was *before*.

    It keeps the time of its last transition while its status is the same, unless *anew* is true. Otherwise that time is
    *now*. The message may quote text from tenants, so it is made printable.
    """
    stays = before is not None and before.status == holds and not anew
    return Condition(
        type=kind,
        status=holds,
        reason=reason.value,
        message=cut(one_line(message), CONDITION_CHARACTERS_MAX),
        last_transition_time=before.last_transition_time
        if before is not None and stays
        else datetime_of(whole_second(now)),
        observed_generation=generation,
    )


def as_sentence(text: str) -> str:
    """Return *text* with exactly one closing mark: errors of other programs, and questions, may have one already."""
    text = text.rstrip(". ") if text.endswith(("..", " ")) else text
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def counted(number: int, noun: str) -> str:
    """Return *number* and *noun*, in the plural unless the number is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def cut(text: str, limit: int) -> str:
    """Return *text* with at most *limit* characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def too_many_records(backend: str) -> str:
    """Return the message for a namespace whose records on *backend* exceed the memory budget."""
    return (
        f'The records of this namespace on the backend "{backend}" exceed recordMebibytesPerNamespace in the operator\'s '
        "settings, or all records of the backend exceed recordMebibytesPerBackend, or the records of all backends exceed "
        "recordMebibytes. Some are not read, and no task of the namespace is reconciled there; due occurrences run. Remove the "
        "records that no task needs, or have the setting raised."
    )


class Seen(Protocol):
    """A status as it was written last, and the generation of the object now."""

    @property
    def generation(self) -> int: ...

    @property
    def status(self) -> TaskStatus | PoolStatus: ...


class StatusContext:
    """What the conditions of a task's and of a pool's status have in common: the status that was *seen*, and the time."""

    seen: Seen

    @property
    def now(self) -> Instant:
        raise NotImplementedError

    def before(self, kind: str) -> Condition | None:
        """Return the last written condition."""
        return condition_of(self.seen.status, kind)

    def this_generation(self, kind: str) -> Condition | None:
        """Return the last written condition, if it was of this generation."""
        before = self.before(kind)
        return before if before is not None and before.observed_generation == self.seen.generation else None

    def condition(
        self, kind: str, holds: Holds, reason: Reason, message: str, *, anew: bool = False
    ) -> Condition:
        """Return a condition that keeps the time of its last transition while its status stays, unless it is *anew*."""
        return condition(
            self.before(kind),
            kind,
            holds,
            reason,
            message,
            generation=self.seen.generation,
            now=self.now,
            anew=anew,
        )
