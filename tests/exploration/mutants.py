"""The behaviour of before each fix, put back: what the exploration has to find."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from pyncette.clock import Instant
from pyncette.core import edits
from pyncette.core.record import Change, Record, Started, replace
from pyncette.core.runs import Completion, HeldRun
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Spec
from pyncette.errors import StoreError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart, Starts

from . import calls
from .combination import Combination, Edit
from .search import Found, Search

_rescheduled = edits.rescheduled


class Mutant(NamedTuple):
    """A behaviour of before, and where to look for it."""

    name: str
    says: str
    """What the oracle says of it."""
    combination: Combination
    faults: int
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext
    ledger: type[Ledger] = Ledger
    looks_for_ends: bool = True

    def explored(self) -> Found:
        """Explore with this behaviour in the place of today's."""
        with self.patched():
            search = Search(
                self.combination, self.faults, ledger=self.ledger, looks_for_ends=self.looks_for_ends
            )
            return search.explore()


def _reaching_back(record: Record, spec: Spec, policies: Policies, now: Instant) -> Record | edits.Locked:
    """Count the new schedule from just before the time that was kept."""
    after = _rescheduled(record, spec, policies, now)
    if isinstance(after, edits.Locked) or after.due_at is None or after.due_at != record.due_at:
        return after
    return replace(after, schedule_since=min(after.schedule_since, after.due_at - 1))


def _without_floor(record: Record, started: Started | None, now: Instant) -> Instant:
    """Count an edit from now, whatever has completed at a time that is still to come by the editor's clock."""
    now = max(now, record.schedule_since)
    return now if started is None else max(now, started.scheduled_at)


class DeadLettersFirst(Ledger):
    """Writes dead letters in a swap of their own, before it is known whether the completion is ours to write."""

    async def _write_ends(self, completions: Collection[Completion]) -> list[bool]:
        dead_letters = [one for item in completions if (one := item.created) is not None]
        await self._batches.swap([Change(None, dead_letter) for dead_letter in dead_letters])
        return await super()._write_ends([replace(item, created=None) for item in completions])


class FailingTogether(Starts):
    """Runs nothing of a batch once one request of its start gets no answer."""

    async def start(self, claimed: Sequence[PendingStart]) -> Any:
        found: dict[int, HeldRun | None] = {}
        try:
            async for decided in super().start(claimed):
                found |= decided
        except StoreError:
            return
        yield found

    async def try_once(self, todo: Mapping[int, PendingStart], refused: Any) -> Any:
        decided, undecided = await super().try_once(todo, refused)
        if any(isinstance(one.failure, StoreUnavailableError) for one in undecided.values()):
            raise StoreUnavailableError("a start was not answered")
        return decided, undecided

    async def start_again(self, undecided: Any) -> Any:
        decided, todo, unknown = await super().start_again(undecided)
        if unknown:
            raise StoreUnavailableError("a record could not be loaded again")
        return decided, todo, unknown


class StartsFailTogether(Ledger):
    """Has starts that fail together."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._starts = FailingTogether(
            self._batches, self._writes, self.clock, self._time, self._announcements, self._outcomes
        )


def _combination(mode: Mode, edit: Edit, **more: Any) -> Combination:
    common = {"overlap": Overlap.FORBID, "missed": Missed.ALL, "exhausted": Exhaustion.CONTINUE}
    return Combination(mode=mode, edit=edit, **{**common, **more})


MUTANTS: Final = [
    Mutant(
        "an edit reaches back (defect 1)",
        "reached back",
        _combination(Mode.AT_LEAST_ONCE, Edit.RESCHEDULED, occurrences=2),
        0,
        lambda: patch.object(edits, "rescheduled", _reaching_back),
    ),
    Mutant(
        "an edit repeats what has run, at most once (defect 2)",
        "is started",
        _combination(Mode.AT_MOST_ONCE, Edit.TIGHTER, occurrences=1),
        0,
        lambda: patch.object(edits, "_effective_from", _without_floor),
    ),
    Mutant(
        "an edit repeats what has completed (defect 2)",
        "after it was completed",
        _combination(Mode.AT_LEAST_ONCE, Edit.FORCED, occurrences=1),
        0,
        lambda: patch.object(edits, "_effective_from", _without_floor),
    ),
    Mutant(
        "a run starts with any lease that is left (defect 5)",
        "lease was used up",
        _combination(Mode.AT_LEAST_ONCE, Edit.NONE, occurrences=2),
        1,
        lambda: patch.object(calls, "START_SHARE", 10**9),
        looks_for_ends=False,
    ),
    Mutant(
        "a dead letter is left of what has succeeded (defect 8)",
        "dead letters",
        _combination(Mode.AT_LEAST_ONCE, Edit.NONE, occurrences=1, exhausted=Exhaustion.DEAD_LETTER),
        1,
        ledger=DeadLettersFirst,
    ),
    Mutant(
        "an unknown start loses its occurrence (defect 9)",
        "is lost, although no worker died",
        _combination(Mode.AT_MOST_ONCE, Edit.NONE, occurrences=1),
        1,
        ledger=StartsFailTogether,
    ),
    Mutant(
        "an edit of one record loses the start of another (defect 9)",
        "is lost, although no worker died",
        _combination(Mode.AT_MOST_ONCE, Edit.ARGUMENTS, occurrences=1, records=2),
        1,
        ledger=StartsFailTogether,
    ),
]
