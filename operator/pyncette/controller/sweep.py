"""Stops the records of tasks that are gone, once that is certain and credible, and removes them after their grace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from pyncette.clock import SECOND
from pyncette.controller.api import ObjectName
from pyncette.controller.backends import OpenBackend
from pyncette.controller.mirrored import Home, Mirrored
from pyncette.controller.removals import Guard
from pyncette.controller.settings import OperatorSettings
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, replace
from pyncette.core.spec import Spec
from pyncette.errors import StoreError
from pyncette.ledger import Ledger
from pyncette.resources.mirror import Step, remove_instances, remove_stopped, stop
from pyncette.store.base import Store

logger = logging.getLogger(__name__)

SWEEP_REALM: Final = f"{RESERVED_REALMS}sweep"
"""Where it stands what is held back, and whether somebody confirmed it: a partition for each cluster, which has its id."""

CALM_SECONDS: Final = 2.0
"""What goes within such a time goes together: a namespace is deleted object by object."""

LOOK_SECONDS: Final = 2.0
"""How soon a confirmation is noticed."""

EMPTYING_SECONDS: Final = 30.0
"""Between looks for templates that are gone, and take their instances along."""

EMPTIED_AT_ONCE: Final = 500
"""Records of instances removed before it is asked again whether they are to go."""

NAMES_MAX: Final = 200
"""Of tasks that are held back, as many are told by name."""


class HeldBack(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is held back on one backend, as it is told there to whoever may confirm it."""

    count: int = 0
    names: tuple[str, ...] = ()
    """Of the first of them."""
    confirmed: int = 0
    """The number that somebody confirmed; 0: nobody did."""


class Told(NamedTuple):
    """Is told what the sweep does; must not block."""

    stopped: Callable[[Collection[ObjectName]], None]
    held: Callable[[str, Collection[ObjectName]], None]
    """Of a backend: those that are held back now, which were not all before."""


class Sweep:
    """The removals of one operator."""

    def __init__(self, settings: OperatorSettings, cluster_id: str, mirrored: Mirrored, told: Told) -> None:
        self._mirrored = mirrored
        self._cluster_id = cluster_id
        self._told = told
        self._grace = settings.withdrawal_grace_seconds * SECOND
        swept = settings.sweep
        self._guards: Mapping[str, Guard] = {
            backend.name: Guard(swept.share_percent, swept.least, swept.confirm)
            for backend in settings.backends
        }
        self._gone: dict[ObjectName, None] = {}
        self._changed = asyncio.Event()
        self._written: dict[str, HeldBack] = {}

    def gone(self, task: ObjectName) -> None:
        """Take note that *task* is gone, which was proved."""
        if task not in self._gone:
            self._gone[task] = None
            self._changed.set()

    def back(self, task: ObjectName) -> None:
        """Take note that there is a *task* of this name, again."""
        self._gone.pop(task, None)

    @property
    def held(self) -> Mapping[str, int]:
        """How many are held back on each backend."""
        return {name: len(guard.held) for name, guard in self._guards.items()}

    async def run(self, backends: Collection[OpenBackend]) -> None:
        """Decide about what is gone, whenever that changes, until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            timeout = LOOK_SECONDS if any(self.held.values()) else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
                self._changed.clear()
                await asyncio.sleep(CALM_SECONDS)
            except TimeoutError:
                pass
            for backend in backends:
                ledger = backend.ledger
                if ledger is not None and backend.ready:
                    try:
                        await self._decide(backend.name, ledger, loop.time())
                    except StoreError as error:
                        logger.warning("removals wait", extra={"backend": backend.name, "error": str(error)})
                        self._changed.set()

    async def _decide(self, backend: str, ledger: Ledger, now: float) -> None:
        guard = self._guards[backend]
        homes = {name: found for name in self._gone if (found := self._running(backend, name))}
        if guard.held:
            await self._ask(backend, ledger.store, guard)
        before = guard.held
        verdict = guard.judge(homes.keys(), self._mirrored.count(backend), now)
        for name in verdict.stopped:
            for home in homes[name]:
                for taken in await stop(ledger, home.record):
                    if taken.record is not None:
                        self._mirrored.note(backend, taken.record)
        if verdict.stopped:
            logger.info(
                "tasks that are gone were stopped", extra={"backend": backend, "tasks": len(verdict.stopped)}
            )
            self._told.stopped(verdict.stopped)
        await self._tell(backend, ledger.store, guard)
        if guard.held and not guard.held <= before:
            logger.warning(
                "tasks that are gone go on running: they are too many at once to be believed; "
                "`pyncette sweep` tells which, and confirms them",
                extra={"backend": backend, "tasks": len(guard.held)},
            )
            self._told.held(backend, guard.held)
        self._gone = {name: None for name in self._gone if any(self._has_running(name))}

    def _running(self, backend: str, name: ObjectName) -> list[Home]:
        return [
            home
            for home in self._mirrored.homes(name)
            if home.backend == backend and home.record.state.withdrawn_at is None
        ]

    def _has_running(self, name: ObjectName) -> list[bool]:
        return [home.record.state.withdrawn_at is None for home in self._mirrored.homes(name)]

    # --- What is held back -------------------------------------------------------------------------------------------

    async def _ask(self, backend: str, store: Store, guard: Guard) -> None:
        """Look whether somebody has confirmed what is held back."""
        held = await read_held(store, self._cluster_id)
        if held is not None and held.confirmed and guard.confirm(held.confirmed):
            logger.info("removals were confirmed", extra={"backend": backend, "tasks": held.confirmed})

    async def _tell(self, backend: str, store: Store, guard: Guard) -> None:
        names = tuple(map(str, sorted(guard.held)[:NAMES_MAX]))
        held = HeldBack(len(guard.held), names)
        if self._written.get(backend, HeldBack()) != held:
            await write_held(store, self._cluster_id, held)
            self._written[backend] = held

    # --- After the grace ---------------------------------------------------------------------------------------------

    async def remove(
        self, backend: OpenBackend, ledger: Ledger, is_gone: Callable[[ObjectName], bool]
    ) -> int:
        """Remove the records on *backend* that were stopped longer ago than the grace; return how many. Raises StoreError."""
        removed = 0
        for name, home in self._over(backend, ledger):
            # A template stays as long as it has instances, and they are not removed by that.
            if home.record.spec.partitions is None and is_gone(name):
                for taken in await remove_stopped(ledger, home.record, self._grace):
                    if taken.step is Step.REMOVED:
                        self._mirrored.forget(home.backend, home.record.key, name)
                        removed += 1
        return removed

    async def empty(self, backends: Collection[OpenBackend], is_gone: Callable[[ObjectName], bool]) -> None:
        """
        Remove the instances of templates that are gone, and were to take them along, until this is cancelled.

        That takes minutes for millions; whenever it is broken off, it goes on from there.
        """
        while True:
            await asyncio.sleep(EMPTYING_SECONDS)
            for backend in backends:
                ledger = backend.ledger
                if ledger is not None and backend.ready:
                    try:
                        await self._empty(backend, ledger, is_gone)
                    except StoreError as error:
                        logger.warning("removals wait", extra={"backend": backend.name, "error": str(error)})

    async def _empty(
        self, backend: OpenBackend, ledger: Ledger, is_gone: Callable[[ObjectName], bool]
    ) -> None:
        for name, home in self._over(backend, ledger):
            owner = home.record.state.owner
            if home.record.spec.partitions is None or owner is None or not owner.takes_instances:
                continue
            removed, done = 0, False
            while not done and is_gone(name):
                part = await remove_instances(ledger, home.record, EMPTIED_AT_ONCE)
                removed, done = removed + part.removed, part.done
            if done:
                self._mirrored.forget(home.backend, home.record.key, name)
            logger.info(
                "the instances of a template that is gone were removed",
                extra={"task": str(name), "records": removed},
            )

    def _over(self, backend: OpenBackend, ledger: Ledger) -> Iterator[tuple[ObjectName, Home]]:
        """Yield the records on *backend* that were stopped longer ago than the grace."""
        before = ledger.clock.now() - self._grace
        for name in self._mirrored.names():
            for home in self._mirrored.homes(name):
                stopped_at = home.record.state.withdrawn_at
                if home.backend == backend.name and stopped_at is not None and stopped_at <= before:
                    yield name, home


# --- Where it is told ------------------------------------------------------------------------------------------------


def _key(cluster_id: str) -> Key:
    return Key(Partition(SWEEP_REALM, cluster_id), "held")


async def clusters_with_held(store: Store) -> list[str]:
    """Return the ids of the clusters that have held something back on this backend, now or before. Raises StoreError."""
    return sorted({partition.handler for partition in await store.partitions(SWEEP_REALM)})


async def read_held(store: Store, cluster_id: str) -> HeldBack | None:
    """Return what a cluster holds back; None if it never held back anything. Raises StoreError."""
    (record,) = await store.load([_key(cluster_id)])
    if record is None:
        return None
    try:
        return msgspec.json.decode(record.spec.args, type=HeldBack)
    except msgspec.MsgspecError as error:
        logger.warning("what is held back cannot be read", extra={"error": str(error)})
        return None


async def write_held(store: Store, cluster_id: str, held: HeldBack) -> None:
    """Tell what is held back, or confirm it. Raises StoreError; what another wrote just now wins."""
    key = _key(cluster_id)
    (before,) = await store.load([key])
    now = await store.now()
    args = msgspec.Raw(msgspec.json.encode(held))
    if before is not None:
        await store.swap([Change(before, replace(before, version=before.version + 1, spec=Spec(args=args)))])
        return
    record = Record(
        key=key,
        spec=Spec(args=args),
        version=now,
        fence=now,
        due_at=None,
        schedule_since=now,
        claimable_at=None,
        lease_length=0,
    )
    await store.swap([Change(None, record)])
