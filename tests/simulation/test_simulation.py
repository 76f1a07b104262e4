"""Whole histories of several workers, in which no promise may be broken; and wrong stores and ledgers, which must be found."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import pytest

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.record import RESERVED_REALMS, Change, Partition, replace
from pyncette.core.rules import NEVER, Held
from pyncette.ledger import Ledger, Settling, Starting
from pyncette.store.base import Claimed
from pyncette.store.memory import MemoryStore

from .history import History, HistoryError
from .playing import play_all

ROOT = Path(__file__).resolve().parents[2]

GIVEN_SEED = os.environ.get("PYNCETTE_SEED")

FOUND_WITHIN = 150
"""So many histories are enough to find what is plainly wrong."""


def batches(seeds: range, size: int) -> list[Sequence[int]]:
    """The seeds in batches, each a test; or the one seed that is asked for."""
    if GIVEN_SEED is not None:
        return [[int(GIVEN_SEED)]]
    return [seeds[at : at + size] for at in range(0, len(seeds), size)]


@pytest.mark.parametrize("seeds", batches(range(240), 30), ids=lambda seeds: f"from {seeds[0]}")
def test_no_promise_is_broken_whatever_befalls_the_workers(seeds):
    play_all(seeds)


@pytest.mark.long
@pytest.mark.parametrize("seeds", batches(range(1_000, 6_000), 500), ids=lambda seeds: f"from {seeds[0]}")
def test_no_promise_is_broken_in_thousands_of_histories(seeds):
    play_all(seeds)


def test_a_seed_tells_the_same_history_again_in_this_process_and_in_others():
    seeds = range(20, 25)
    told = [digest_of(seed) for seed in seeds]

    again = [digest_of(seed) for seed in seeds]
    program = f"from tests.simulation.test_simulation import digest_of; print(*map(digest_of, {seeds}))"
    path = os.pathsep.join((str(ROOT), str(ROOT / "operator")))
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert again == told
    assert elsewhere.stdout.split() == told
    assert len(set(told)) == len(told)


def digest_of(seed: int) -> str:
    history = History(seed)
    history.play()
    return history.journal.digest()


def test_a_history_that_fails_tells_its_seed_and_what_happened_before():
    error = found_with(open_store=StoreWithoutVersions)

    assert str(error).startswith(f"seed {error.seed}: ")
    assert "PYNCETTE_SEED" in str(error)
    assert " claim " in str(error)
    assert " BROKEN " in str(error)


def test_the_commands_of_the_documentation_play_one_history_or_many():
    page = (ROOT / "docs/explanation/simulation.md").read_text()
    commands = re.findall(r"python -m (tests\.simulation [0-9 ]+[0-9])", page)

    one, many = (played_by(command.replace("10000", "20")) for command in commands)

    assert " starts" in one
    assert one.count(" claim ") > 1
    assert re.match(r"20 histories, \d+ calls of handlers in .* a second", many)


def played_by(command: str) -> str:
    path = os.pathsep.join((str(ROOT), str(ROOT / "operator")))
    played = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return played.stdout


# --- What must be found ----------------------------------------------------------------------------------------------


class StoreWithoutVersions(MemoryStore):
    """Makes every change, whatever was written in the meantime."""

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        return await super().swap([self._on_top(change) for change in changes])

    def _on_top(self, change: Change) -> Change:
        known = change.before or change.after
        assert known is not None
        stored = self.backend.shelf(known.key.partition).records.get(known.key)
        if change.before is None or stored is None or change.after is None:
            return change
        return change._replace(before=stored, after=replace(change.after, version=stored.version + 1))


class StoreThatTakesLeasesEarly(MemoryStore):
    """Gives away leases that their holders have for another five seconds."""

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        for partition in limits:
            shelf = self.backend.shelf(partition)
            for record in list(shelf.records.values()):
                if (
                    record.lease is not None
                    and expired_at < record.lease.expires_at <= expired_at + 5 * SECOND
                ):
                    shelf.put(replace(record, lease=record.lease._replace(expires_at=expired_at)))
        return await super().claim(limits, lease_id, holder, now, expired_at, ahead)


class StoreThatGivesPermitsTwice(MemoryStore):
    """Gives a permit to whoever asks for one, whoever has it."""

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        of_permits = any(partition.realm.startswith(RESERVED_REALMS) for partition in limits)
        return await super().claim(limits, lease_id, holder, now, NEVER if of_permits else expired_at, ahead)


class LedgerThatWritesAfterATakeover(Ledger):
    """Completes what it held once, although another holds it now."""

    async def settle(self, settling: Sequence[Settling], *, again: bool = False) -> list[bool | Settling]:
        written = await super().settle(settling, again=again)
        for item, ok in zip(settling, written, strict=True):
            after = item.settlement.change and item.settlement.change.after
            (stored,) = await self.store.load([item.held.record.key])
            if not ok and after is not None and stored is not None:
                await self.store.swap([Change(stored, replace(after, version=stored.version + 1))])
        return written


class LedgerThatRunsBeforeItWrites(Ledger):
    """Runs what is to run at most once, or beside its schedule, before its start is written."""

    async def start(self, claimed: Sequence[Starting]) -> AsyncGenerator[dict[int, Held | None]]:
        yield {at: one.beginning.held for at, one in enumerate(claimed)}


class LedgerThatCountsNothing(Ledger):
    """Forgets what became of the records that it removes."""

    async def _write(self, units, known=None, **options) -> list[bool]:
        return await super()._write([unit._replace(tally=None) for unit in units], known, **options)


class LedgerThatWritesDeadLettersFirst(Ledger):
    """Writes dead letters before it is known whether the occurrences are still its own to complete."""

    async def settle(self, settling: Sequence[Settling], *, again: bool = False) -> list[bool | Settling]:
        await self._swap([Change(None, letter) for item in settling if (letter := item.settlement.letter)])
        return await super().settle(settling, again=again)


@pytest.mark.parametrize(
    "store", [StoreWithoutVersions, StoreThatTakesLeasesEarly, StoreThatGivesPermitsTwice]
)
def test_a_store_that_breaks_its_promises_is_found(store):
    found_with(open_store=store)


@pytest.mark.parametrize(
    "ledger",
    [
        LedgerThatWritesAfterATakeover,
        LedgerThatRunsBeforeItWrites,
        LedgerThatCountsNothing,
        LedgerThatWritesDeadLettersFirst,
    ],
)
def test_a_ledger_that_breaks_its_promises_is_found(ledger):
    found_with(ledger=ledger)


def found_with(**wrong) -> HistoryError:
    for seed in range(FOUND_WITHIN):
        try:
            History(seed, **wrong).play()
        except HistoryError as error:
            return error
    pytest.fail(f"{FOUND_WITHIN} histories found nothing wrong with {wrong}")
