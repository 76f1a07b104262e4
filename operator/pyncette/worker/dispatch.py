"""Starts what was claimed: once what has to stand before it is written, and with a permit where it needs one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.clock import SECOND, Clock, Duration, Instant
from pyncette.coordination.permits import Permit, Pool
from pyncette.core import rules
from pyncette.core.policies import policies_of
from pyncette.core.record import Partition, Record, replace
from pyncette.core.rules import Beginning, Held
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.ledger.ledger import LOGGED_MAX, Ledger, Settling, Starting
from pyncette.store.base import Renewal
from pyncette.worker.claims import Claim
from pyncette.worker.completions import Completions
from pyncette.worker.limits import Limits
from pyncette.worker.occurrence import START_SHARE, Registration
from pyncette.worker.renewal import renew_leases
from pyncette.worker.run import Runs
from pyncette.worker.signals import Signals

logger = logging.getLogger(__name__)

DEFERRED_FOR: Final[Duration] = 1 * SECOND
"""So long what was claimed, and has no permit, is not claimed again: such a claim costs more than a look for permits does."""


UNDECIDED_SECONDS: Final = 3.0
"""
A worker that stops waits this long for starts that are being written. While the backend is away, it would otherwise retry
them until their leases end, which may be hours. A start that is not known to be written by then does not run.
"""

CANCELLED_SECONDS: Final = 1.0
"""How long it then waits for those that it gave up."""


class _Unpermitted(NamedTuple):
    """What was claimed and cannot start before there is a permit for it."""

    record: Record
    beginning: Beginning
    policies: Policies
    registration: Registration
    pool: Pool
    at: Instant


class _Unwritten(NamedTuple):
    """What was claimed and cannot start before that is written; its slot is reserved until then."""

    beginning: Beginning
    policies: Policies
    registration: Registration
    permit: Permit | None
    lease_until: Duration
    """When the claim's lease expires, by `monotonic`; a later edit changes only later leases."""


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
        """Each writes what has to stand before a run, and then starts it."""

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
        """Start what needs nothing before it; begin to write, or to take permits, for the rest."""
        now, held_since = claim.now, claim.held_since
        unwritten: list[_Unwritten] = []
        unpermitted: list[_Unpermitted] = []
        runs = self._runs
        for record in claim.records:
            registration = registrations[record.key.partition]
            common = registration.policies
            policies = policies_of(record, common)
            try:
                assert record.claimable_at is not None
                at = max(now, record.claimable_at)
                beginning = rules.begin(record, policies, at)
            except Exception:
                # A record that cannot be decided hurts itself only: its lease expires, and it is seen again.
                logger.exception("a claimed record could not be decided", extra={"record": str(record.key)})
                continue
            permit = None
            if beginning.held is not None and (common.max_concurrent or policies.max_concurrent):
                pool = self._limits.pool_for(record.key, registration, policies)
                permit = pool.pop()
                if permit is None:
                    unpermitted.append(_Unpermitted(record, beginning, policies, registration, pool, at))
                    runs.reserve(registration)
                    continue
            if beginning.first:
                lease_until = held_since + record.lease_length
                unwritten.append(_Unwritten(beginning, policies, registration, permit, lease_until))
                runs.reserve(registration)
            elif beginning.held is not None:
                runs.start(beginning.held, registration, held_since + record.lease_length, at, permit)
        if unwritten:
            self._start_soon(self._write_and_start(unwritten, now))
        if unpermitted:
            self._start_soon(self._permit_and_start(unpermitted, now, held_since))

    def _start_soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.starting.add(task)
        task.add_done_callback(self.starting.discard)

    async def _permit_and_start(
        self,
        claimed: Sequence[_Unpermitted],
        now: Instant,
        held_since: Duration,
    ) -> None:
        """Start what gets a permit, and put off what gets none: others run in its place."""
        unwritten: list[_Unwritten] = []
        defer: list[_Unpermitted] = []
        until = self._clock.now() + self._ahead + DEFERRED_FOR
        for one in claimed:
            permit = await self._limits.permit(one.pool)
            lease_until = held_since + one.record.lease_length
            if permit is None:
                defer.append(one)
            elif one.beginning.first:
                unwritten.append(
                    _Unwritten(one.beginning, one.policies, one.registration, permit, lease_until)
                )
                continue  # its slot stays reserved
            else:
                assert one.beginning.held is not None
                self._runs.start(one.beginning.held, one.registration, lease_until, one.at, permit)
            self._runs.unreserve(one.registration)
        if defer:
            changes = [rules.defer(one.record, one.beginning, until) for one in defer]
            try:
                await self._ledger.defer(changes)
            except StoreError as error:  # their leases expire, and tell
                logger.debug("what has no permit was not put off", extra={"error": str(error)})
            for change in changes:
                assert change.after is not None
                self._signals.claimable(change.after.key.partition, change.after.claimable_at or until)
        if unwritten:
            await self._write_and_start(unwritten, now)

    async def _write_and_start(self, unwritten: Sequence[_Unwritten], now: Instant) -> None:
        """Run only what was written: a start at most once, or an occurrence beside its schedule."""
        waiting = dict(enumerate(unwritten))
        try:
            lasting = await self._lasting(waiting)
            places = list(lasting)
            starting = [Starting(one.beginning, one.policies, one.lease_until) for one in lasting.values()]
            async for decided in self._ledger.start(starting):
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
            keys = [
                str(claimed.key)
                for one in waiting.values()
                if (claimed := one.beginning.first[-1].before) is not None
            ]
            logger.warning(
                "gave up starts because the worker stops; their leases expire",
                extra={"records": keys[:LOGGED_MAX], "total": len(keys)},
            )
            raise
        finally:
            for one in waiting.values():  # their leases expire, and they are claimed again
                self._runs.unreserve(one.registration)
                _return_permit(one.permit)
        self._wake_for(list(waiting.values()))
        if waiting:
            self._signals.poll_now()

    async def _lasting(self, unwritten: Mapping[int, _Unwritten]) -> dict[int, _Unwritten]:
        """
        Return those whose leases last long enough for a start. A short lease is renewed first, or else released.

        At most once, a start that is written on a short lease is lost if another worker takes over before the call.
        """
        short = {at: record for at, one in unwritten.items() if (record := self._on_short_lease(one))}
        if not short:
            return dict(unwritten)
        renewed = await self._renew(short, unwritten)
        lasting = {at: renewed.get(at, one) for at, one in unwritten.items()}
        releases = {
            at: rules.defer(record, unwritten[at].beginning, self._clock.now())
            for at, record in short.items()
            if self._on_short_lease(lasting[at])
        }
        if releases:
            keys = [str(short[at].key) for at in releases]
            logger.warning(
                "runs not started: their leases were too short",
                extra={"records": keys[:LOGGED_MAX], "total": len(keys)},
            )
            try:
                await self._ledger.defer(list(releases.values()))
            except StoreError as error:  # the leases expire, and the records are claimed again
                logger.debug("could not release short leases", extra={"error": str(error)})
        return {at: one for at, one in lasting.items() if at not in releases}

    async def _renew(
        self, short: Mapping[int, Record], unwritten: Mapping[int, _Unwritten]
    ) -> dict[int, _Unwritten]:
        """
        Renew the leases of *short* records in one write, and return those that are still held.

        It gives up after half of what is left of the shortest: the other half is for the release.
        """
        renewals = [
            Renewal(record.key, record.lease.id, unwritten[at].policies.lease)
            for at, record in short.items()
            if record.lease is not None
        ]
        left = min(unwritten[at].lease_until for at in short) - self._clock.monotonic()
        answered = asyncio.Event()
        renewal = asyncio.ensure_future(renew_leases(self._ledger.store, self._clock, renewals))
        renewal.add_done_callback(lambda _: answered.set())
        try:
            if not await self._clock.wait_for(answered, max(0, left // 2)):
                return {}
            renewed, since = renewal.result()
        except StoreError as error:
            logger.warning("could not renew leases before starts: %s", error, extra={"records": len(short)})
            return {}
        finally:
            renewal.cancel()
        return {
            at: self._on_renewed_lease(unwritten[at], record, since)
            for (at, record), held in zip(short.items(), renewed.held, strict=True)
            if held
        }

    def _on_renewed_lease(self, one: _Unwritten, record: Record, since: Duration) -> _Unwritten:
        """Return *one* with a lease that counts from *since*, decided anew: a side run is created with that lease."""
        lease_until = since + one.policies.lease
        now = self._clock.now()
        assert record.lease is not None
        assert record.claimable_at is not None
        lease = record.lease._replace(expires_at=now + lease_until - self._clock.monotonic())
        beginning = rules.begin(replace(record, lease=lease), one.policies, max(now, record.claimable_at))
        return one._replace(beginning=beginning, lease_until=lease_until)

    def _on_short_lease(self, one: _Unwritten) -> Record | None:
        """Return the claimed record if there is something to run, and too little of its lease is left for that."""
        record = one.beginning.first[-1].before
        if record is None or one.beginning.held is None:
            return None
        shortest = min(record.lease_length, one.policies.lease) // START_SHARE
        return record if one.lease_until - self._clock.monotonic() < shortest else None

    def _run_written(self, one: _Unwritten, held: Held | None, now: Instant) -> None:
        """Start *held* with its permit, now that it is written; if it is None, return the permit."""
        if held is None:
            _return_permit(one.permit)
            return
        if one.permit is None and (one.registration.policies.max_concurrent or held.policies.max_concurrent):
            # An edit came in between, and only since then is there something to run.
            settlement = rules.settle(held, rules.UNSTARTED, self._clock.now())
            self._completions.put(Settling(held, rules.UNSTARTED, settlement))
            return
        at = min(held.began_at, now + self._ahead)  # by another's clock it may have begun later than that
        self._runs.start(held, one.registration, one.lease_until, at, one.permit)

    def _wake_for(self, written: Sequence[_Unwritten]) -> None:
        """Wake the worker for what is claimable next, since starts are written or others may have changed records."""
        soonest: dict[Partition, Instant] = {}
        for one in written:
            for change in one.beginning.first:
                if (
                    change.before is not None
                    and change.after is not None
                    and change.after.claimable_at is not None
                ):
                    partition = change.after.key.partition
                    at = change.after.claimable_at
                    soonest[partition] = min(at, soonest.get(partition, at))
        for partition, at in soonest.items():
            self._signals.claimable(partition, at)


def _return_permit(permit: Permit | None) -> None:
    if permit is not None:
        permit.pool.put(permit)
