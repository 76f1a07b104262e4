"""One claimed occurrence while it runs in this process: what is held, and how its lease stands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pyncette.clock import Duration, Timer
from pyncette.core.record import Partition
from pyncette.core.rules import Ending, Held
from pyncette.core.spec import Heartbeat, Mode, Policies

if TYPE_CHECKING:
    from pyncette.worker.service import Worker


class Registration(Protocol):
    """A handler that this process can run, and the partitions that it may claim it from."""

    @property
    def handler(self) -> str: ...

    @property
    def partitions(self) -> Sequence[Partition]:
        """The partitions to claim from now; empty while the task is disabled."""
        ...

    @property
    def policies(self) -> Policies:
        """For records that have no policies of their own."""
        ...

    @property
    def concurrency_limit(self) -> int | None:
        """How many may run at once in this process; None: as many as there are slots."""
        ...

    def run(self, occurrence: Occurrence) -> Coroutine[Any, Any, None]:
        """Call the handler, middlewares around it. What it raises is what the handler raised."""
        ...


class Occurrence:
    """A run in this process. It lives from its claim until its handler returns."""

    __slots__ = ("ending", "held", "lease_lost", "lease_until", "registration", "task", "timers", "worker")

    def __init__(self, held: Held, registration: Registration, worker: Worker, lease_until: Duration) -> None:
        self.held = held
        self.registration = registration
        self.worker = worker
        self.lease_until = lease_until
        """Until when the lease is surely ours, by this process's monotonic clock."""
        self.lease_lost = False
        self.task: asyncio.Task[None] | None = None
        self.ending: Ending | None = None
        """Why it was cancelled, if we did it."""
        self.timers: list[Timer] | None = None

    @property
    def renews_itself(self) -> bool:
        """Whether the worker renews the lease, and not the handler."""
        return self.held.policies.heartbeat is Heartbeat.AUTOMATIC

    @property
    def is_at_most_once(self) -> bool:
        return self.held.policies.mode is Mode.AT_MOST_ONCE

    def lease_remaining(self) -> Duration:
        """How long the lease is surely ours, if nobody renews it; not negative."""
        return max(0, self.lease_until - self.worker.clock.monotonic())

    async def heartbeat(self) -> bool:
        """Renew the lease, and say whether it is still ours."""
        return await self.worker.renew(self)

    def cancel(self, ending: Ending) -> None:
        """End the run from outside, and remember why."""
        if self.ending is None and self.task is not None:
            self.ending = ending
            self.task.cancel()
