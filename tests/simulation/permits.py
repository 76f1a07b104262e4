"""Counts what runs at once of a task that has a limit on all workers together."""

from __future__ import annotations

from collections.abc import Callable

from pyncette.clock import Duration
from pyncette.core.record import Key

from .calls import Call, Calls, How
from .loop import Being, Process
from .network import Request
from .scene import Lens, Scene


class PermitsInUse(Lens):
    """*slack* says by how much the clocks of two processes may differ; None: by anything."""

    def __init__(
        self, scene: Scene, calls: Calls, slack: Callable[[Process, Process], Duration | None]
    ) -> None:
        super().__init__(scene)
        self._calls = calls
        self._slack = slack
        self._shared: list[Call] = []
        """Calls whose permits were taken over after a step of the clock, although they run."""
        self._heard_at: dict[Process, int] = {}
        """When each process had last heard from the backend as it last asked for a permit."""

    def requested(self, request: Request) -> None:
        """A request about permits was carried out."""
        if request.verb == "claim":
            self._heard_at[request.process] = request.heard_at

    def _is_unaware(self, process: Process) -> bool:
        """Say whether the clock has gone back since *process* heard from the backend, before it asked for its permit."""
        heard_at = self._heard_at.get(process, 0)
        return any(by < 0 and at > heard_at for at, by in self.scene.steps)

    def began(self, call: Call) -> None:
        """A handler is called: of its task no more run than the limit says, of those whose permits are theirs."""
        if not limit_of(call):
            return
        own = permit_of(call)
        if own is None:
            self.broken(f"{call.key} is started without a permit")
            return
        running = [
            other for other in self._calls.running() if other is not call and task_of(other) == task_of(call)
        ]
        # A worker that started after a step of the clock does not know of it, and takes a permit that only looks free. Both
        # have one permit then. A third worker may get it from the second.
        self._shared += [
            other
            for other in running
            if permit_of(other) == own and self._slack(other.process, call.process) is None
        ]
        others = [other for other in running if self._believes(other, call)]
        names = [f"{other.key} on {other.process}" for other in others]
        for other in others:
            is_shared = any(other is shared for shared in self._shared) or self._is_unaware(call.process)
            if permit_of(other) == own and not is_shared:
                self.broken(f"{call.key} is started with the permit that {other.key} on {other.process} has")
        taken = {permit_of(other) for other in others} - {own}
        limits = {limit_of(each) for each in (call, *others)}
        # What runs since before the limit was lowered, or set, runs on.
        if 0 not in limits and len(taken) >= max(limits):
            self.broken(f"{call.key} is started beside {names}, and no more than {max(limits)} may run")

    def _believes(self, other: Call, call: Call) -> bool:
        """Say whether *other* has reason to think that its permit is its own."""
        permit = other.occurrence.permit
        slack = self._slack(other.process, call.process)
        if (
            permit is None
            or slack is None
            or other.process.being is Being.GONE
            or other.how is not How.RUNNING
        ):
            return False
        return permit.remaining() > slack


def task_of(call: Call) -> tuple[str, str]:
    return call.key.partition.handler, call.key.task


def permit_of(call: Call) -> Key | None:
    permit = call.occurrence.permit
    return None if permit is None else permit.record.key


def limit_of(call: Call) -> int:
    """How many may run at once: that of the handler goes before that of a schedule."""
    occurrence = call.occurrence
    return occurrence.registration.policies.max_concurrent or call.policies.max_concurrent
