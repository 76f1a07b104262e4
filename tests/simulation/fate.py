"""Faults: what befalls whom, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pyncette.clock import Duration

from .editor import Editor
from .loop import SECOND, Being
from .machines import Machine
from .world import World

STEPS_MAX: Final = 60
"""Callbacks of a process until something befalls it: so it is hit at any await of what it does."""

STEPS_OF_THE_CLOCK: Final = (-60, -10, -1, 1, 2, 10, 60)
"""By how many seconds a backend that fails over may be wrong."""


class Fate:
    """Decides before a history begins what is to happen in it."""

    def __init__(self, world: World, machines: Sequence[Machine], editors: Sequence[Editor]) -> None:
        self._world = world
        self._random = world.random
        self._machines = machines
        self._editors = editors

    def decide(self) -> None:
        for kind, most, befall in (
            ("crash", 4, self._crash),
            ("freeze", 4, self._freeze),
            ("suspend", 2, self._suspend),
            ("losses", 6, self._lose),
            ("drain", 3, self._drain),
            ("step", 2, self._step),
            ("outage", 2, self._outage),
        ):
            if kind in self._world.scenario.faults:
                for _ in range(self._random.randint(1, most)):
                    at = int(self._random.random() * self._world.scenario.faults_end)
                    self._world.loop.at(at, befall)

        if self._world.scenario.modes.forgets:
            self._world.loop.at(int(self._random.random() * self._world.scenario.faults_end), self._fail_over)

    def _fail_over(self) -> None:
        world = self._world
        world.network.down = "refuses"
        world.journal.add(world.loop.world, "fails over")
        world.server.fail_over()
        world.oracle.loses_sight()
        world.loop.at(world.loop.now + int(self._random.random() * 5 * SECOND), self._up)

    def _strike(self, befall: Callable[[Machine], None]) -> None:
        """Let something befall a worker at one of its next steps."""
        machine = self._random.choice(self._machines)
        process = machine.process
        if process is not None and process.fuse is None:
            steps = int(self._random.random() ** 2 * STEPS_MAX)
            process.fuse = (steps, lambda: befall(machine))

    def _crash(self) -> None:
        self._strike(Machine.crash)

    def _freeze(self) -> None:
        length = int(self._random.random() * 3 * self._world.scenario.longest_lease)
        self._strike(lambda machine: machine.freeze(length))

    def _suspend(self) -> None:
        length = int(self._random.random() * 3 * self._world.scenario.longest_lease)
        if self._random.random() < 0.4:
            self._suspend_an_editor(length)
            return
        suspend = self._random.choice((Machine.suspend, Machine.pause))
        self._strike(lambda machine: suspend(machine, length))

    def _suspend_an_editor(self, length: Duration) -> None:
        world, process = self._world, self._random.choice(self._editors).process
        if process.being is Being.RUNNING:
            how = self._random.choice((world.loop.suspend, world.loop.pause))
            world.journal.add(process, how.__name__, length)
            how(process)
            world.loop.at(world.loop.now + length, world.loop.thaw, process)

    def _lose(self) -> None:
        """Lose one request or reply of the next few that a process sends, and no other."""
        processes = [editor.process for editor in self._editors]
        processes += [machine.process for machine in self._machines if machine.process is not None]
        member = self._world.members.get(self._random.choice(processes))
        if member is not None:
            between = ["nothing"] * self._random.choice((0, 1, 2, 3, 5))
            member.store.loses += [*between, self._random.choice(("request", "reply", "reply"))]

    def _drain(self) -> None:
        grace = self._random.choice((None, 0, SECOND, 10 * SECOND))
        machine = self._random.choice(self._machines)
        if machine.process is not None and machine.process.being is Being.RUNNING:
            machine.drain(grace)

    def _step(self) -> None:
        world = self._world
        by = self._random.choice(STEPS_OF_THE_CLOCK) * SECOND
        world.step += by
        world.scene.steps.append((world.loop.now, by))
        world.journal.add(world.loop.world, "step", by)

    def _outage(self) -> None:
        world = self._world
        world.network.down = self._random.choice(("refuses", "hangs"))
        world.journal.add(world.loop.world, "down", world.network.down)
        world.loop.at(world.loop.now + int(self._random.random() * 15 * SECOND), self._up)

    def _up(self) -> None:
        self._world.network.down = None
        self._world.journal.add(self._world.loop.world, "up")
