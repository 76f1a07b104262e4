"""Reports the outcomes of occurrences, after they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pyncette.core.accounting import RemovedCounts, ended_by
from pyncette.core.record import Change, Outcome
from pyncette.core.runs import RETURNED, Completion, StartPlan

OnEnded = Callable[[str, str, Outcome, int], None]
"""Takes the realm and the name of a task, an outcome, and how many of its occurrences have ended with it."""


class Outcomes:
    """The reports of one ledger, to its listener if it has one."""

    def __init__(self) -> None:
        self.listener: OnEnded | None = None

    def completed(self, completions: Iterable[Completion]) -> None:
        """Report the occurrences that ended with runs."""
        if self.listener is None:
            return
        succeeded: dict[tuple[str, str], int] = {}
        others: list[Completion] = []
        for item in completions:
            change = item.change
            # Nearly all have succeeded and dropped nothing, so they add no further rows of history.
            if (
                item.ended is RETURNED
                and change is not None
                and (before := change.before) is not None
                and (after := change.after) is not None
                and after.state.summary.rows == before.state.summary.rows
            ):
                of = before.key.partition.realm, before.key.task
                succeeded[of] = succeeded.get(of, 0) + 1
            else:
                others.append(item)
        for (realm, task), number in succeeded.items():
            self.listener(realm, task, Outcome.SUCCEEDED, number)
        self.ended((item.changes, item.removed_counts) for item in others)

    def begun(self, plans: Iterable[StartPlan]) -> None:
        """Report the occurrences that ended with a claim: those that were dropped, and those whose worker died."""
        self.ended((plan.changes, plan.removed_counts) for plan in plans)

    def ended(self, written: Iterable[tuple[Sequence[Change], RemovedCounts | None]]) -> None:
        """Report the occurrences that ended with changes; those of one write are of one task."""
        if self.listener is None:
            return
        totals: dict[tuple[str, str, Outcome], int] = {}
        for changes, removed_counts in written:
            for outcome, number in ended_by(changes, removed_counts).items():
                key = changes[0].key
                of = key.partition.realm, key.task, outcome
                totals[of] = totals.get(of, 0) + number
        for (realm, task, outcome), number in totals.items():
            self.listener(realm, task, outcome, number)
