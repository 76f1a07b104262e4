"""What is explored: the policies of a schedule, the one edit, how many records, and whose clocks are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import product
from typing import Any, Final, NamedTuple, cast

import msgspec

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core import edits
from pyncette.core.record import Change, Key, Partition, Record, State, replace
from pyncette.core.schedule import Cron, Interval, Schedule, first_after
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Retry, Spec
from pyncette.ledger.ledger import Rule, Ruling

from .values import TICK

BASE: Final[Instant] = 1_700_000_000 * SECOND
"""When the records were created."""

PERIOD: Final[Duration] = 2 * TICK
FIRST: Final[Instant] = BASE + PERIOD
SKEW: Final[Duration] = SECOND
"""By so much a clock that is wrong is ahead or behind."""

LEASE: Final[Duration] = PERIOD
BACKOFF: Final[Duration] = TICK

PARTITION: Final = Partition("", "h")

OLD: Final = Cron("* * * * * */10")
"""Due at `FIRST` and each period after it."""

TIGHTER: Final = Cron("* * * * * */5")
SHIFTED: Final = Cron("* * * * * 5-59/10")
ALIKE: Final = Cron("* * * * * 0,10,20,30,40,50")
"""Another expression that is due at the same times."""


class Edit(Enum):
    """What the editor does, once."""

    NONE = "none"
    TIGHTER = "tighter schedule"
    RESCHEDULED = "rescheduled without force"
    REPLACED = "rescheduled without force, replacing the next time"
    INTERVAL = "rescheduled to an interval without force"
    FORCED = "rescheduled by force"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"
    ARGUMENTS = "other arguments"


class Clocks(Enum):
    """How far the clocks of both workers are ahead. That of the editor is anything: before, at, between and after them."""

    EQUAL = (0, 0)
    APART = (0, 2 * SKEW)


class Combination(NamedTuple):
    """One point of the product."""

    mode: Mode
    overlap: Overlap
    missed: Missed
    exhausted: Exhaustion
    edit: Edit
    clocks: Clocks = Clocks.EQUAL
    records: int = 1
    occurrences: int = 3
    """How many times are due."""

    @property
    def last(self) -> Instant:
        """The last of them."""
        return BASE + self.occurrences * PERIOD

    def __str__(self) -> str:
        return ", ".join(
            [
                *(value.value for value in (self.mode, self.overlap, self.missed, self.exhausted, self.edit)),
                self.clocks.name.lower(),
                f"{self.records} record{'s' * (self.records > 1)}",
                f"{self.occurrences} occurrence{'s' * (self.occurrences > 1)}",
            ]
        )

    @property
    def policies(self) -> Policies:
        """The policies that the records begin with."""
        return Policies(
            mode=self.mode,
            overlap=self.overlap,
            missed=self.missed,
            max_catch_up=2,
            retry=Retry(max_attempts=2, initial=BACKOFF, maximum=BACKOFF, jitter=False),
            exhausted=self.exhausted,
            lease=LEASE,
            suspend=self.edit is Edit.RESUMED,
        )

    @property
    def keys(self) -> list[Key]:
        return [Key(PARTITION, f"task{number}") for number in range(self.records)]

    def initial(self) -> list[Record]:
        """The records as they are at first."""
        return [self._created(key) for key in self.keys]

    def _created(self, key: Key) -> Record:
        policies = self.policies
        record = edits.created(key, Spec(OLD, policies=policies), policies, BASE)
        return replace(record, version=1, fence=1, state=State(created_version=1))

    def editors_offsets(self, now: Instant) -> Sequence[Duration]:
        """
        One for each order of the editor's clock, the workers', and what is due about *now*.

        Where nothing is due, it does not matter by how much a clock is wrong.
        """
        offsets = [-SKEW, 0, SKEW] if self.clocks is Clocks.EQUAL else [-SKEW, 0, SKEW, 2 * SKEW, 3 * SKEW]
        soonest = now + offsets[0]
        for schedule in (OLD, self.schedule_after):
            due = first_after(schedule, soonest - 1, BASE)
            if due is not None and due <= now + offsets[-1]:
                return offsets
        return (0,)

    def rule(self) -> Rule:
        """What the edit makes of the first record."""
        edit = self.edit
        policies = replace(self.policies, suspend=edit is Edit.SUSPENDED)
        args = msgspec.Raw(b'{"a":1}') if edit is Edit.ARGUMENTS else msgspec.Raw(b"{}")
        spec = Spec(_schedule_after(edit), args, policies)

        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None:
                return Ruling(None)
            after = _MADE[edit](record, spec, policies, now)
            if isinstance(after, edits.Locked):
                return Ruling(None)
            return Ruling(Change(record, after))

        return rule

    @property
    def schedule_after(self) -> Schedule:
        """The schedule once it is edited."""
        return _schedule_after(self.edit)


def _schedule_after(edit: Edit) -> Schedule:
    return _SCHEDULES.get(edit, OLD)


_SCHEDULES: Final[dict[Edit, Schedule]] = {
    Edit.TIGHTER: TIGHTER,
    Edit.RESCHEDULED: SHIFTED,
    Edit.REPLACED: SHIFTED,
    Edit.INTERVAL: Interval(PERIOD),
    Edit.FORCED: ALIKE,
}


def _edited(record: Record, spec: Spec, policies: Policies, now: Instant) -> Record:
    return edits.edited(record, spec, policies, now)


def _rescheduled(record: Record, spec: Spec, policies: Policies, now: Instant) -> Record | edits.Locked:
    return edits.rescheduled(record, spec, policies, now)


def _replaced(record: Record, spec: Spec, policies: Policies, now: Instant) -> Record | edits.Locked:
    return edits.rescheduled(record, spec, policies, now, keep_sooner=False)


_MADE: Final[dict[Edit, Callable[[Record, Spec, Policies, Instant], Any]]] = {
    Edit.TIGHTER: _edited,
    Edit.RESCHEDULED: _rescheduled,
    Edit.REPLACED: _replaced,
    Edit.INTERVAL: _rescheduled,
    Edit.FORCED: edits.overwritten,
    Edit.SUSPENDED: _edited,
    Edit.RESUMED: _edited,
    Edit.STOPPED: lambda record, spec, policies, now: edits.stopped(record, policies, now),
    Edit.ARGUMENTS: _edited,
}


class Depth(NamedTuple):
    """How far the histories of a combination go."""

    faults: int
    occurrences: int


DEPTHS: Final = (Depth(0, 3), Depth(1, 2), Depth(2, 1))
"""More faults among fewer occurrences: many of both are more states than anybody can wait for."""


def depths_of(combination: Combination) -> Sequence[Depth]:
    """Return how deep *combination* is explored. Where two run side by side, there are many more orders."""
    if combination.records > 1:
        return (Depth(1, 1),)
    if combination.overlap is Overlap.ALLOW:
        return (Depth(0, 2), Depth(1, 1)) if combination.clocks is Clocks.EQUAL else (Depth(1, 1),)
    return DEPTHS


DIMENSIONS: Final[Sequence[type[Enum]]] = (Mode, Overlap, Missed, Exhaustion, Edit, Clocks)


def all_combinations() -> Iterator[Combination]:
    """Yield the full product, of one record and of two."""
    for records in (1, 2):
        for values in product(*DIMENSIONS):
            combination = Combination(*cast("tuple[Any, ...]", values), records=records)
            if _is_of_interest(combination):
                yield combination


def _is_of_interest(combination: Combination) -> bool:
    """Two records are there for what one batch does to its neighbours, and not for runs side by side."""
    return combination.records == 1 or combination.overlap is not Overlap.ALLOW


def pairwise() -> list[Combination]:
    """Return few combinations in which every two values of two dimensions meet, if they ever do."""
    everything = [combination[:7] for combination in all_combinations()]
    missing = set[tuple[int, Any, int, Any]]().union(*map(_pairs, everything))
    chosen: list[Combination] = []
    while missing:
        best, covers = max(
            ((values, _pairs(values) & missing) for values in everything), key=lambda found: len(found[1])
        )
        chosen.append(Combination(*cast("tuple[Any, ...]", best)))
        missing -= covers
    return chosen


def _pairs(values: Sequence[Any]) -> set[tuple[int, Any, int, Any]]:
    return {(i, a, j, b) for i, a in enumerate(values) for j, b in enumerate(values) if i < j}
