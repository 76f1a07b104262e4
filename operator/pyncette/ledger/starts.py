"""Writes what must be stored before a run, so that only what was written runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple

from pyncette.clock import Clock, Duration, Instant
from pyncette.core import rules
from pyncette.core.log_messages import fields_of_record, fields_of_records, naming_logger
from pyncette.core.record import Key, Record, replace
from pyncette.core.runs import HeldRun, StartPlan, with_record
from pyncette.core.spec import Policies
from pyncette.errors import ContentionError, StoreError, StoreUnavailableError
from pyncette.ledger.announcements import Announcements
from pyncette.ledger.backend_time import BackendTime
from pyncette.ledger.batches import Batches, is_written
from pyncette.ledger.counters import CountedWrites, Unit
from pyncette.ledger.outcomes import Outcomes
from pyncette.ledger.races import race_pauses

logger = naming_logger(__name__)


class PendingStart(NamedTuple):
    """A claimed record with changes to write before its run, or instead of it."""

    plan: StartPlan
    policies: Policies
    lease_until: Duration
    """When its lease expires, by the clock's `monotonic`. The start is retried until then."""


class UndecidedStart(NamedTuple):
    """A start that was not written, or may not have been."""

    start: PendingStart
    lost: bool = False
    """It was certainly not written: a record had changed, or its name was taken."""
    failure: Exception | None = None


class Starts:
    """The writes of starts. A failure of one start does not keep others from running."""

    def __init__(
        self,
        batches: Batches,
        writes: CountedWrites,
        clock: Clock,
        time: BackendTime,
        announcements: Announcements,
        outcomes: Outcomes,
    ) -> None:
        self._batches = batches
        self._writes = writes
        self._clock = clock
        self._time = time
        self._announcements = announcements
        self._outcomes = outcomes

    async def start(self, claimed: Sequence[PendingStart]) -> AsyncGenerator[dict[int, HeldRun | None]]:
        """Write each of *claimed*, and yield results as they are known: see `Ledger.start`."""
        todo = dict(enumerate(claimed))
        pauses = race_pauses()
        while todo:
            held = self._still_held({at: UndecidedStart(one) for at, one in todo.items()})
            decided, undecided = await self._write({at: one.start for at, one in held.items()})
            if decided:
                yield decided
                pauses = race_pauses()
            todo = {}
            while undecided and not todo:
                await asyncio.sleep(next(pauses))
                decided, todo, undecided = await self.start_again(self._still_held(undecided))
                if decided:
                    yield decided

    async def _write(
        self, todo: Mapping[int, PendingStart]
    ) -> tuple[dict[int, HeldRun | None], dict[int, UndecidedStart]]:
        """Write each start whole or not at all; return those written, and those that were not or may not have been."""
        if any(one.plan.parent is not None for one in todo.values()):
            todo, waiting = await self._with_parents(todo)
        else:
            waiting = {}
        refused: list[Key] = []
        decided, undecided = await self.try_once(todo, refused)
        if refused:
            logger.error(
                "starts cannot be written; their leases will expire",
                extra=fields_of_records(refused, len(refused)),
            )
        return decided, undecided | waiting

    async def _with_parents(
        self, todo: Mapping[int, PendingStart]
    ) -> tuple[dict[int, PendingStart], dict[int, UndecidedStart]]:
        """
        Decide the starts of released side runs by the records of their schedules.

        Return all starts that can be written now, and those that cannot: one write changes a record only once.
        """
        ready = {at: one for at, one in todo.items() if one.plan.parent is None}
        changed = {change.key for one in ready.values() for change in one.plan.changes}
        parents: dict[Key, int] = {}
        for at, one in todo.items():
            if one.plan.parent is not None and one.plan.parent not in changed:
                parents.setdefault(one.plan.parent, at)
        failures: dict[int, Exception] = {}
        try:
            stored = await self._batches.load(list(parents))
            now = await self._time.now()
        except StoreError as error:
            failures = dict.fromkeys(parents.values(), error)
        else:
            for at, parent in zip(parents.values(), stored, strict=True):
                try:
                    ready[at] = todo[at]._replace(plan=rules.with_parent(todo[at].plan, parent, now))
                except Exception as error:  # noqa: BLE001 - it affects only itself: its lease expires
                    failures[at] = error
        waiting = {
            at: UndecidedStart(one, failure=failures.get(at)) for at, one in todo.items() if at not in ready
        }
        return ready, waiting

    async def try_once(
        self, todo: Mapping[int, PendingStart], refused: list[Key]
    ) -> tuple[dict[int, HeldRun | None], dict[int, UndecidedStart]]:
        """Try to write these starts, and add the keys of those that the store refuses by themselves to *refused*."""
        decided = {at: one.plan.run for at, one in todo.items() if one.plan.move is None}
        writing = [(at, one) for at, one in todo.items() if one.plan.move is not None]
        known: dict[int, bool] = {}
        halves: list[list[tuple[int, PendingStart]]] = []
        failure: Exception | None = None
        try:
            units = [Unit(one.plan.changes, one.plan.removed_counts) for _, one in writing]
            await self._writes.write(units, known, race_seconds=0)
        except ContentionError as error:
            failure = error
        except StoreUnavailableError as error:
            failure = error
            logger.warning(
                "starts may not have been written; reloading their records",
                extra={"error": str(error), "total": len(writing) - len(known)},
            )
        except (StoreError, ValueError, TypeError, OverflowError) as error:
            logger.debug("starts were refused", extra={"error": str(error)})
            # A store rolls back a whole batch if it cannot write one change of it.
            rest = [entry for place, entry in enumerate(writing) if place not in known]
            writing = [entry for place, entry in enumerate(writing) if place in known]
            known = dict(enumerate(known[place] for place in sorted(known)))
            if len(rest) == 1:
                refused += [claimed_record(one.plan).key for _, one in rest]
            else:
                halves = [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
        undecided = {
            at: UndecidedStart(one, known.get(place) is False, failure)
            for place, (at, one) in enumerate(writing)
            if not known.get(place)
        }
        done = [(at, one.plan) for at, one in writing if at not in undecided]
        self._outcomes.begun(plan for _, plan in done)
        await self._announcements.announce((plan.move for _, plan in done), by_holder=True)
        decided |= {at: plan.run for at, plan in done}
        for half in halves:
            more = await self.try_once(dict(half), refused)
            decided |= more[0]
            undecided |= more[1]
        return decided, undecided

    def _still_held(self, undecided: Mapping[int, UndecidedStart]) -> dict[int, UndecidedStart]:
        """Return those whose leases have not expired, and give up the others."""
        now = self._clock.monotonic()
        held = {at: one for at, one in undecided.items() if one.start.lease_until > now}
        if over := [one for at, one in undecided.items() if at not in held]:
            logger.error(
                "gave up starts: their leases expired before they could be written",
                extra={
                    **fields_of_records((claimed_record(one.start.plan).key for one in over), len(over)),
                    "error": str(over[0].failure or ""),
                },
            )
        return held

    async def start_again(
        self, undecided: dict[int, UndecidedStart]
    ) -> tuple[dict[int, HeldRun | None], dict[int, PendingStart], dict[int, UndecidedStart]]:
        """Reload starts that may not have been written; return those decided, those to write, and those still unknown."""
        changes = [change for one in undecided.values() for change in one.start.plan.changes]
        keys = list({change.key: None for change in changes})
        try:
            stored = dict(zip(keys, await self._batches.load(keys), strict=True))
            now = await self._time.now()
        except StoreError as error:
            return {}, {}, {at: one._replace(failure=error) for at, one in undecided.items()}
        decided: dict[int, HeldRun | None] = {}
        todo: dict[int, PendingStart] = {}
        for at, one in undecided.items():
            plan = one.start.plan
            key = claimed_record(plan).key
            try:
                again = _planned_again(one, stored, now)
            except Exception:
                # A record that cannot be decided affects only itself: its lease expires, and it is claimed again.
                logger.exception(
                    "could not decide how to start a claimed record; its lease will expire",
                    extra=fields_of_record(key),
                )
                again = None
            if isinstance(again, StartPlan):
                todo[at] = one.start._replace(plan=again)
            else:
                decided[at] = again
                if is_written(stored[key], plan.move):
                    self._outcomes.begun([plan])
        return decided, todo, {}


def claimed_record(plan: StartPlan) -> Record:
    """Return the record that was claimed, for a plan that changes it before the run."""
    assert plan.move is not None
    assert plan.move.before is not None
    return plan.move.before


def _planned_again(
    one: UndecidedStart, stored: Mapping[Key, Record | None], now: Instant
) -> StartPlan | HeldRun | None:
    """
    Decide by the *stored* records how to go on with a start that was not written, or may not have been.

    Return a plan to write, a run that may start, or None to leave the record alone. An earlier write may take
    effect at any time, even after it was given up. So each retry changes the same version of the record: only one wins.
    """
    plan = one.start.plan
    before, run = claimed_record(plan), plan.run
    if run is not None:
        ours = stored.get(run.record.key)
        if ours is not None and _is_started(ours, run.record):
            return with_record(run, ours)
    record = stored.get(before.key)
    if record is None or not record.has_lease_of(before):
        return None
    if record.version != before.version:  # an edit came in between
        again = rules.begin(record, record.spec.policies or one.start.policies, now)
        return again.run if again.move is None else again
    if plan.parent is not None:
        return replace(plan, parent_move=None)
    if plan.created is None:
        return plan
    # The name of a side run is taken by another worker, which runs it or has run it.
    is_taken = one.lost if run is not None else stored.get(plan.created.key) is not None
    return replace(plan, run=None, created=None) if is_taken else plan


def _is_started(record: Record, written: Record) -> bool:
    """Say whether *record* holds the start that was *written*, perhaps with later edits. Each claim has its own lease id."""
    theirs, ours = record.state.started, written.state.started
    if theirs is None or ours is None or not record.has_lease_of(written):
        return False
    return (theirs.scheduled_at, theirs.at_most_once) == (ours.scheduled_at, ours.at_most_once)
