"""Handlers that return, raise, take long, block their loop, ignore that they are cancelled, or take their worker along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pyncette.core.record import Partition
from pyncette.core.spec import Heartbeat, Policies
from pyncette.errors import DoNotRetry, RetryAfter, StoreError
from pyncette.worker.occurrence import Occurrence

from .calls import How
from .loop import SECOND
from .scenario import Task
from .world import Member, World

if TYPE_CHECKING:
    from .machines import Machine

Behaviour = Callable[["Handler", Occurrence], Awaitable[None]]

HEARTBEATS_SENT: Final = 0.7
"""How reliably a handler renews its lease, if it has to do it by itself."""


class Handler:
    """A handler that does as the seed calls for; in calm times it is quick, and returns."""

    def __init__(self, world: World, task: Task, member: Member, machine: Machine) -> None:
        self._world = world
        self._task = task
        self._member = member
        self._machine = machine
        self._random = world.random

    @property
    def handler(self) -> str:
        return self._task.name

    @property
    def partitions(self) -> Sequence[Partition]:
        return self._task.partitions

    @property
    def policies(self) -> Policies:
        return self._task.policies

    @property
    def concurrency_limit(self) -> int | None:
        return self._task.limit

    @property
    def shared_among(self) -> int:
        return len(self._task.partitions) if self._task.is_shared else 0

    def retries(self, error: BaseException) -> bool:
        return not isinstance(error, DoNotRetry)

    async def run(self, occurrence: Occurrence) -> None:
        oracle, member = self._world.oracle, self._member
        call = oracle.called(member.process, occurrence, member.clock.now())
        self._machine.check_slots()
        try:
            await self._behave(occurrence)
        except asyncio.CancelledError:
            oracle.ended(call, How.CANCELLED)
            raise
        except DoNotRetry:
            oracle.ended(call, How.REFUSED)
            raise
        except Exception:
            oracle.ended(call, How.RAISED)
            raise
        oracle.ended(call, How.RETURNED)

    async def _behave(self, occurrence: Occurrence) -> None:
        if self._world.calm or "handlers" not in self._world.scenario.faults:
            await self.be_quick(occurrence)
        else:
            (behave,) = self._random.choices(BEHAVIOURS, WEIGHTS)
            await behave(self, occurrence)

    # --- What it may do ------------------------------------------------------------------------------------------

    async def be_quick(self, _: Occurrence) -> None:
        if self._random.random() < 0.5:
            await self._world.sleep(self._random.random() * SECOND)

    async def take_some_time(self, _: Occurrence) -> None:
        await self._world.sleep(self._random.random() * 3 * SECOND)

    async def take_long(self, occurrence: Occurrence) -> None:
        """Take up to two leases; whoever has to renew its lease by itself mostly does."""
        policies = occurrence.held.policies
        left = self._random.random() * 2 * policies.lease
        while left > 0:
            pause = min(left, policies.lease / 3)
            await self._world.sleep(pause)
            left -= pause
            if policies.heartbeat is Heartbeat.AUTOMATIC or self._random.random() > HEARTBEATS_SENT:
                continue
            try:
                if not await occurrence.heartbeat() and self._random.random() < 0.5:
                    return
            except StoreError:
                continue

    async def be_stubborn(self, occurrence: Occurrence) -> None:
        """Take long, and longer if cancelled; then return, raise, or be cancelled."""
        lease = occurrence.held.policies.lease
        try:
            await self._world.sleep(self._random.random() * lease)
        except asyncio.CancelledError:
            self._world.oracle.calls.told(occurrence.held.record)
            await self._world.sleep(self._random.random() * lease)
            how = self._random.random()
            if how < 0.4:
                raise
            if how < 0.6:
                raise RuntimeError("it failed when it was cancelled") from None

    async def block(self, occurrence: Occurrence) -> None:
        """Block the loop: nothing of its process gets on."""
        self._machine.freeze(int(self._random.random() * 1.2 * occurrence.held.policies.lease))
        await asyncio.sleep(0)

    async def fail(self, _: Occurrence) -> None:
        if self._random.random() < 0.5:
            await self._world.sleep(self._random.random() * 2 * SECOND)
        raise RuntimeError("it failed")

    async def refuse(self, _: Occurrence) -> None:
        raise DoNotRetry("it is of no use")

    async def defer(self, _: Occurrence) -> None:
        raise RetryAfter(timedelta(seconds=self._random.random() * 10))

    async def kill(self, _: Occurrence) -> None:
        """Take the worker along."""
        if "crash" in self._world.scenario.faults:
            self._machine.crash()
            await asyncio.sleep(0)


BEHAVIOURS: Final[Sequence[Behaviour]] = (
    Handler.be_quick,
    Handler.take_some_time,
    Handler.take_long,
    Handler.be_stubborn,
    Handler.block,
    Handler.fail,
    Handler.refuse,
    Handler.defer,
    Handler.kill,
)
WEIGHTS: Final = (42, 15, 16, 5, 4, 11, 3, 2, 2)
