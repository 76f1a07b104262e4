"""Starts claimed records: once what must be stored before the run is written, and with a permit where one is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.clock import SECOND, Clock, Duration, Instant
from pyncette.coordination.permits import Permit, SharedLimit
from pyncette.core import rules
from pyncette.core.log_messages import fields_of_record, fields_of_records, naming_logger
from pyncette.core.policies import policies_of
from pyncette.core.record import Partition, Record, replace
from pyncette.core.runs import UNSTARTED, HeldRun
from pyncette.errors import StoreError
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart
from pyncette.store.base import Renewal
from pyncette.worker.claims import Claim
from pyncette.worker.completions import Completions
from pyncette.worker.limits import Limits
from pyncette.worker.occurrence import START_SHARE, Registration
from pyncette.worker.renewal import renew_leases
from pyncette.worker.run import Runs
from pyncette.worker.signals import Signals

logger = naming_logger(__name__)

DEFERRED_FOR: Final[Duration] = 1 * SECOND
"""How long a claimed record without a permit is not claimed again: such a claim costs more than a search for permits."""

UNDECIDED_SECONDS: Final = 3.0
"""
A worker that stops waits this long for starts that are being written. While the backend is away, it would otherwise retry
them until their leases end, which may be hours. A start that is not known to be written by then does not run.
"""

CANCELLED_SECONDS: Final = 1.0
"""How long it then waits for the starts that it gave up."""


class _Waiting(NamedTuple):
    """A claimed record that waits for a permit or for a write; its slot is reserved until it starts."""

    record: Record
    """As it was claimed."""
    start: PendingStart
    registration: Registration
    at: Instant
    """When its handler may be called."""
    shared_limit: SharedLimit | None = None
    """The permits that it waits for one of; None: it has one, or needs none."""
    permit: Permit | None = None


class Dispatch:
    """The claimed records that do not run yet. Occurrences are claimed up to *ahead* before they are due."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        runs: Runs,
        completions: Completions,
        limits: Limits,
        signals: Signals,
        ahead: Duration,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._runs = runs
        self._completions = completions
        self._limits = limits
        self._signals = signals
        self._ahead = ahead
        self.starting: set[asyncio.Task[None]] = set()
        """Tasks that write what must be stored before runs, and then start them."""

    async def finish(self) -> None:
        """Return once every claimed record has started or never will; give up starts that take too long."""
        if not self.starting:
            return
        _, undecided = await asyncio.wait(self.starting, timeout=UNDECIDED_SECONDS)
        if undecided:
            for task in undecided:
                task.cancel()
            await asyncio.wait(undecided, timeout=CANCELLED_SECONDS)

    def start(self, claim: Claim, registrations: Mapping[Partition, Registration]) -> None:
        """Start the records that can run at once; write starts, or take permits, for the rest."""
        now, held_since = claim.now, claim.held_since
        unwritten: list[_Waiting] = []
        unpermitted: list[_Waiting] = []
        runs = self._runs
        for record in claim.records:
            registration = registrations[record.key.partition]
            common = registration.policies
            policies = policies_of(record, common)
            try:
                assert record.claimable_at is not None
                at = max(now, record.claimable_at)
                plan = rules.begin(record, policies, at)
            except Exception:
                # A record that cannot be decided affects only itself: its lease expires, and it is claimed again.
                logger.exception(
                    "could not decide how to start a claimed record; its lease will expire",
                    extra=fields_of_record(record.key),
                )
                continue
            lease_until = held_since + record.lease_length
            permit = None
            if plan.run is not None and (common.max_concurrent or policies.max_concurrent):
                shared_limit = self._limits.shared_limit_for(record.key, registration, policies)
                permit = shared_limit.pop()
                if permit is None:
                    start = PendingStart(plan, policies, lease_until)
                    unpermitted.append(_Waiting(record, start, registration, at, shared_limit))
                    runs.reserve(registration)
                    continue
            if plan.move is not None:
                start = PendingStart(plan, policies, lease_until)
                unwritten.append(_Waiting(record, start, registration, at, permit=permit))
                runs.reserve(registration)
            elif plan.run is not None:
                runs.start(plan.run, registration, lease_until, at, permit)
        if unwritten:
            self._start_soon(self._write_and_start(unwritten, now))
        if unpermitted:
            self._start_soon(self._permit_and_start(unpermitted, now))

    def _start_soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.starting.add(task)
        task.add_done_callback(self.starting.discard)

    async def _permit_and_start(self, claimed: Sequence[_Waiting], now: Instant) -> None:
        """Start the records that get a permit, and defer the others: different ones run in their place."""
        unwritten: list[_Waiting] = []
        deferred: list[_Waiting] = []
        until = self._clock.now() + self._ahead + DEFERRED_FOR
        for one in claimed:
            assert one.shared_limit is not None
            permit = await self._limits.permit(one.shared_limit)
            plan, _, lease_until = one.start
            if permit is None:
                deferred.append(one)
            elif plan.move is not None:
                unwritten.append(one._replace(shared_limit=None, permit=permit))
                continue  # its slot stays reserved
            else:
                assert plan.run is not None
                self._runs.start(plan.run, one.registration, lease_until, one.at, permit)
            self._runs.unreserve(one.registration)
        if deferred:
            changes = [rules.defer(one.record, one.start.plan, until) for one in deferred]
            logger.debug("deferred runs: no permit of their task is free", extra=_fields_of(deferred))
            try:
                await self._ledger.defer(changes)
            except StoreError as error:  # their leases expire, and they are claimed again
                logger.debug("could not defer records without a permit", extra={"error": str(error)})
            for change in changes:
                assert change.after is not None
                self._signals.claimable(change.key.partition, change.after.claimable_at or until)
        if unwritten:
            await self._write_and_start(unwritten, now)

    async def _write_and_start(self, unwritten: Sequence[_Waiting], now: Instant) -> None:
        """Write starts at most once and side runs, and start only those that were written."""
        waiting = dict(enumerate(unwritten))
        try:
            lasting = await self._lasting(waiting)
            places = list(lasting)
            async for decided in self._ledger.start([one.start for one in lasting.values()]):
                over = [(lasting[places[at]], held) for at, held in decided.items()]
                for at in decided:
                    del waiting[places[at]]
                for one, held in over:
                    self._runs.unreserve(one.registration)
                    self._run_written(one, held, now)
                self._wake_for([one for one, _ in over])
                if any(held is None for _, held in over):
                    self._signals.poll_now()  # a slot, or a place in the limit of a handler, is free for other records
        except asyncio.CancelledError:
            logger.warning(
                "gave up starts because the worker is stopping; their leases will expire",
                extra=_fields_of(waiting.values()),
            )
            raise
        finally:
            for one in waiting.values():  # their leases expire, and they are claimed again
                self._runs.unreserve(one.registration)
                _release_permit(one.permit)
        self._wake_for(list(waiting.values()))
        if waiting:
            self._signals.poll_now()

    async def _lasting(self, unwritten: Mapping[int, _Waiting]) -> dict[int, _Waiting]:
        """
        Return those whose leases last long enough for a start. A short lease is renewed first, or else released.

        At most once, a start that is written on a short lease is lost if another worker takes over before the call.
        """
        short = {at: one for at, one in unwritten.items() if self._is_on_short_lease(one)}
        if not short:
            return dict(unwritten)
        renewed = await self._renew(short)
        lasting = {at: renewed.get(at, one) for at, one in unwritten.items()}
        releases = {
            at: rules.defer(one.record, one.start.plan, self._clock.now())
            for at, one in short.items()
            if self._is_on_short_lease(lasting[at])
        }
        if releases:
            logger.warning(
                "runs not started: their leases were too short",
                extra=_fields_of([short[at] for at in releases]),
            )
            try:
                await self._ledger.defer(list(releases.values()))
            except StoreError as error:  # the leases expire, and the records are claimed again
                logger.debug("could not release short leases", extra={"error": str(error)})
        return {at: one for at, one in lasting.items() if at not in releases}

    async def _renew(self, short: Mapping[int, _Waiting]) -> dict[int, _Waiting]:
        """
        Renew *short* leases in one write, and return the starts whose leases are still held.

        It gives up after half of what is left of the shortest: the other half is for the release.
        """
        renewals = [
            Renewal(one.record.key, one.record.lease.id, one.start.policies.lease)
            for one in short.values()
            if one.record.lease is not None
        ]
        left = min(one.start.lease_until for one in short.values()) - self._clock.monotonic()
        answered = asyncio.Event()
        renewal = asyncio.ensure_future(renew_leases(self._ledger.store, self._clock, renewals))
        renewal.add_done_callback(lambda _: answered.set())
        try:
            if not await self._clock.wait_for(answered, max(0, left // 2)):
                return {}
            renewed, since = renewal.result()
        except StoreError as error:
            logger.warning(
                "could not renew leases before starts",
                extra={**_fields_of(short.values()), "error": str(error)},
            )
            return {}
        finally:
            renewal.cancel()
        return {
            at: self._on_renewed_lease(one, since)
            for (at, one), held in zip(short.items(), renewed.held, strict=True)
            if held
        }

    def _on_renewed_lease(self, one: _Waiting, since: Duration) -> _Waiting:
        """Return *one* with a lease that counts from *since*, decided anew: a side run is created with that lease."""
        record, policies = one.record, one.start.policies
        lease_until = since + policies.lease
        now = self._clock.now()
        assert record.lease is not None
        assert record.claimable_at is not None
        lease = record.lease._replace(expires_at=now + lease_until - self._clock.monotonic())
        plan = rules.begin(replace(record, lease=lease), policies, max(now, record.claimable_at))
        return one._replace(start=PendingStart(plan, policies, lease_until))

    def _is_on_short_lease(self, one: _Waiting) -> bool:
        """Say whether there is something to run, and too little of the lease is left for that."""
        plan, policies, lease_until = one.start
        if plan.run is None:
            return False
        shortest = min(one.record.lease_length, policies.lease) // START_SHARE
        return lease_until - self._clock.monotonic() < shortest

    def _run_written(self, one: _Waiting, held: HeldRun | None, now: Instant) -> None:
        """Start *held* with its permit, now that it is written; if it is None, release the permit."""
        if held is None:
            _release_permit(one.permit)
            return
        if one.permit is None and (one.registration.policies.max_concurrent or held.policies.max_concurrent):
            # An edit came in between, and gave the record something to run that needs a permit.
            self._completions.put(rules.settle(held, UNSTARTED, self._clock.now()))
            return
        at = min(held.began_at, now + self._ahead)  # by another's clock it may have begun later than that
        self._runs.start(held, one.registration, one.start.lease_until, at, one.permit)

    def _wake_for(self, written: Sequence[_Waiting]) -> None:
        """Plan a poll for when these records are next claimable: their starts are written, or others may have changed them."""
        soonest: dict[Partition, Instant] = {}
        for one in written:
            move = one.start.plan.move
            if move is not None and move.after is not None and move.after.claimable_at is not None:
                partition, at = move.key.partition, move.after.claimable_at
                soonest[partition] = min(at, soonest.get(partition, at))
        for partition, at in soonest.items():
            self._signals.claimable(partition, at)


def _fields_of(waiting: Collection[_Waiting]) -> dict[str, Any]:
    return fields_of_records((one.record.key for one in waiting), len(waiting))


def _release_permit(permit: Permit | None) -> None:
    if permit is not None:
        permit.shared_limit.put(permit)
