"""Knows who holds which lease, and who may take it when: nobody, as long as its holder has reason to think it holds it."""

from __future__ import annotations

from collections.abc import Callable

from pyncette.clock import UNAWARE_MAX, Duration
from pyncette.core.record import Key, Lease, Record
from pyncette.core.spec import Heartbeat
from pyncette.store.base import Renewal

from .calls import Call, Calls
from .loop import Process
from .network import Request
from .scene import Lens, Scene, parent_of


class Leases(Lens):
    """*slack* says by how much the clocks of two processes may differ; None: by anything."""

    def __init__(
        self, scene: Scene, calls: Calls, slack: Callable[[Process, Process], Duration | None]
    ) -> None:
        super().__init__(scene)
        self._calls = calls
        self._slack = slack
        self._holders: dict[str, tuple[Process, int]] = {}
        """Who was given each lease, and when it was asked for."""
        self._stale: set[tuple[Key, str]] = set()
        """Leases that were stamped by the time before a step."""
        self._revoked: set[tuple[Key, str]] = set()
        """Leases that were rightly taken away, of which their holders may not know yet."""

    def given(self, request: Request, lease_id: str) -> None:
        """Whatever a claim got, it got under this id."""
        self._holders[lease_id] = (request.process, request.asked_at)

    def asked_at(self, lease_id: str) -> int:
        """When the claim was asked for that was given this id."""
        return self._holders[lease_id][1]

    def holder(self, lease: Lease | None) -> Process | None:
        """Who holds *lease*."""
        return None if lease is None else self._holders[lease.id][0]

    def stamped(self, request: Request, record: Record) -> None:
        """Note leases stamped by a process that has not heard of the backend for long: it may not know of a step."""
        assert record.lease is not None
        place = (record.key, record.lease.id)
        if self.scene.steps and request.asked_at > request.heard_at + UNAWARE_MAX:
            self._stale.add(place)
        else:
            self._stale.discard(place)

    def shared(self, beside: Record) -> None:
        """What was created beside a schedule is held under the lease of that."""
        if beside.lease is not None and (parent_of(beside.key), beside.lease.id) in self._stale:
            self._stale.add((beside.key, beside.lease.id))

    def revoke(self, record: Record) -> None:
        """An edit takes the lease of *record* away."""
        if record.lease is not None:
            self._revoked.add((record.key, record.lease.id))

    def is_revoked(self, call: Call) -> bool:
        """Say whether the lease of *call* was rightly taken away, whatever its process knows."""
        return (call.key, call.lease_id) in self._revoked

    def renewed(self, request: Request, renewal: Renewal, *, held: bool) -> None:
        """A renewal was carried out, and its process is told whether it holds the lease."""
        records = self.scene.records
        before = records.get(renewal.key)
        still = before is not None and before.lease is not None and before.lease.id == renewal.lease_id
        if held != still:
            self.broken(f"a renewal of {renewal.key} by {request.process} is told the wrong thing")
        if before is None or not held:
            return
        after = self.scene.stored(renewal.key)
        if after is None or (after.version, after.fence) != (before.version, before.fence):
            self.broken(f"a renewal of {renewal.key} has changed more than its lease")
        else:
            records[renewal.key] = after
            self.stamped(request, after)

    def taken_over(self, request: Request, before: Record, lease: Lease, calls: list[Call]) -> None:
        """A claim has taken what is under *lease*, and what *calls* run."""
        taker, holder = request.process, self._holders[lease.id][0]
        slack = self._slack(holder, taker)
        unaware = any(by < 0 and at > request.heard_at for at, by in self.scene.steps)
        if slack is None or unaware or (before.key, lease.id) in self._stale:
            self._revoked.add((before.key, lease.id))
            return
        for call in calls:
            if call.lease_id != lease.id:
                continue
            if self._has_no_excuse(call):
                self.broken(f"{taker} takes {before.key} over from {holder}, which had no reason to lose it")
            elif call.believes() > slack:
                self.broken(
                    f"{taker} takes {before.key} over from {holder}, which holds its lease for another"
                    f" {call.believes()} µs"
                )

    def run_beside(self, call: Call, others: list[Call]) -> None:
        """A handler is called while *others* of the same record run: theirs must be no leases any more."""
        for other in others:
            self._calls.check_lease(other)
            slack = self._slack(other.process, call.process)
            revoked = self.is_revoked(call) or self.is_revoked(other)
            if slack is not None and not revoked and other.believes() > slack:
                self.broken(
                    f"{call.key} is started by {call.process} while {other.process} runs it under its lease"
                )

    def was_frozen(self, call: Call) -> bool:
        """Say whether its process stood still since it claimed what it calls the handler for."""
        frozen_at = call.process.frozen_at
        return frozen_at is not None and frozen_at >= self._holders[call.lease_id][1]

    def _has_no_excuse(self, call: Call) -> bool:
        """Say whether nothing has befallen the process of *call*, which is to renew its lease by itself."""
        automatic = call.policies.heartbeat is Heartbeat.AUTOMATIC
        return self.scene.undisturbed and automatic and not self.was_frozen(call)
