"""Keeps what happened in a history, in order, to be read when it failed and compared when it is run again."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

from pyncette.core.record import Change, Key, Record
from pyncette.store.base import Renewal

from .loop import SECOND, Process, SimulatedLoop

EPOCH: Final = 1_704_067_200 * SECOND
"""When every history begins: 2024-01-01T00:00:00Z."""

INSTANTS: Final = (EPOCH - 3_600 * SECOND, EPOCH + 86_400 * SECOND)
"""Numbers in between are instants, and shown as seconds since the beginning."""


class Journal:
    """Entries cost little until somebody reads them."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._entries: list[tuple[int, str, str, tuple[Any, ...]]] = []
        self._leases: dict[str, str] = {}

    def add(self, process: Process, what: str, *facts: Any) -> None:
        self._entries.append((self._loop.now, process.name, what, facts))

    def lines(self, last: int | None = None) -> Iterator[str]:
        """The *last* entries, or all of them. Leases are numbered as they appear, since their ids are random."""
        self._leases.clear()
        skipped = 0 if last is None else max(0, len(self._entries) - last)
        for number, (at, name, what, facts) in enumerate(self._entries):
            told = " ".join(self._told(fact) for fact in facts)
            if number >= skipped:
                yield f"{at / SECOND:12.6f} {name:10} {what:10} {told}"

    def digest(self) -> str:
        """The same for the same history, in whatever process it runs."""
        digest = blake2b(digest_size=16)
        for line in self.lines():
            digest.update(line.encode())
        return digest.hexdigest()

    def _told(self, fact: Any) -> str:
        if isinstance(fact, Record):
            return self._told_record(fact)
        if isinstance(fact, Change):
            return self._told_change(fact)
        if isinstance(fact, Renewal):
            return f"{fact.key}~{self._lease(fact.lease_id)}"
        if isinstance(fact, Key):
            return str(fact)
        if isinstance(fact, list | tuple):
            return f"[{', '.join(map(self._told, fact))}]"
        if isinstance(fact, bool):
            return "yes" if fact else "no"
        if isinstance(fact, int) and INSTANTS[0] < fact < INSTANTS[1]:
            return f"{(fact - EPOCH) / SECOND:.6g}"
        if isinstance(fact, str) and "-" in fact and len(fact) > 16:
            return self._lease(fact)
        return str(fact)

    def _told_change(self, change: Change) -> str:
        before, after = change.before, change.after
        if after is None:
            assert before is not None
            return f"{before.key} v{self._version(before)} removed"
        if before is None:
            return f"new {self._told_record(after)}"
        return f"v{self._version(before)}→{self._told_record(after)}"

    def _told_record(self, record: Record) -> str:
        lease = record.lease
        held = "" if lease is None else f" {self._lease(lease.id)}<{self._told(lease.expires_at)}"
        started = record.state.started
        begun = "" if started is None else f" started={self._told(started.scheduled_at)}"
        due, claimable = self._told(record.due_at), self._told(record.claimable_at)
        marks = " exhausted" * record.state.exhausted + " withdrawn" * (record.state.withdrawn_at is not None)
        return (
            f"{record.key} v{self._version(record)} f{(record.fence - EPOCH) / SECOND:.6f} due={due}"
            f" at={claimable} #{record.attempt}{held}{begun}{marks}"
        )

    @staticmethod
    def _version(record: Record) -> str:
        return f"{(record.version - EPOCH) / SECOND:.6f}"

    def _lease(self, lease_id: str) -> str:
        return self._leases.setdefault(lease_id, f"L{len(self._leases) + 1}")
