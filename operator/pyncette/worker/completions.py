"""Gathers the completions of runs and writes them in batches: at once when idle, in larger ones under load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from pyncette.clock import Instant
from pyncette.core.log_messages import RECORDS_MAX, fields_of_records, fields_of_run, naming_logger
from pyncette.core.record import Key, Partition
from pyncette.core.runs import Completion
from pyncette.errors import StoreError, StoreRefusedError
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.races import race_pauses
from pyncette.worker.backend_health import BackendHealth
from pyncette.worker.signals import Signals

logger = naming_logger(__name__)

UNWRITABLE: Final = (StoreRefusedError, ValueError, TypeError, OverflowError)
"""Errors of a store for a batch with a change that cannot be written: the whole batch is rolled back."""

BATCH_MAX: Final = 500
"""Beyond this a larger batch no longer lowers the cost of a completion, and only makes the next one wait."""

WRITERS: Final = 2
"""One batch is gathered while another is in flight; more writers would only make batches smaller."""

UNWRITTEN_MAX: Final = 10_000
"""Completions that wait for a slow or unavailable backend. Above this nothing more is claimed."""


class _Race(NamedTuple):
    """The retries of a completion whose record other writers keep changing."""

    until: float
    """The loop's time after which it is given up."""
    pauses: Iterator[float]


class Completions:
    """
    The completions of runs, from the end of their handlers until they are written.

    A completion whose record other writers keep changing is retried by itself, and delays no other.
    """

    def __init__(self, ledger: Ledger, signals: Signals, health: BackendHealth) -> None:
        self._ledger = ledger
        self._signals = signals
        self._health = health
        self._waiting: list[Completion] = []
        self._being_written = 0
        self._paused = 0
        """Completions that wait for their next retry after a lost race."""
        self._races: dict[tuple[Key, str], _Race] = {}
        """The completions that are being retried, by record and lease."""
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._waiting) + self._being_written + self._paused

    @property
    def is_full(self) -> bool:
        return len(self._waiting) + self._paused >= UNWRITTEN_MAX

    def put(self, completion: Completion) -> None:
        """Queue *completion* to be written soon."""
        self._waiting.append(completion)
        if not self._filled.is_set():
            self._filled.set()
            self._emptied.clear()

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(self._write_on())

    async def emptied(self) -> None:
        """Return once all completions are written."""
        await self._emptied.wait()

    async def _write_on(self) -> None:
        delays = self._health.delays()
        while True:
            await self._filled.wait()
            batch = self._take()
            if not batch:
                continue
            try:
                await self._write(batch)
            except UNWRITABLE as error:
                await self._health.wait("completions are kept and retried", error, delays)
                self._put_back(batch)
            else:
                delays = self._health.delays()
            finally:
                self._being_written -= len(batch)
                if not len(self):
                    self._emptied.set()

    def _take(self) -> list[Completion]:
        if len(self._waiting) <= BATCH_MAX:
            batch, self._waiting = self._waiting, []
            self._filled.clear()
        else:
            batch = self._waiting[:BATCH_MAX]
            del self._waiting[:BATCH_MAX]
        if len({item.held.record.key for item in batch}) < len(batch) or any(
            item.created is not None for item in batch
        ):
            batch, again = _each_once(batch)
            self._waiting = again + self._waiting
            self._filled.set()
        self._being_written += len(batch)
        return batch

    def _put_back(self, batch: list[Completion]) -> None:
        self._waiting = batch + self._waiting
        self._filled.set()

    async def _write(self, batch: list[Completion]) -> None:
        """
        Write *batch*, however long the backend is unavailable: completions are only lost with the process.

        Raises the store's error if it refuses all of *batch*.
        """
        delays = self._health.delays()
        again = False
        while True:
            try:
                outcomes = await self._ledger.settle(batch, again=again)
            except UNWRITABLE as error:
                await self._write_by_halves(batch, error)
                return
            except StoreError as error:
                await self._health.wait("completions are kept and retried", error, delays)
                again = True
                self._end_races(batch)  # the delay was not a race
                continue
            self._health.answered()
            self._report(batch, outcomes)
            return

    async def _write_by_halves(self, batch: list[Completion], error: Exception) -> None:
        """
        Write a *batch* that was refused with *error* in halves, and drop the completions that cannot be written.

        If none can be written, the fault is the backend's and not that of one completion: then *error* is raised.
        """
        if len(batch) == 1:
            raise error
        half = len(batch) // 2
        refused: list[tuple[list[Completion], Exception]] = []
        for part in (batch[:half], batch[half:]):
            try:
                await self._write(part)
            except UNWRITABLE as again:
                refused.append((part, again))
        if len(refused) == 2:
            raise error
        for part, reason in refused:
            self._end_races(part)
            logger.error(
                "a completion cannot be written; its lease will expire",
                exc_info=reason,
                extra=_fields_of(part),
            )

    def _report(self, batch: Sequence[Completion], outcomes: Sequence[bool | Completion]) -> None:
        contested = [outcome for outcome in outcomes if isinstance(outcome, Completion)]
        if contested or self._races:
            over = [item for item, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, bool)]
            self._end_races(over)
            self._retry_later(contested)
            batch, outcomes = over, [outcome for outcome in outcomes if isinstance(outcome, bool)]
        if not all(outcomes):
            for item in islice(
                (item for item, ok in zip(batch, outcomes, strict=True) if not ok), RECORDS_MAX
            ):
                logger.warning(
                    "lease lost before the completion was written",
                    extra=fields_of_run(item.held),
                )
        soonest: Instant | None = None
        partition: Partition | None = None
        for item in batch:
            after = item.created if item.change is None or item.change.after is None else item.change.after
            if after is not None:
                at = after.claimable_at
                if at is not None and (soonest is None or at < soonest):
                    soonest, partition = at, after.key.partition
        if soonest is not None and partition is not None:
            self._signals.claimable(partition, soonest)

    def _retry_later(self, contested: Sequence[Completion]) -> None:
        """Retry each of these after a pause of its own; give up those that have lost every race for too long."""
        loop = asyncio.get_running_loop()
        given_up: list[Completion] = []
        for item in contested:
            run = _run_of(item)
            race = self._races.get(run)
            if race is None:
                race = self._races[run] = _Race(loop.time() + self._ledger.race_seconds, race_pauses())
            if loop.time() >= race.until:
                del self._races[run]
                given_up.append(item)
            else:
                self._paused += 1
                loop.call_later(next(race.pauses), self._resume, item)
        if given_up:
            logger.error(
                "completions were not written: other processes kept changing their records",
                extra=_fields_of(given_up),
            )

    def _end_races(self, batch: Sequence[Completion]) -> None:
        if self._races:
            for item in batch:
                self._races.pop(_run_of(item), None)

    def _resume(self, item: Completion) -> None:
        self._paused -= 1
        self.put(item)


def _fields_of(items: Sequence[Completion]) -> dict[str, Any]:
    return fields_of_records((item.held.record.key for item in items), len(items))


def _run_of(item: Completion) -> tuple[Key, str]:
    record = item.held.record
    return record.key, "" if record.lease is None else record.lease.id


def _each_once(batch: list[Completion]) -> tuple[list[Completion], list[Completion]]:
    """
    Split a batch that holds two completions of one record: the second has to wait for the first.

    It happens when the backend was unavailable for longer than a lease: the record was claimed and run again meanwhile.
    Two completions that create one record do not meet in a batch either: two releases may restore one instance.
    """
    taken: set[Key] = set()
    first: list[Completion] = []
    again: list[Completion] = []
    for item in batch:
        keys = {item.held.record.key}
        if item.created is not None:
            keys.add(item.created.key)
        if taken.isdisjoint(keys):
            taken |= keys
            first.append(item)
        else:
            again.append(item)
    return first, again
