"""Stops the records of deleted tasks once the deletion is proved and credible, and removes them after a grace."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from pyncette.clock import SECOND
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.intervals import DEFAULT, Intervals
from pyncette.controller.reconcile.backends import OpenBackend, log_failure
from pyncette.controller.reconcile.deletion_guard import Bursts, Guard
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.record_scan import ObservedRecord
from pyncette.controller.reconcile.removal_notice import Notice, load_notices, namespaces_with_notices
from pyncette.controller.settings import OperatorSettings
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.instances import remove_instances
from pyncette.mirror.records import remove_stopped, stop
from pyncette.mirror.rules import Step
from pyncette.store.base import Store
from pyncette.store.cancellation import leaks_as_errors

logger = logging.getLogger(__name__)

STOPPING_SECONDS: Final = 2.0
"""Maximum time of stopping records between two decisions, so that thousands in one namespace do not delay the others."""

INSTANCES_SECONDS: Final = 30.0
"""Time between checks for deleted templates whose instances are removed with them."""

INSTANCES_AT_ONCE: Final = 500
"""Number of instances that are removed before the deletion is checked again."""

PROOF_SECONDS: Final = 10.0
"""Time between two reads of a namespace whose deleted tasks are held back: it may be deleted later."""

PROOFS_AT_ONCE: Final = 20
"""Maximum number of namespaces that are read at a time, starting with those that have waited longest."""


class SweepListener(NamedTuple):
    """Callbacks for what the sweep does. They must not block."""

    stopped: Callable[[Collection[ObjectName]], None]
    held: Callable[[str, Collection[ObjectName]], None]
    """Called with a backend and the tasks that are held back there, if there are new ones."""


class Sweep:
    """
    The removals of one operator.

    *is_gone* returns whether a task does not exist in a watched namespace. *is_ending* returns whether a namespace is
    terminating or gone: then its tasks were deleted on purpose, however many.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        cluster_id: str,
        mirrored: Mirrored,
        is_gone: Callable[[ObjectName], bool],
        is_ending: Callable[[str], Awaitable[bool]],
        listener: SweepListener,
        intervals: Intervals = DEFAULT,
    ) -> None:
        self._mirrored = mirrored
        self._cluster_id = cluster_id
        self._is_gone = is_gone
        self._is_ending = is_ending
        self._listener = listener
        self._intervals = intervals
        self._grace = settings.withdrawal_grace_seconds * SECOND
        swept = settings.sweep
        names = [backend.name for backend in settings.backends]
        self._guards: Mapping[str, Guard] = {name: Guard(swept.share_percent, swept.least) for name in names}
        self._to_confirm = dict.fromkeys(names, swept.confirm)
        """By backend: the number of removals that the settings confirm, once."""
        self._gone: dict[ObjectName, None] = {}
        self._bursts = Bursts(intervals.deletions)
        self._failures: Counter[ObjectName] = Counter()
        """By deleted task that is not stopped yet: the number of failed attempts."""
        self._changed: Mapping[str, asyncio.Event] = {name: asyncio.Event() for name in names}
        self._listed: Mapping[str, asyncio.Event] = {name: asyncio.Event() for name in names}
        self._held: dict[str, frozenset[ObjectName]] = dict.fromkeys(names, frozenset())
        """By backend: the tasks that its notices hold back."""
        self._noticed: dict[str, set[str] | None] = dict.fromkeys(names)
        """By backend: the namespaces with a notice; None before the first read, since an earlier process may have left some."""
        self._unproven: dict[str, dict[str, float]] = {}
        """By backend: the namespaces whose tasks are held back, and the loop time of the next read of each."""
        self._surveyed = False

    def gone(self, task: ObjectName) -> None:
        """Record the verified deletion of *task*."""
        if task not in self._gone:
            self._gone[task] = None
            self._bursts.note(task.namespace, asyncio.get_running_loop().time())
            self._decide_soon()

    def back(self, task: ObjectName) -> None:
        """Record that a *task* of this name exists again."""
        self._gone.pop(task, None)

    def resynced(self, *, is_complete: bool) -> None:
        """
        Record that everything was listed; with *is_complete*, all deletions before the start are detected by now.

        Notices of an earlier process can then be updated.
        """
        for listed in self._listed.values():
            listed.set()
        if is_complete and not self._surveyed:
            self._surveyed = True
            self._decide_soon()

    @property
    def held(self) -> Mapping[str, int]:
        """The number of held-back tasks on each backend."""
        return {backend: len(held) for backend, held in self._held.items()}

    async def run(self, backends: Collection[OpenBackend]) -> None:
        """
        Stop and remove the records of deleted tasks, until cancelled.

        Each backend has its own loops: one that is slow delays no other.
        """
        async with asyncio.TaskGroup() as group:
            for backend in backends:
                group.create_task(self._decide_loop(backend))
                group.create_task(self._remove_loop(backend))
                group.create_task(self._instances_loop(backend))

    async def _decide_loop(self, backend: OpenBackend) -> None:
        """Decide about deleted tasks whenever there are new ones."""
        while True:
            await self._wait(self._changed[backend.name])
            ledger = backend.ledger
            if ledger is not None and not backend.is_alias and self._mirrored.has_seen(backend.name):
                try:
                    with leaks_as_errors():
                        while await self._decide(backend, ledger):
                            pass
                except Exception as error:  # noqa: BLE001 - the next turn retries
                    log_failure("could not remove records; retrying", backend, error)
            self._gone = {name: None for name in self._gone if self._mirrored.is_running(name)}
            self._failures = Counter({name: n for name, n in self._failures.items() if name in self._gone})

    def _decide_soon(self) -> None:
        for changed in self._changed.values():
            changed.set()

    async def _wait(self, changed: asyncio.Event) -> None:
        """
        Return some time after a deletion, when its burst may be over.

        If any deletion is undecided, return after a while anyway: it was part of a burst, it is held back, or its backend was
        unavailable.
        """
        try:
            async with asyncio.timeout(self._intervals.confirmation if self._gone else None):
                await changed.wait()
        except TimeoutError:
            return
        changed.clear()
        await asyncio.sleep(self._intervals.deletions)

    async def _decide(self, backend: OpenBackend, ledger: Ledger) -> bool:
        """Stop and hold back deleted tasks. Return whether time ran out before all credible deletions were stopped."""
        backend_name = backend.name
        now = asyncio.get_running_loop().time()
        bursting = self._bursts.namespaces(now)
        gone = {name for name in self._gone if self._is_gone(name) and self._running(backend_name, name)}
        running = {name for name in gone if name.namespace not in bursting}
        if not running and not (self._noticed[backend_name] != set() and self._knows_all(backend_name)):
            return False
        notices = await self._notices(backend_name, ledger.store, {name.namespace for name in running})
        notices = {name: notice for name, notice in notices.items() if name not in bursting}
        notices = await self._confirmed_at_start(backend_name, ledger.store, running, notices)
        confirmed = await self._confirmed(ledger.store, running, notices)
        guard = self._guards[backend_name]
        verdict = guard.judge(running - confirmed, self._mirrored.counts(backend_name), now)
        until = asyncio.get_running_loop().time() + STOPPING_SECONDS
        is_done = True
        try:
            is_done &= await self._stop(backend, ledger, verdict.credible, until)
        finally:
            stopped = [name for name in verdict.credible if not self._running(backend_name, name)]
            guard.note_stopped(stopped, now)
        is_done &= await self._stop(backend, ledger, confirmed, until)
        held = {*verdict.held}
        for namespace in await self._ending(backend_name, {name.namespace for name in held}, now):
            proven = {name for name in held if name.namespace == namespace}
            is_done &= await self._stop(backend, ledger, proven, until)
            held -= proven
        held |= {name for name in self._held[backend_name] & gone if name.namespace in bursting}
        # A confirmation stays until all that it confirms is stopped.
        held |= {name for name in confirmed if self._running(backend_name, name) and self._is_gone(name)}
        await self._write_notices(backend_name, ledger.store, notices, frozenset(held))
        return not is_done

    async def _stop(
        self, backend: OpenBackend, ledger: Ledger, names: Collection[ObjectName], until: float
    ) -> bool:
        """
        Stop the records of *names* in turns of their namespaces, and return whether all were tried *until* a loop time.

        Log records that cannot be written, and retry them later, after all others. Raises StoreUnavailableError.
        """
        stopped: list[ObjectName] = []
        clock, tried = asyncio.get_running_loop().time, set[ObjectName]()
        failures = _Failures("could not stop the records of deleted tasks; retrying", backend)
        try:
            with failures.logged():
                for name in sorted(_in_turn(names), key=self._failures.__getitem__):
                    tried.add(name)
                    self._failures[name] += 1
                    for observed in self._running(backend.name, name) if self._is_gone(name) else ():
                        with failures.collected():
                            result = await stop(ledger, observed.record)
                            if result is not None and result.record is not None:
                                self._mirrored.note(backend.name, result.record)
                            stopped.append(name)
                            del self._failures[name]
                    if clock() >= until:
                        break
        finally:
            if stopped:
                logger.info(
                    "stopped the records of deleted tasks",
                    extra={"backend": backend.name, "tasks": len(stopped)},
                )
                self._listener.stopped(stopped)
        return all(name in tried or name in self._failures for name in names)

    def _running(self, backend: str, name: ObjectName) -> list[ObservedRecord]:
        return [
            observed
            for observed in self._mirrored.records(name)
            if observed.backend == backend and observed.record.state.withdrawn_at is None
        ]

    async def _ending(self, backend: str, namespaces: Collection[str], now: float) -> list[str]:
        """Return those of *namespaces* that are terminating or gone. Read the others again after `PROOF_SECONDS`."""
        known = self._unproven.get(backend, {})
        read_at = {name: known.get(name, 0.0) for name in namespaces}
        due = sorted(
            (name for name, at in read_at.items() if at <= now), key=lambda name: (read_at[name], name)
        )
        due = due[:PROOFS_AT_ONCE]
        ending = dict(zip(due, await asyncio.gather(*map(self._is_ending, due)), strict=True))
        self._unproven[backend] = read_at | {name: now + PROOF_SECONDS for name in due if not ending[name]}
        return [name for name in due if ending[name]]

    # --- Held-back removals ------------------------------------------------------------------------------------------

    async def _notices(self, backend: str, store: Store, namespaces: Collection[str]) -> dict[str, Notice]:
        """Return the notices of *namespaces*, and of all other namespaces with a notice. Raises StoreError."""
        known = self._noticed[backend]
        if known is None:
            known = self._noticed[backend] = await namespaces_with_notices(store, self._cluster_id)
        return await load_notices(store, self._cluster_id, known | {*namespaces})

    async def _confirmed_at_start(
        self, backend: str, store: Store, running: Collection[ObjectName], notices: dict[str, Notice]
    ) -> dict[str, Notice]:
        """Store the confirmation in the settings before it takes effect, so that it survives a crash. Raises StoreError."""
        if not running or len(running) != self._to_confirm[backend]:
            return notices
        after = dict(notices)
        for namespace, names in _by_namespace(running).items():
            written = await notices[namespace].hold(store, names, is_confirmed=True)
            if written is None:
                return notices
            after[namespace] = written
            self._note_notice(backend, written)
        self._to_confirm[backend] = 0
        return after

    async def _confirmed(
        self, store: Store, running: Collection[ObjectName], notices: Mapping[str, Notice]
    ) -> set[ObjectName]:
        """Return the tasks of *running* whose removal a person has confirmed. After a crash, some may be stopped already."""
        return {
            ObjectName(namespace, name)
            for namespace, names in _by_namespace(running).items()
            if notices[namespace].is_confirmed
            for name in await notices[namespace].names(store, names)
        }

    async def _write_notices(
        self, backend: str, store: Store, notices: Mapping[str, Notice], held: frozenset[ObjectName]
    ) -> None:
        """Store the notices. A confirmation that is written meanwhile wins, and takes effect at the next decision."""
        names = _by_namespace(held)
        for namespace, notice in notices.items():
            wanted = names.get(namespace, set())
            if notice.is_about(wanted) or (
                notice.is_confirmed and wanted and wanted <= {*await notice.names(store, wanted)}
            ):
                continue
            if not self._knows_all(backend) and (notice.held.confirmed or not wanted):
                continue
            written = await notice.hold(store, wanted)
            if written is None:
                self._changed[backend].set()
                return
            self._note_notice(backend, written)
        before, self._held[backend] = self._held[backend], held
        if not held <= before:
            logger.warning(
                "deleted tasks keep running: too many were deleted at once; "
                "list and confirm them with `pyncette sweep`",
                extra={"backend": backend, "tasks": len(held)},
            )
            self._listener.held(backend, held)

    def _note_notice(self, backend: str, notice: Notice) -> None:
        noticed = self._noticed[backend]
        assert noticed is not None
        if notice.record is None:
            noticed.discard(notice.namespace)
        else:
            noticed.add(notice.namespace)

    def _knows_all(self, backend: str) -> bool:
        """Return whether all held-back tasks are known. Just after a start, some deletions may be undetected."""
        return self._surveyed or bool(self._held[backend])

    # --- After the grace ---------------------------------------------------------------------------------------------

    async def _remove_loop(self, backend: OpenBackend) -> None:
        """Remove records after each resync."""
        listed = self._listed[backend.name]
        while True:
            await listed.wait()
            listed.clear()
            ledger = backend.ledger
            if ledger is not None:
                try:
                    with leaks_as_errors():
                        await self._remove(backend, ledger)
                except Exception as error:  # noqa: BLE001 - the next resync retries
                    log_failure("could not remove records; retrying", backend, error)

    async def _remove(self, backend: OpenBackend, ledger: Ledger) -> None:
        """Remove the records on *backend* that were stopped longer ago than the grace. Raises StoreUnavailableError."""
        failures = _Failures("could not remove the records of deleted tasks; retrying", backend)
        with failures.logged():
            for name, observed in self._expired(backend, ledger):
                # A template stays while it has instances. Its removal would not remove them.
                if observed.record.spec.partitions is None and self._is_gone(name):
                    with failures.collected():
                        result = await remove_stopped(ledger, observed.record, self._grace)
                        if result is not None and result.step is Step.REMOVED:
                            self._mirrored.forget(observed.backend, observed.record.key, name)

    async def _instances_loop(self, backend: OpenBackend) -> None:
        """
        Remove the instances of deleted templates with deletionPolicy Delete.

        Millions take minutes. An interrupted removal continues where it stopped.
        """
        while True:
            await asyncio.sleep(INSTANCES_SECONDS)
            ledger = backend.ledger
            if ledger is not None:
                try:
                    with leaks_as_errors():
                        await self._remove_instances(backend, ledger)
                except Exception as error:  # noqa: BLE001 - the next turn retries
                    log_failure("could not remove records; retrying", backend, error)

    async def _remove_instances(self, backend: OpenBackend, ledger: Ledger) -> None:
        failures = _Failures("could not remove the instances of deleted templates; retrying", backend)
        with failures.logged():
            for name, observed in self._expired(backend, ledger):
                owner = observed.record.state.owner
                if (
                    observed.record.spec.partitions is not None
                    and owner is not None
                    and owner.takes_instances
                ):
                    with failures.collected():
                        await self._remove_instances_of(name, observed, ledger)

    async def _remove_instances_of(self, name: ObjectName, observed: ObservedRecord, ledger: Ledger) -> None:
        removed, done = 0, False
        while not done and self._is_gone(name):
            part = await remove_instances(ledger, observed.record, INSTANCES_AT_ONCE)
            removed, done = removed + part.removed, part.done
        if done and self._is_gone(name):  # otherwise a task of that name exists again, and keeps the record
            self._mirrored.forget(observed.backend, observed.record.key, name)
        if removed:
            logger.info(
                "removed the instances of a deleted template", extra={"task": str(name), "records": removed}
            )

    def _expired(self, backend: OpenBackend, ledger: Ledger) -> Iterator[tuple[ObjectName, ObservedRecord]]:
        """Yield the records on *backend* that were stopped longer ago than the grace."""
        before = ledger.clock.now() - self._grace
        for name in self._mirrored.names():
            for observed in self._mirrored.records(name):
                stopped_at = observed.record.state.withdrawn_at
                if observed.backend == backend.name and stopped_at is not None and stopped_at <= before:
                    yield name, observed


class _Failures:
    """
    The failures of a loop over records of *backend*, logged as *message* once after it.

    A record that cannot be written, since it is contested or poisoned, does not delay the others. An unavailable backend
    ends the loop: each further record would wait for a timeout.
    """

    def __init__(self, message: str, backend: OpenBackend) -> None:
        self._message = message
        self._backend = backend
        self._errors: list[Exception] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect the error of one record. Raises StoreUnavailableError."""
        try:
            yield
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - it concerns this record alone
            self._errors.append(error)

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Log the first of the errors that are collected in this context, even if the context raises."""
        try:
            yield
        finally:
            if self._errors:
                log_failure(self._message, self._backend, self._errors[0])


def _in_turn(names: Collection[ObjectName]) -> list[ObjectName]:
    """Return *names* in an order in which namespaces take turns."""
    turns: Counter[str] = Counter()
    turn_of: dict[ObjectName, int] = {}
    for name in sorted(names):
        turn_of[name] = turns[name.namespace]
        turns[name.namespace] += 1
    return sorted(turn_of, key=lambda name: (turn_of[name], name))


def _by_namespace(names: Collection[ObjectName]) -> Mapping[str, set[str]]:
    """Return the names of tasks by namespace."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for namespace, name in names:
        found[namespace].add(name)
    return found
