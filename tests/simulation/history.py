"""Plays one history: real workers on a store in memory, with the faults, handlers and edits that its seed calls for."""

from __future__ import annotations

import random as random_of_the_program
from collections.abc import Callable
from typing import Final

from pyncette.clock import UNAWARE_MAX, SystemClock
from pyncette.coordination.assignment import LONGEST_TURNS, ORPHAN_AGE, REFRESH_PAUSE
from pyncette.coordination.members import MEMBER_LEASE
from pyncette.coordination.permit_records import PERMITS_REALM
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Store
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.worker.service import SETTLE_SECONDS

from .editor import Editor
from .fate import Fate
from .loop import SECOND
from .machines import Machine
from .network import TIMEOUT, Weather
from .oracle import is_reserved
from .scenario import Scenario
from .scene import BrokenPromiseError
from .servers import Server
from .world import World

LOOK: Final = 4 * SECOND
"""How often it is looked whether a history has come to rest."""

LOOKS: Final = 3
"""How often in a row it must be found at rest."""

LATE: Final = 2 * SECOND
"""How late a claim may be in a history that has come to rest."""

JOURNAL_LINES: Final = 60
"""What is told of a history that failed."""


class HistoryError(AssertionError):
    """A history in which a promise was broken; its seed plays it again."""

    def __init__(self, history: History, cause: BaseException) -> None:
        self.seed = history.seed
        lines = "\n".join(history.journal.lines(JOURNAL_LINES))
        what = f"seed {history.seed}: {cause}"
        again = f"PYNCETTE_SEED={history.seed} make test ARGS=tests/simulation  # plays it again"
        super().__init__(f"{what}\n{lines}\n{history.scenario}\n{what}\n{again}")


class History:
    """
    One history. *open_store*, *ledger*, *clock* and *server* are what is tested: a wrong one must not get through.

    *adapt* makes another scenario of the one that the seed calls for.
    """

    def __init__(
        self,
        seed: int,
        *,
        open_store: Callable[[MemoryBackend], Store] = MemoryStore,
        ledger: type[Ledger] = Ledger,
        clock: type[SystemClock] = SystemClock,
        server: type[Server] = Server,
        adapt: Callable[[Scenario], Scenario] = lambda scenario: scenario,
    ) -> None:
        self.seed = seed
        self._world = world = World(seed, open_store, ledger, clock, server, adapt)
        self._machines = [
            Machine(world, f"w{number}", plan) for number, plan in enumerate(world.scenario.workers)
        ]
        self._editors = [
            Editor(world, f"e{number}", plan, first=number == 0)
            for number, plan in enumerate(world.scenario.editors)
        ]
        self.journal = world.journal
        self.scenario = world.scenario
        self.calls = world.oracle.calls

    def play(self) -> None:
        """Play it to its end. Raises HistoryError."""
        state = random_of_the_program.getstate()
        random_of_the_program.seed(self.seed)  # what the program itself draws: the delays of its retries
        try:
            self._begin()
            self._run_until(self.scenario.faults_end)
            self._calm_down()
            self._come_to_rest()
            self._end()
        finally:
            random_of_the_program.setstate(state)
            self._world.loop.close()

    def _begin(self) -> None:
        world = self._world
        for editor in self._editors:
            editor.start()
        for machine in self._machines:
            world.loop.at(world.random.randint(0, 3 * SECOND), machine.start)
        Fate(world, self._machines, self._editors).decide()

    def _calm_down(self) -> None:
        """End all faults, and let pass what follows from them: what is under way, and clocks that stand still."""
        world = self._world
        world.network.weather = Weather(round_trip=min(self.scenario.weather.round_trip, 5_000))
        world.network.down = None
        for member in world.members.values():
            member.store.loses.clear()
        for machine in self._machines:
            machine.recover()
        for editor in self._editors:
            world.loop.thaw(editor.process)
        # Who holds a lease that looks expired only since a step is waited for as long: see `SystemClock`.
        stepped = self._stepped()
        self._run_for(TIMEOUT + UNAWARE_MAX + stepped + (stepped and self.scenario.longest_lease))

    def _come_to_rest(self) -> None:
        """All that is due is done within a bound, and from then on in time."""
        world = self._world
        bound = world.loop.now + 45 * SECOND + 6 * self.scenario.longest_lease + self._stepped()
        if self._shares_partitions():
            bound += MEMBER_LEASE + REFRESH_PAUSE  # then all know who died
        late = self._late() if self.scenario.notifies else self._late() + self.scenario.poll_interval
        at_rest = 0
        while at_rest < LOOKS:
            self._run_for(LOOK)
            trouble = self._trouble()
            at_rest = at_rest + 1 if trouble is None else 0
            world.oracle.latest = late if at_rest else None
            if world.loop.now > bound:
                since = (world.loop.now - self.scenario.faults_end) // SECOND
                self._fail(f"{trouble}, {since} s after the last fault")

    def _stepped(self) -> int:
        """What looks expired only since a clock has stepped is left alone for as long: see `SystemClock`."""
        return sum(abs(by) for _, by in self._world.scene.steps)

    def _late(self) -> int:
        """How late a claim may be; what is shared out may be that of a worker which others take to be alive yet."""
        return LATE + LONGEST_TURNS + ORPHAN_AGE if self._shares_partitions() else LATE

    def _shares_partitions(self) -> bool:
        return any(task.is_shared for task in self.scenario.tasks)

    def _trouble(self) -> str | None:
        """What is late, or held by nobody who is there."""
        world = self._world
        running = world.oracle.calls.running()
        late = world.backend_now() - self._late() - self.scenario.poll_interval
        for key, record in world.scene.records.items():
            at, lease = record.claimable_at, record.lease
            if at is None or at > late:
                continue
            if lease is None or lease.expires_at <= late:
                return f"{key} is not run"
            if not any(call.key == key for call in running):
                return f"{key} is leased and not run"
        in_use = {call.occurrence.permit.record.key for call in running if call.occurrence.permit is not None}
        for shelf in world.backend.shelves.values():
            for key, record in shelf.records.items():
                lease = record.lease if key.partition.realm == PERMITS_REALM and key not in in_use else None
                if (
                    lease is not None
                    and lease.expires_at > world.backend_now() > lease.expires_at - record.lease_length + LATE
                ):
                    return f"{key}, a permit, is leased and not in use"
        return next((f"{call.key} runs on" for call in running if call.since < world.loop.now - LATE), None)

    def _end(self) -> None:
        """Drain all workers: they end, and leave nothing behind."""
        world = self._world
        for editor in self._editors:
            world.loop.kill(editor.process)
        for machine in self._machines:
            machine.drain(None, again=False)
        # The last request of a worker may be lost; it then waits for that as long as it may.
        self._run_for(2 * LOOK + round(SETTLE_SECONDS * SECOND))
        for machine in self._machines:
            if machine.process is not None:
                self._fail(f"{machine.process} does not end")
        for task in self.scenario.tasks:
            reported_twice = world.oracle.books.reported_twice(task.name)
            if reported_twice:
                self._fail(reported_twice)
            if task.is_template:
                world.oracle.books.check_totals(task.name, task.partitions)
        self._check_what_is_left()

    def _check_what_is_left(self) -> None:
        """What is stored is what was written, and nobody holds any of it."""
        world = self._world
        stored = {
            key: record for shelf in world.backend.shelves.values() for key, record in shelf.records.items()
        }
        reserved = {key: stored.pop(key) for key in list(stored) if is_reserved(key.partition)}
        if stored != world.scene.records:
            self._fail("records have changed without a write")
        now = world.backend_now()
        for key, record in reserved.items():
            if (
                key.partition.realm == PERMITS_REALM
                and record.lease is not None
                and record.lease.expires_at > now
            ):
                self._fail(f"{record.lease.holder} has kept {key}, a permit")
        for key, record in stored.items():
            due = record.claimable_at is not None and record.claimable_at <= now
            if due and record.lease is not None and record.lease.expires_at > now:
                self._fail(f"{key} is still leased, although nobody is left")

    def _run_for(self, length: int) -> None:
        self._run_until(self._world.loop.now + length)

    def _run_until(self, until: int) -> None:
        loop = self._world.loop
        try:
            loop.run_until(until)
        except AssertionError as error:
            loop.failures.append(error)
        if loop.failures:
            raise HistoryError(self, loop.failures[0]) from loop.failures[0]

    def _fail(self, sentence: str) -> None:
        raise HistoryError(self, BrokenPromiseError(sentence))
