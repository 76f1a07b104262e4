"""Stops the records of deleted tasks, once that is certain and credible, and removes them after a grace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from pyncette.clock import SECOND
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.intervals import DEFAULT, Intervals
from pyncette.controller.reconcile.backends import OpenBackend, log_failure
from pyncette.controller.reconcile.deletion_guard import Guard
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.controller.settings import OperatorSettings
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, inert_record, replace
from pyncette.core.spec import Spec
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.instances import remove_instances
from pyncette.mirror.records import remove_stopped, stop
from pyncette.mirror.rules import Step
from pyncette.store.base import Store

logger = logging.getLogger(__name__)

SWEEP_REALM: Final = f"{RESERVED_REALMS}sweep"
"""The realm of the notices of held-back removals and their confirmations: a partition for each cluster id."""

CALM_TIMES_MAX: Final = 15
"""How often the debounce is extended at most: deletions may never come to an end."""

EMPTYING_SECONDS: Final = 30.0
"""Between checks for deleted templates whose instances are removed with them."""

EMPTIED_AT_ONCE: Final = 500
"""Records of instances that are removed before the deletion is checked again."""

NAMES_MAX: Final = 125
"""Tasks that a notice names; more are counted. So many of the longest names fit into a record."""


class HeldBack(msgspec.Struct, frozen=True, omit_defaults=True):
    """The notice of held-back removals on a backend, for a person to confirm."""

    count: int = 0
    names: tuple[str, ...] = ()
    """The names of the first of them."""
    confirmed: int = 0
    """The confirmed number; 0 if there is no confirmation."""


class SweepListener(NamedTuple):
    """Callbacks for what the sweep does. They must not block."""

    stopped: Callable[[Collection[ObjectName]], None]
    held: Callable[[str, Collection[ObjectName]], None]
    """Called with a backend and the tasks that are held back there, if there are new ones."""


class Sweep:
    """The removals of one operator. *is_gone* returns whether a task does not exist in a watched namespace."""

    def __init__(
        self,
        settings: OperatorSettings,
        cluster_id: str,
        mirrored: Mirrored,
        is_gone: Callable[[ObjectName], bool],
        listener: SweepListener,
        intervals: Intervals = DEFAULT,
    ) -> None:
        self._mirrored = mirrored
        self._cluster_id = cluster_id
        self._is_gone = is_gone
        self._listener = listener
        self._intervals = intervals
        self._grace = settings.withdrawal_grace_seconds * SECOND
        swept = settings.sweep
        self._guards: Mapping[str, Guard] = {
            backend.name: Guard(swept.share_percent, swept.least) for backend in settings.backends
        }
        self._to_confirm = {backend.name: swept.confirm for backend in settings.backends}
        """The number that the settings confirm once."""
        self._gone: dict[ObjectName, None] = {}
        self._changed = asyncio.Event()
        self._held: dict[str, frozenset[ObjectName]] = dict.fromkeys(self._guards, frozenset())
        """The tasks that the notices hold back."""
        self._shown: set[str] = {*self._guards}
        """Backends that may have a notice, also of an earlier operator process."""
        self._surveyed = False

    def gone(self, task: ObjectName) -> None:
        """Record that *task* was deleted, which was verified."""
        if task not in self._gone:
            self._gone[task] = None
            self._changed.set()

    def back(self, task: ObjectName) -> None:
        """Record that a *task* of this name exists again."""
        self._gone.pop(task, None)

    def surveyed(self) -> None:
        """Record that all deletions before the start are detected by now, so earlier notices may be out of date."""
        if not self._surveyed:
            self._surveyed = True
            self._changed.set()

    @property
    def held(self) -> Mapping[str, int]:
        """The number of held-back tasks on each backend."""
        return {backend: len(held) for backend, held in self._held.items()}

    async def run(self, backends: Collection[OpenBackend]) -> None:
        """Decide about deleted tasks, whenever there are new ones, until cancelled."""
        while True:
            await self._wait()
            for backend in backends:
                ledger = backend.ledger
                if ledger is not None and not backend.is_alias and self._mirrored.has_seen(backend.name):
                    try:
                        await self._decide(backend.name, ledger)
                    except Exception as error:  # noqa: BLE001 - it is tried again
                        log_failure("could not remove records; retrying", backend, error)
            self._gone = {name: None for name in self._gone if self._mirrored.is_running(name)}

    async def _wait(self) -> None:
        """
        Return once a burst of deletions is over; or after a while, if any deletion is undecided.

        Undecided are those that are held back, and those on a backend that did not answer.
        """
        try:
            async with asyncio.timeout(self._intervals.confirmation if self._gone else None):
                await self._changed.wait()
        except TimeoutError:
            return
        for _ in range(CALM_TIMES_MAX):
            self._changed.clear()
            await asyncio.sleep(self._intervals.deletions)
            if not self._changed.is_set():
                return

    async def _decide(self, backend: str, ledger: Ledger) -> None:
        running = {name for name in self._gone if self._is_gone(name) and self._running(backend, name)}
        if not running and not (backend in self._shown and self._knows_all(backend)):
            return
        guard = self._guards[backend]
        notice = await self._confirmed_at_start(
            backend, ledger.store, running, await read_notice(ledger.store, self._cluster_id)
        )
        confirmed = notice.confirmed_of(running)
        now = asyncio.get_running_loop().time()
        verdict = guard.judge(running - confirmed, self._mirrored.count(backend), now)
        await self._stop(backend, ledger, sorted({*confirmed, *verdict.stopped}))
        await self._write_notice(backend, ledger.store, notice, guard.held)

    async def _stop(self, backend: str, ledger: Ledger, names: Collection[ObjectName]) -> None:
        stopped: list[ObjectName] = []
        for name in names:
            for home in self._running(backend, name) if self._is_gone(name) else ():
                result = await stop(ledger, home.record)
                if result is not None and result.record is not None:
                    self._mirrored.note(backend, result.record)
                stopped.append(name)
        if stopped:
            logger.info(
                "stopped the records of deleted tasks", extra={"backend": backend, "tasks": len(stopped)}
            )
            self._listener.stopped(stopped)

    def _running(self, backend: str, name: ObjectName) -> list[ObservedRecord]:
        return [
            home
            for home in self._mirrored.records(name)
            if home.backend == backend and home.record.state.withdrawn_at is None
        ]

    # --- Held-back removals ------------------------------------------------------------------------------------------

    async def _confirmed_at_start(
        self, backend: str, store: Store, running: Collection[ObjectName], notice: Notice
    ) -> Notice:
        """Store a confirmation by the settings before it takes effect, so that it survives a crash."""
        if not running or len(running) != self._to_confirm[backend]:
            return notice
        written = await notice.write(store, _held_back(running, confirmed=len(running)))
        if written is None:
            return notice
        self._to_confirm[backend] = 0
        return written

    async def _write_notice(
        self, backend: str, store: Store, notice: Notice, held: frozenset[ObjectName]
    ) -> None:
        """Store the notice; a confirmation that is written meanwhile wins and is read the next time."""
        if notice.held != _held_back(held):
            if not self._knows_all(backend) and (notice.held.confirmed or not held):
                return
            if await notice.write(store, _held_back(held)) is None:
                self._changed.set()
                return
        before, self._held[backend] = self._held[backend], held
        if held:
            self._shown.add(backend)
        else:
            self._shown.discard(backend)
        if not held <= before:
            logger.warning(
                "deleted tasks keep running: they are too many to be credible; "
                "list and confirm them with `pyncette sweep`",
                extra={"backend": backend, "tasks": len(held)},
            )
            self._listener.held(backend, held)

    def _knows_all(self, backend: str) -> bool:
        """Return whether all held-back tasks are known: just after a start, some may be undetected yet."""
        return self._surveyed or bool(self._held[backend])

    # --- After the grace ---------------------------------------------------------------------------------------------

    async def remove(self, backend: OpenBackend, ledger: Ledger) -> int:
        """Remove the records on *backend* that were stopped longer ago than the grace; return how many. Raises StoreError."""
        removed = 0
        for name, home in self._over(backend, ledger):
            # A template stays as long as it has instances, and they are not removed by that.
            if home.record.spec.partitions is None and self._is_gone(name):
                result = await remove_stopped(ledger, home.record, self._grace)
                if result is not None and result.step is Step.REMOVED:
                    self._mirrored.forget(home.backend, home.record.key, name)
                    removed += 1
        return removed

    async def empty(self, backends: Collection[OpenBackend]) -> None:
        """
        Remove the instances of deleted templates with deletionPolicy Delete, until cancelled.

        Millions take minutes. An interrupted removal continues where it stopped.
        """
        while True:
            await asyncio.sleep(EMPTYING_SECONDS)
            for backend in backends:
                ledger = backend.ledger
                if ledger is not None:
                    try:
                        await self._empty(backend, ledger)
                    except Exception as error:  # noqa: BLE001 - it is tried again
                        log_failure("could not remove records; retrying", backend, error)

    async def _empty(self, backend: OpenBackend, ledger: Ledger) -> None:
        for name, home in self._over(backend, ledger):
            owner = home.record.state.owner
            if home.record.spec.partitions is None or owner is None or not owner.takes_instances:
                continue
            removed, done = 0, False
            while not done and self._is_gone(name):
                part = await remove_instances(ledger, home.record, EMPTIED_AT_ONCE)
                removed, done = removed + part.removed, part.done
            if done and self._is_gone(name):  # else it may be wanted again, and have stayed
                self._mirrored.forget(home.backend, home.record.key, name)
            if removed:
                logger.info(
                    "removed the instances of a deleted template",
                    extra={"task": str(name), "records": removed},
                )

    def _over(self, backend: OpenBackend, ledger: Ledger) -> Iterator[tuple[ObjectName, ObservedRecord]]:
        """Yield the records on *backend* that were stopped longer ago than the grace."""
        before = ledger.clock.now() - self._grace
        for name in self._mirrored.names():
            for home in self._mirrored.records(name):
                stopped_at = home.record.state.withdrawn_at
                if home.backend == backend.name and stopped_at is not None and stopped_at <= before:
                    yield name, home


# --- The notice ------------------------------------------------------------------------------------------------------


def _key(cluster_id: str) -> Key:
    return Key(Partition(SWEEP_REALM, cluster_id), "held")


async def clusters_with_held(store: Store) -> list[str]:
    """Return the ids of the clusters that have held something back on this backend, now or before. Raises StoreError."""
    return sorted({partition.handler for partition in await store.partitions(SWEEP_REALM)})


class Notice(NamedTuple):
    """The notice on a backend, and its record; None if there was never one."""

    cluster_id: str
    record: Record | None
    held: HeldBack

    def confirmed_of(self, names: Collection[ObjectName]) -> set[ObjectName]:
        """
        Return those of *names* that a person has confirmed, by the number that was shown.

        Fewer than that may be left, after a crash in the midst of it or if some came back; and others may have joined them.
        """
        held = self.held
        if not held.count or held.confirmed != held.count:
            return set()
        shown = {name for name in names if str(name) in held.names}
        if held.count <= len(held.names):
            return shown
        # They were shown in their order, as far as there was room. Of the rest just the number is known.
        rest = {name for name in names if str(name) > held.names[-1]}
        return shown | rest if len(rest) <= held.count - len(held.names) else shown

    async def write(self, store: Store, held: HeldBack) -> Notice | None:
        """Store *held* instead, and return the new notice; None if it was changed meanwhile. Raises StoreError."""
        now = await store.now()
        spec = Spec(args=msgspec.Raw(msgspec.json.encode(held)))
        if self.record is None:
            after = inert_record(_key(self.cluster_id), spec, now)
        else:
            after = replace(self.record, version=self.record.version + 1, spec=spec)
        (made,) = await store.swap([Change(self.record, after)])
        return self._replace(record=after, held=held) if made else None


async def read_notice(store: Store, cluster_id: str) -> Notice:
    """Return what a cluster holds back. Raises StoreError."""
    (record,) = await store.load([_key(cluster_id)])
    return Notice(cluster_id, record, HeldBack() if record is None else _read(record))


def _read(record: Record) -> HeldBack:
    try:
        return msgspec.json.decode(record.spec.args, type=HeldBack)
    except (msgspec.MsgspecError, RecursionError) as error:
        logger.warning("could not read the notice of held-back removals", extra={"error": str(error)})
        return HeldBack()


def _held_back(names: Collection[ObjectName], confirmed: int = 0) -> HeldBack:
    return HeldBack(len(names), tuple(sorted(map(str, names))[:NAMES_MAX]), confirmed)
