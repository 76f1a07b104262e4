"""The port to a backend: few verbs, in batches, each with promises that the conformance suite tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run

__all__ = [
    "MIN_READER",
    "PORT_VERSION",
    "SCHEMA_VERSION",
    "Capabilities",
    "Change",
    "Claimed",
    "Notification",
    "Renewal",
    "Renewed",
    "Store",
]

PORT_VERSION: Final = 1
"""Grows when a store written for the port of before no longer fits."""

SCHEMA_VERSION: Final = 1
"""The version of tables that this release writes."""

MIN_READER: Final = 1
"""The oldest schema version whose programs may work on tables of `SCHEMA_VERSION`."""


class Claimed(NamedTuple):
    """What a claim got."""

    records: Sequence[Record]
    """As they are after the claim, its lease included; ordered by `claimable_at` within each partition."""
    backend_now: Instant
    """The backend's own time, read while it answered."""
    next_claimable_at: Instant | None
    """
    When a record of these partitions will next be claimable, by what was seen; it may be in the past, if more is
    claimable than the limits let through. None: none is known.
    """


class Renewal(NamedTuple):
    """A lease to be prolonged: it then ends *length* after the renewal's `now`."""

    key: Key
    lease_id: str
    length: Duration


class Renewed(NamedTuple):
    """What a renewal did: for each lease asked for, whether it is still held."""

    held: Sequence[bool]
    backend_now: Instant


class Notification(NamedTuple):
    """Something in *partition* becomes claimable at *at*, sooner than another worker may think."""

    partition: Partition
    at: Instant


class Capabilities(NamedTuple):
    """What a backend can and cannot do, said once, so that nothing above it asks for its name."""

    name: str
    notifies: bool
    """`notified` tells of what other processes notify of; else a worker looks each poll interval."""
    shared: bool
    """Other processes can open the same records."""
    durable: bool
    """What was written survives the process."""
    swap_batch_max: int = 500
    """Changes of one `swap`; more are to be asked for in several."""


class Store(Protocol):
    """
    Where records are kept. It moves them, and decides nothing.

    A store is an async context manager: entering connects (and creates what is missing, unless it was told not to),
    leaving closes; both are done once. All verbs may be called by many tasks at once, in between.

    Every verb raises `StoreUnavailableError` if the backend did not answer. Then nothing is known of what was asked:
    a swap may have happened, and leases may have been given, which simply expire. The next call connects again.
    Instants and durations are microseconds. `now` is always the caller's: a store stamps what it is given, and never
    mixes in a clock of its own, so that time can be pretended on every backend.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        """Return the record of each key, in the order asked for, or None where there is none."""
        ...

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """
        Make each change whose *before* is still what is stored, and say for each whether it was made.

        A record is unchanged while its version is what *before* says. A renewal does not change the version, so a swap
        never writes the lease's end unless it changes the lease: `after.lease` equal to `before.lease` in its id leaves
        the stored lease as it is. The batch takes one round trip or transaction; a change that loses does not stop the
        others. No key may occur twice in a batch. Rows of history are bounded by their slots, and deleted with a
        record whose `occurrence` is empty.
        """
        ...

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
    ) -> Claimed:
        """
        Lease at most that many claimable records of each partition, soonest first.

        A record is claimable if `claimable_at <= now` (at that very instant, too) and it has no lease, or one with
        `expires_at <= expired_at`. The claim gives it the lease (*lease_id*, *holder*, *now* + `lease_length`), adds one
        to `attempt`, `version` and `fence`, and sets `began_at` to *now* if it was None. Nothing else changes.

        No two calls give the same record while the first lease lives, on any number of workers. An empty result does
        not mean that nothing is due: another worker may have been faster. A record that cannot be read (a poisoned
        row) is left out, logged, and stays: it hurts only itself. A lease id must not be used for two claims.
        """
        ...

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        """
        Prolong the leases that are still held under the same id, all in one write.

        A lease that expired but was not taken over is held. The version stays. A store may move `claimable_at` of a
        renewed record up to the lease's end, but not down, and not from None.
        """
        ...

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        """
        Return the next records of *task* in the order of their keys, at most *limit*, that come after the key *after*.

        Without *task*, those of the whole partition: it is how one finds what is there without knowing its names.

        A page costs the same wherever it begins. A record that exists throughout a sequence of pages is in exactly
        one of them. An empty page is the end.
        """
        ...

    async def partitions(self, realm: str) -> list[Partition]:
        """Return every partition of *realm* that holds a record, and perhaps some that no longer do."""
        ...

    async def history(self, key: Key) -> list[Run]:
        """Return the rows kept for *key*, the latest `ended_at` first."""
        ...

    async def now(self) -> Instant:
        """Return the backend's own time."""
        ...

    async def notify(self, notifications: Sequence[Notification]) -> None:
        """Tell all that listen in `notified`, in this process and others, as far as the backend can."""
        ...

    def notified(self) -> AsyncIterator[Notification]:
        """
        Yield what is notified from now on, until closed. Some may be lost (a broken connection), none is made up.

        Only for stores whose capabilities say that they notify; others yield nothing and wait.
        """
        ...
