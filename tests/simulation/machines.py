"""Machines on which a worker runs: it may be drained, frozen or crash, and is started again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from itertools import count
from typing import Final

from pyncette.clock import Duration
from pyncette.coordination.assignment import PartitionAssignment
from pyncette.coordination.members import Member as Known
from pyncette.coordination.members import Membership
from pyncette.worker.service import Worker, WorkerSettings

from .handlers import Handler
from .loop import SECOND, Being, Process
from .scenario import REALM, WorkerPlan
from .world import World

RESTARTED_WITHIN: Final = 20 * SECOND


class Machine:
    """One machine, and the worker on it, if one runs."""

    def __init__(self, world: World, name: str, plan: WorkerPlan) -> None:
        self._world = world
        self._name = name
        self._plan = plan
        self._number = count(1)
        self._again = True
        self._worker: Worker | None = None
        self.process: Process | None = None

    def start(self) -> None:
        if self.process is None and self._again:
            self.process = self._world.loop.spawn(f"{self._name}.{next(self._number)}", self._main)
            self._world.journal.add(self.process, "starts")

    async def _main(self) -> None:
        world, plan = self._world, self._plan
        assert self.process is not None
        member = world.open(self.process, plan.skew, plan.drift)
        await world.synchronise(member)
        holder = self.process.name
        handlers = tuple(task.name for task in world.scenario.tasks)
        shared = any(task.is_shared for task in world.scenario.tasks)
        self._worker = Worker(
            ledger=member.ledger,
            clock=member.clock,
            registrations=[Handler(world, task, member, self) for task in world.scenario.tasks],
            settings=WorkerSettings(
                holder=holder,
                slots=plan.slots,
                batch_size=plan.batch_size,
                poll_interval=world.scenario.poll_interval,
                ahead=plan.ahead,
            ),
            membership=Membership(REALM, Known(holder, handlers), member.clock) if shared else None,
            assignment=PartitionAssignment(member.store, member.clock, REALM, holder) if shared else None,
        )
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker.run()
        world.journal.add(self.process, "ends")
        world.loop.at(world.loop.now, self._gone, self.process)

    def check_slots(self) -> None:
        """Compare how many handlers run here with how many may."""
        here = [call for call in self._world.oracle.calls.running() if call.process is self.process]
        if len(here) > self._plan.slots:
            self._world.scene.broken(f"{self.process} runs {len(here)} handlers in {self._plan.slots} slots")
        for task in self._world.scenario.tasks:
            running = sum(call.key.partition.handler == task.name for call in here)
            if task.limit is not None and running > task.limit:
                self._world.scene.broken(
                    f"{self.process} runs {running} of {task.name}, {task.limit} are allowed"
                )

    # --- What befalls it -----------------------------------------------------------------------------------------

    def crash(self) -> None:
        if self.process is not None:
            self._world.journal.add(self.process, "crashes")
            self._gone(self.process)

    def _gone(self, process: Process) -> None:
        if process is self.process:
            world = self._world
            self.process = self._worker = None
            world.oracle.calls.gone(process)
            world.loop.kill(process)
            pause = int(world.random.random() ** 2 * RESTARTED_WITHIN)
            world.loop.at(world.loop.now + pause, self.start)

    def freeze(self, length: Duration) -> None:
        world, process = self._world, self.process
        if process is not None and process.being is Being.RUNNING:
            world.journal.add(process, "freezes", length)
            world.loop.freeze(process)
            world.loop.at(world.loop.now + length, self._thaw, process)

    def suspend(self, length: Duration) -> None:
        """Suspend its machine: its clock goes on, its timers do not."""
        self._stop(length, "suspended", self._world.loop.suspend)

    def pause(self, length: Duration) -> None:
        """Have the hypervisor pause its machine, which does not notice."""
        self._stop(length, "paused", self._world.loop.pause)

    def _stop(self, length: Duration, what: str, stop: Callable[[Process], None]) -> None:
        world, process = self._world, self.process
        if process is not None and process.being is Being.RUNNING:
            world.journal.add(process, what, length)
            stop(process)
            world.loop.at(world.loop.now + length, self._thaw, process)

    def _thaw(self, process: Process) -> None:
        if process.being is Being.FROZEN:
            self._world.journal.add(process, "thaws")
            self._world.loop.thaw(process)

    def drain(self, grace: Duration | None, *, again: bool = True) -> None:
        self._again = again
        if self.process is not None and self._worker is None:
            self.crash()  # it has not even begun
        elif self.process is not None and self._worker is not None:
            self._world.journal.add(self.process, "drains", grace)
            self._worker.drain(grace)

    def recover(self) -> None:
        """Faults are over: it runs, and nothing befalls it any more."""
        if self.process is None:
            self.start()
        else:
            self.process.fuse = None
            self._thaw(self.process)
