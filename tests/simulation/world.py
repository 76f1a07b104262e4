"""Where a history takes place: one loop, one backend, one network, and whoever is connected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from pyncette.clock import UNAWARE_MAX, Clock, Duration, Instant, SystemClock
from pyncette.core.record import Record
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.store.memory import MemoryBackend

from .journal import EPOCH, Journal
from .loop import SECOND, Process, SimulatedLoop
from .network import TIMEOUT, Network, RemoteStore
from .oracle import Oracle
from .scenario import Scenario, scenario
from .scene import Scene
from .servers import Server

KNOWN_FOR: Final = 5 * SECOND
"""For so long a process may go by the last that it heard of the backend's time; before it decides later than that, it asks."""


@dataclass
class Member:
    """A process that uses the store, and what is known of it."""

    process: Process
    store: RemoteStore
    clock: SystemClock
    ledger: Ledger
    misled: Duration
    """By how much it is told the wrong time."""
    knows_since: int | None = None
    """When it first learned the backend's time."""


class World:
    """All that the actors of one history share, on what is tested: see `History`."""

    def __init__(
        self,
        seed: int,
        open_store: Callable[[MemoryBackend], Store],
        ledger: type[Ledger],
        clock: type[SystemClock],
        server: type[Server],
        adapt: Callable[[Scenario], Scenario],
    ) -> None:
        self.random = Random(seed)
        self.loop = SimulatedLoop(self.random)
        self.journal = Journal(self.loop)
        self.scenario = adapt(scenario(self.random))
        self.step: Duration = 0
        """By how much the backend's clock has stepped so far."""
        self.backend = MemoryBackend(now=self.backend_now)
        self._store = open_store(self.backend)
        self.server = server(self.loop, self.random, self._store, self.backend, self.scenario.modes)
        self.network = Network(self.loop, self.random, self.scenario.weather, self.server)
        self.scene = Scene(self.loop, self.backend, self.journal, self.policies_of)
        self.scene.undisturbed = not self.scenario.faults & {"weather", "outage", "step"}
        self.scene.always_answered = self.scene.undisturbed and "losses" not in self.scenario.faults
        self.oracle = Oracle(
            self.scene, self.slack, self.error, lambda process: self.members[process].store.failed_at
        )
        self.members: dict[Process, Member] = {}
        self._clock = clock
        self._ledger = watched(ledger, self.oracle)
        self._templates = {task.name: task.policies for task in self.scenario.tasks}

    @property
    def calm(self) -> bool:
        """Whether faults are over."""
        return self.loop.now >= self.scenario.faults_end

    def backend_now(self) -> Instant:
        return EPOCH + self.loop.now + self.step

    def policies_of(self, record: Record) -> Policies:
        """Those of a record, or of its template."""
        return record.spec.policies or self._templates[record.key.task]

    def open(self, process: Process, skew: Duration = 0, drift: int = 0, misled: Duration = 0) -> Member:
        """
        Connect *process*, whose machine has the wrong time by *skew*, and a clock that runs too fast by *drift* ppm.

        It learns the backend's time wrong by *misled*.
        """
        loop, scenario = self.loop, self.scenario
        store = RemoteStore(
            self._store, self.network, process, self.oracle, notifies=scenario.notifies, misled=misled
        )
        clock = self._clock(
            time_ns=lambda: (EPOCH + loop.now + skew) * 1000,
            monotonic_ns=lambda: process.own_time(loop.now) * (SECOND + drift) // 1000,
        )
        ledger = self._ledger(store, clock, process)
        ledger.on_ended(self.oracle.books.reported)
        member = Member(process, store, clock, ledger, abs(misled))
        self.members[process] = member
        return member

    async def synchronise(self, member: Member) -> None:
        """Learn the backend's time, as every process does before anything else."""
        clock = member.clock
        while True:
            asked_at = clock.monotonic()
            try:
                backend_now = await member.store.now()
            except StoreError:
                await self.sleep(SECOND // 2)
                continue
            clock.observe(backend_now, asked_at, clock.monotonic())
            if member.knows_since is None:
                member.knows_since = self.loop.now
            return

    async def sleep(self, length: float) -> None:
        """Wait for so many microseconds."""
        over = self.loop.create_future()
        timer = self.loop.call_later(length / SECOND, lambda: over.done() or over.set_result(None))
        try:
            await over
        finally:
            timer.cancel()

    def slack(self, holder: Process, taker: Process) -> Duration | None:
        """By how much the one's idea of a lease's end may differ from the other's; None: by anything."""
        one, other = self.members[holder], self.members[taker]
        if any(self._was_paused(process) for process in (holder, taker)):
            return None  # nothing has told it
        small = 0
        felt_since = self.loop.now - UNAWARE_MAX - 3 * self.scenario.longest_lease
        for at, by in self.scene.steps:
            if at <= felt_since:
                continue
            if abs(by) <= self.scenario.shortest_lease // 4:
                small += abs(by)
            elif (other.knows_since or 0) >= at:
                return None  # who was not there before a step cannot know that there was one
        drift = self.scenario.longest_lease // 100
        return one.store.worst_round_trip + other.store.worst_round_trip + drift + small

    def _was_paused(self, process: Process) -> bool:
        """Say whether its hypervisor has paused *process*, and it may not have heard from the backend since."""
        if process.paused_at is not None:
            return True
        since = self.loop.now - UNAWARE_MAX - self.scenario.longest_lease
        return process.unseen > 0 and process.thawed_at > since

    def error(self, process: Process) -> Duration:
        """By how much its idea of now may be wrong: nobody could know better who asks each `KNOWN_FOR`."""
        member, now = self.members[process], self.loop.now
        store = member.store
        error = store.worst_round_trip + SECOND // 100 + member.misled
        unheard = process.own_time(now) - store.heard_own <= KNOWN_FOR + TIMEOUT
        passed = before = 0
        for at, by in self.scene.steps:
            passed = max(passed, at + before + KNOWN_FOR + TIMEOUT)  # read before it heard of the step
            before += by
            if at > store.heard_at and unheard:
                error += abs(by)  # it cannot have heard of that step yet
        error += max(0, passed - now - before)  # its clock stands still until the backend's is there again
        if unheard:
            error += (now - store.heard_at) - (process.own_time(now) - store.heard_own)
        return error


def watched(ledger: type[Ledger], oracle: Oracle) -> Callable[[Store, Clock, Process], Ledger]:
    """The ledger as it is, with an oracle that knows what each process is about to count."""

    def make(store: Store, clock: Clock, process: Process) -> Ledger:
        made = ledger(store, clock)
        write = made._writes.write

        async def noted(units: Sequence[Any], *further: Any, **options: Any) -> None:
            for changes, removed_counts in units:
                for change in changes:
                    if removed_counts is not None and change.after is None:
                        oracle.intends(process, change.before, removed_counts)
            await write(units, *further, **options)

        made._writes.write = noted
        return made

    return make
