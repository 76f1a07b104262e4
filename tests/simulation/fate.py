"""Faults: what befalls whom, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .loop import SECOND, Being
from .machines import Machine
from .world import World

STEPS_MAX: Final = 60
"""Callbacks of a process until something befalls it: so it is hit at any await of what it does."""

STEPS_OF_THE_CLOCK: Final = (-60, -10, -1, 1, 2, 10, 60)
"""By how many seconds a backend that fails over may be wrong."""


class Fate:
    """Decides before a history begins what is to happen in it."""

    def __init__(self, world: World, machines: Sequence[Machine]) -> None:
        self._world = world
        self._random = world.random
        self._machines = machines

    def decide(self) -> None:
        for kind, most, befall in (
            ("crash", 4, self._crash),
            ("freeze", 4, self._freeze),
            ("drain", 3, self._drain),
            ("step", 2, self._step),
            ("outage", 2, self._outage),
        ):
            if kind in self._world.scenario.faults:
                for _ in range(self._random.randint(1, most)):
                    at = int(self._random.random() * self._world.scenario.faults_end)
                    self._world.loop.at(at, befall)

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
