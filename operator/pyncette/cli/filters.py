"""Which tasks and instances a list shows: those in some states, and with some prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pyncette.cli.survey import Phase, View
from pyncette.clock import Instant


class Filter(NamedTuple):
    """What a list shows of what there is."""

    states: frozenset[str] = frozenset()
    """Names of `STATES`, of which a task needs one; empty: any."""
    prefix: str = ""
    """The beginning of the name: of an instance, or of a task if tasks are listed."""

    def admits(self, view: View, now: Instant) -> bool:
        """Return whether *view* is in one of the states."""
        return not self.states or any(STATES[state](view, now) for state in self.states)


def _is_due(view: View, now: Instant) -> bool:
    """Return whether an occurrence waits for a worker. A retry that has to wait first is not due."""
    if view.instances is not None:
        return view.instances.due > 0
    at = view.next_at if view.retry_at is None else view.retry_at
    return not view.running and at is not None and at <= now


def _is_failing(view: View, _: Instant) -> bool:
    return view.summary.consecutive_failures > 0 or view.phase in {Phase.RETRYING, Phase.EXHAUSTED}


def _in_phase(phase: Phase) -> Callable[[View, Instant], bool]:
    return lambda view, _: view.phase is phase


STATES: Final[dict[str, Callable[[View, Instant], bool]]] = {
    "due": _is_due,
    "failing": _is_failing,
    **{phase.value: _in_phase(phase) for phase in Phase},
}
"""The states to filter by: *due* waits for a worker, *failing* failed last or is being retried, the others are phases."""
