"""Whole histories of several workers, in which no promise may be broken; and wrong stores and ledgers, which must be found."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyncette.clock import SECOND, STALE_AFTER, Duration, Instant, SystemClock
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, replace
from pyncette.core.runs import NEVER, Completion, HeldRun
from pyncette.core.spec import Mode, Policies
from pyncette.ledger.ledger import Ledger, Rule, Ruling
from pyncette.ledger.starts import PendingStart
from pyncette.store.base import Claimed
from pyncette.store.memory import MemoryStore
from pyncette.worker.occurrence import Occurrence
from tests.rotation import part_of_today

from .history import History, HistoryError
from .network import Weather
from .playing import play_all
from .scenario import Scenario
from .servers import Server

ROOT = Path(__file__).resolve().parents[2]

GIVEN_SEED = os.environ.get("PYNCETTE_SEED")

DAYS = 5
"""In which `make test-long`, once a day, plays all the thousands of histories."""

FOUND_WITHIN = 150
"""So many histories are enough to find what is plainly wrong."""


def batches(seeds: range, size: int) -> list[Sequence[int]]:
    """The seeds in batches, each a test; or the one seed that is asked for."""
    if GIVEN_SEED is not None:
        return [[int(GIVEN_SEED)]]
    return [seeds[at : at + size] for at in range(0, len(seeds), size)]


@pytest.mark.parametrize("seeds", batches(range(120), 20), ids=lambda seeds: f"from {seeds[0]}")
def test_no_promise_is_broken_whatever_befalls_the_workers(seeds):
    play_all(seeds)


@pytest.mark.long
@pytest.mark.parametrize(
    "seeds", part_of_today(batches(range(1_000, 6_000), 500), DAYS), ids=lambda seeds: f"from {seeds[0]}"
)
def test_no_promise_is_broken_in_thousands_of_histories(seeds):
    play_all(seeds)


def test_a_seed_gives_the_same_history_in_this_process_and_in_others():
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


def test_a_history_that_fails_shows_its_seed_and_the_events_before():
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

    async def settle(
        self, completions: Sequence[Completion], *, again: bool = False
    ) -> list[bool | Completion]:
        written = await super().settle(completions, again=again)
        for item, ok in zip(completions, written, strict=True):
            after = item.change and item.change.after
            (stored,) = await self.store.load([item.held.record.key])
            if not ok and after is not None and stored is not None:
                await self.store.swap([Change(stored, replace(after, version=stored.version + 1))])
        return written


class LedgerThatRunsBeforeItWrites(Ledger):
    """Runs what is to run at most once, or beside its schedule, before its start is written."""

    async def start(self, claimed: Sequence[PendingStart]) -> AsyncGenerator[dict[int, HeldRun | None]]:
        yield {at: one.plan.run for at, one in enumerate(claimed)}


class LedgerThatStartsWhatNobodyNames(Ledger):
    """Starts a side run that was released unstarted whatever has become of its schedule."""

    async def start(self, claimed: Sequence[PendingStart]) -> AsyncGenerator[dict[int, HeldRun | None]]:
        alone = [one._replace(plan=replace(one.plan, parent=None)) for one in claimed]
        async for decided in super().start(alone):
            yield decided


class LedgerThatCountsNothing(Ledger):
    """Forgets what became of the records that it removes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        write = self._writes.write
        self._writes.write = lambda units, *more, **options: write(
            [unit._replace(removed_counts=None) for unit in units], *more, **options
        )


class LedgerThatWritesDeadLettersFirst(Ledger):
    """Writes dead letters before it is known whether the occurrences are still its own to complete."""

    async def settle(
        self, completions: Sequence[Completion], *, again: bool = False
    ) -> list[bool | Completion]:
        dead_letters = [one for item in completions if (one := item.created) is not None]
        await self._batches.swap([Change(None, dead_letter) for dead_letter in dead_letters])
        return await super().settle(completions, again=again)


class LedgerThatGivesUpStarts(Ledger):
    """Runs nothing if the reply to the write of its start was lost, although it was written."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        start_again = self._starts.start_again

        async def start_lost(undecided: Mapping[int, Any]) -> Any:
            known = {at: one for at, one in undecided.items() if one.lost}
            return await start_again(known) if known else ({}, {}, {})

        self._starts.start_again = start_lost


class LedgerThatReachesBack(Ledger):
    """Has a new schedule count from the time that is kept of the old one, however late that is."""

    async def apply(self, rulings: Mapping[Key, Rule]) -> dict[Key, Any]:
        return await super().apply({key: changed(rule, _reaching_back) for key, rule in rulings.items()})


class LedgerThatForgetsWhatHasStarted(Ledger):
    """Edits by its own clock alone, which may be behind that of a worker."""

    async def apply(self, rulings: Mapping[Key, Rule]) -> dict[Key, Any]:
        return await super().apply({key: _without_floor(rule) for key, rule in rulings.items()})


class LedgerThatTellsNobody(Ledger):
    """Keeps to itself what is claimable sooner than others think."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._announcements.announce = _announce_nothing


class LedgerThatReportsTwice(Ledger):
    """Reports what it has written at once, and again once it has found it after a lost reply."""

    async def _write_ends(self, completions: Collection[Completion]) -> list[bool]:
        made = await super()._write_ends(completions)
        self._outcomes.completed(item for item, ok in zip(completions, made, strict=True) if ok)
        return made


async def _announce_nothing(*_: Any, **__: Any) -> None:
    pass


class ClockThatKnowsBetter(SystemClock):
    """Goes by what it was told first, however long ago that was."""

    def is_stale(self, after: Duration = STALE_AFTER) -> bool:
        return False


class ServerThatPassesOverInSilence(Server):
    """Does not tell that a claim has passed over what another had locked."""

    tells_of_passed_over = False


def _with_locked_records(scenario: Scenario) -> Scenario:
    return scenario._replace(modes=scenario.modes._replace(skips_locked=True), notifies=True)


def _at_most_once_with_losses(scenario: Scenario) -> Scenario:
    policies = Policies(mode=Mode.AT_MOST_ONCE, lease=30 * SECOND)
    return scenario._replace(
        tasks=tuple(task._replace(policies=policies) for task in scenario.tasks),
        weather=Weather(),
        faults=frozenset({"losses"}),
        shortest_lease=policies.lease,
        longest_lease=policies.lease,
    )


def changed(rule: Rule, change: Callable[[Change], Change]) -> Rule:
    """Return *rule* with each change that it rules made another."""

    def wrong(record: Record | None, now: Instant) -> Ruling:
        ruling = rule(record, now)
        return ruling if ruling.change is None else ruling._replace(change=change(ruling.change))

    return wrong


def _reaching_back(change: Change) -> Change:
    before, after = change.before, change.after
    if before is None or after is None or after.due_at is None or after.due_at != before.due_at:
        return change
    return change._replace(after=replace(after, schedule_since=min(after.schedule_since, after.due_at - 1)))


def _without_floor(rule: Rule) -> Rule:
    def wrong(record: Record | None, now: Instant) -> Ruling:
        if record is not None:
            record = replace(record, state=replace(record.state, floor=None))
        return rule(record, now)

    return wrong


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


@pytest.mark.parametrize(
    ("ledger", "promise"),
    [
        (LedgerThatReachesBack, "which only the schedule of"),
        (LedgerThatForgetsWhatHasStarted, "although"),
    ],
)
def test_an_edit_that_repeats_or_reaches_back_is_found(ledger, promise):
    assert promise in str(found_with(ledger=ledger))


def test_a_start_that_is_given_up_after_a_lost_reply_is_found():
    error = found_with(ledger=LedgerThatGivesUpStarts, adapt=_at_most_once_with_losses)

    assert "has never called its handler" in str(error)


def test_a_released_side_run_that_starts_after_its_schedule_was_edited_is_found():
    error = found_with(ledger=LedgerThatStartsWhatNobodyNames)

    assert "which its schedule names no longer" in str(error)


def test_a_ledger_that_reports_an_occurrence_twice_is_found():
    assert "were reported" in str(found_with(ledger=LedgerThatReportsTwice))


def test_a_process_that_decides_by_an_old_answer_is_found():
    assert "decides about" in str(found_with(clock=ClockThatKnowsBetter))


def test_an_edit_that_delays_an_occurrence_is_found():
    error = found_with(
        range(200, 200 + FOUND_WITHIN),  # it shows itself in one of some two hundred histories
        server=ServerThatPassesOverInSilence,
        ledger=LedgerThatTellsNobody,
        adapt=_with_locked_records,
    )

    assert "after it was claimable" in str(error)


def test_a_run_that_goes_on_after_its_lease_is_found(monkeypatch):
    monkeypatch.setattr(Occurrence, "lose", lambda _: None)

    assert "after its lease was used up" in str(found_with())


def found_with(seeds: Iterable[int] = range(FOUND_WITHIN), **wrong) -> HistoryError:
    for seed in seeds:
        try:
            History(seed, **wrong).play()
        except HistoryError as error:
            return error
    pytest.fail(f"the histories of {seeds} found nothing wrong with {wrong}")
