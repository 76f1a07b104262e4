"""The port to a backend: few verbs, in batches, each with promises that the conformance suite tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, runtime_checkable

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run

__all__ = [
    "KEY_BYTES_MAX",
    "MIN_READER",
    "PARTITION_BYTES_MAX",
    "PORT_VERSION",
    "SCHEMA_VERSION",
    "Capabilities",
    "Change",
    "Claimed",
    "Counted",
    "Notification",
    "Renewal",
    "Renewed",
    "Store",
    "Versioned",
    "check_changes",
    "check_key",
    "check_partition",
]

PORT_VERSION: Final = 1
"""Grows when a store written for the port of before no longer fits."""

SCHEMA_VERSION: Final = 1
"""The version of tables that this release writes."""

MIN_READER: Final = 1
"""The oldest schema version whose programs may work on tables of `SCHEMA_VERSION`."""


KEY_BYTES_MAX: Final = 1000
"""What task, instance and occurrence of a key may take together, in UTF-8: what the tightest index of a backend holds."""

PARTITION_BYTES_MAX: Final = 1000
"""What realm and handler of a partition may take together, in UTF-8."""


class Claimed(NamedTuple):
    """What a claim got."""

    records: Sequence[Record]
    """As they are after the claim, its lease included; ordered by `claimable_at` within each partition."""
    backend_now: Instant
    """The backend's own time, read while it answered."""
    next_claimable_at: Instant | None
    """
    When to claim again, with the same *ahead* and from the same partitions; None: not before something is written.

    At or before the claim's `now`: at once, since this claim may have returned less than was claimable. That is
    required if a record was claimable and not leased before the claim was sent, and the claim did not lease it. The
    reason may be the limit, a lock, another's write or claim in the meantime, or a backend that could not keep up. It
    is allowed if a record could not be read. In all other cases the time is later, so that callers do not spin.

    Later than `now`: the soonest time at which a record falls due or a lease ends, leases of this claim included. It
    may be too soon, but is never too late for records that were written before the claim was sent. Later writes are
    announced by their writers.
    """


class Counted(NamedTuple):
    """How many records of a partition are due or leased, as far as it is cheap to count them."""

    due: int
    """Those that can be claimed now."""
    leased: int
    """Those whose lease lives, of all that are to run."""
    is_exact: bool
    """False: more may be due or leased than were looked at."""
    total: int | None
    """
    The instances of the task; None if there are more than can be counted cheaply. Of more than the limit, what lives
    beside them may be counted along.
    """


class Renewal(NamedTuple):
    """A lease to be prolonged: it then ends *length* after the renewal's `now`, or later if it did before."""

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
    group_max: int = 500
    """Changes of one group, each with two rows of history at most."""


class Store(Protocol):
    """
    Where records are kept. It moves them, and decides nothing.

    A store is an async context manager: entering connects (and creates what is missing, unless it was told not to),
    leaving closes; both are done once. All verbs may be called by many tasks at once, in between, on the loop that
    entered. A call that is cancelled may have been carried out or not, and leaves the store fit for the next.

    Every verb raises `StoreUnavailableError` if the backend did not answer. Then nothing is known of what was asked:
    a swap may have happened, and leases may have been given, which simply expire. The next call connects again.
    Instants and durations are microseconds, and like versions and fences any integer of 64 bits with its sign.
    `now` is always the caller's: a store stamps what it is given, and never mixes in a clock of its own, so that time
    can be pretended on every backend.

    Names are any text without NUL that UTF-8 can hold, of up to `KEY_BYTES_MAX` and `PARTITION_BYTES_MAX`; they are
    equal if their characters are (case and accents count), and ordered by code points. A number of a partition is not
    negative and has 31 bits. Holders and ids of leases are text without NUL of up to 255 characters. A verb raises
    ValueError for a name that is none of these, before it does anything.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        """
        Return the record of each key, in the order asked for, or None where there is none.

        A record that cannot be read (a poisoned row) is None too, and logged: it must not take the others with it.
        """
        ...

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """
        Make each change whose *before* is still what is stored, and say for each whether it was made.

        A record is unchanged while its version is what *before* says. A renewal does not change the version, so a swap
        never writes the lease's end unless it changes the lease: `after.lease` equal to `before.lease` in its id leaves
        the stored lease as it is. Another lease in *after* replaces the stored one, none takes it away, and a record may
        be created with one. *before* is a record as a store gave it, or the *after* of a swap that was made.

        The batch takes one round trip or transaction; a change that loses does not stop the others, and writes no row of
        history either. It does stop those of its group, if that is not 0: of these all are made or none, also if this
        process or the backend dies at any moment. A group creates one record at most. Rows of one slot are written in the order of the batch, so the last one stays. A record whose
        `occurrence` is empty takes the rows kept for its key along when it is deleted, those of the same change too.

        Raises ValueError for a batch that makes no sense (see `check_changes`), before anything is written.
        """
        ...

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        """
        Lease at most that many claimable records of each partition, soonest first.

        *limits* says how many of which partition; a limit of 0 only looks when the next one is claimable.

        A record is claimable if `claimable_at <= now + ahead` (at that very instant, too) and it has no lease, or one
        with `expires_at <= expired_at`: what falls due within *ahead* is handed out before it does, to be started on time.
        The claim gives it the lease (*lease_id*, *holder*, *now* + `lease_length`), adds one to `attempt`, `version` and
        `fence`, and sets `began_at`, if it was None, to *now* or to `claimable_at`, whichever is later. Nothing else
        changes.

        No two calls give the same record while the first lease lives, on any number of workers. An empty result does
        not mean that nothing is due: another worker may have been faster. A record that cannot be read (a poisoned
        row) is left out, logged, and stays: it hurts only itself. It is leased like the others all the same, which puts
        it aside for a while: else a few of them at the head would fill every claim. A lease id must not be used for two
        claims.
        """
        ...

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        """
        Prolong the leases that are still held under the same id, all in one write.

        It then ends at *now* plus its length, or when it ended before, whichever is later: a renewal may be carried out
        long after it was asked for, and must not undo one that came since. A lease that expired but was not taken over is
        held; that of a record which is gone is not. The version stays. A store may move `claimable_at` of a
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
        one of them. An empty page is the end; a page may be short without being the last, since what cannot be read is
        left out and logged.
        """
        ...

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        """
        Count what is due and what is leased of *task*, or of the whole partition, at a cost that *limit* bounds.

        Of what is due, at most *limit* records are looked at, soonest first, and of what is leased as many; those of
        *task* count. Leases that end later than *now* + *longest_lease* may be missed. A record that cannot be read
        counts like any other. Without *task* there is no total. It is no promise about one instant: what others write
        meanwhile may be counted or not, and a backend may answer with what was true some seconds ago.
        """
        ...

    async def partitions(self, realm: str) -> list[Partition]:
        """Return every partition of *realm* that holds a record, and perhaps some that no longer do."""
        ...

    async def history(self, key: Key) -> list[Run]:
        """Return the rows kept for *key*, the latest `ended_at` first. What cannot be read is left out and logged."""
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


@runtime_checkable
class Versioned(Protocol):
    """
    What a store can do besides, if it writes down the oldest schema version whose programs may work on its records.

    A program that knows no schema from that version on is refused when it connects, see `SchemaError`.
    """

    async def min_reader(self) -> int:
        """Return that version."""
        ...

    async def raise_min_reader(self, version: int) -> None:
        """Make it *version*, unless it is that or a later one: it never falls."""
        ...


def check_partition(partition: Partition) -> None:
    """Raise ValueError unless every store can hold *partition*."""
    _check_names("realm and handler", partition.realm + partition.handler, PARTITION_BYTES_MAX)
    if not 0 <= partition.number < 2**31:
        raise ValueError(f"A partition's number must be from 0 to {2**31 - 1}, not {partition.number}.")


def check_key(key: Key) -> None:
    """Raise ValueError unless every store can hold the names of *key* (those of its partition aside)."""
    _check_names("task, instance and occurrence", key.task + key.instance + key.occurrence, KEY_BYTES_MAX)


def check_changes(changes: Sequence[Change]) -> None:
    """
    Raise ValueError unless a batch makes sense.

    Each change has a *before* or an *after*; with both, they are of one key and the version grows. No key occurs twice.
    What is created has names that every store can hold. No group creates two records, and a batch with groups tells no
    rows of history for a record that it deletes.
    """
    keys = {_checked_key(change) for change in changes}
    if len(keys) != len(changes):
        raise ValueError("No key may occur twice in a batch of changes.")
    if any(change.group for change in changes):
        _check_groups(changes)


def _checked_key(change: Change) -> Key:
    """Return which record *change* is of. Raises ValueError unless it makes sense by itself."""
    before, after, _, home, _ = change
    if after is None:
        if before is None:
            raise ValueError("A change needs a record before it or after it.")
        key = before.key
    else:
        key = after.key
        if before is None:
            check_partition(key.partition)
            check_key(key)
        elif before.key != key:
            raise ValueError(f"A change cannot turn the record {before.key} into {key}.")
        elif before.version >= after.version:
            raise ValueError(f"A change of {key} must raise its version above {before.version}.")
    if home is not None:
        check_partition(home.partition)
        check_key(home)
    return key


def _check_groups(changes: Sequence[Change]) -> None:
    deleted = {change.before.key for change in changes if change.before and not change.after}
    creating = [change.group for change in changes if change.group and change.before is None]
    if len(set(creating)) != len(creating):
        raise ValueError("A group of a batch cannot create two records.")
    if any(change.history_of in deleted for change in changes):
        raise ValueError("A batch with groups cannot tell the history of a record that it deletes.")


def _check_names(what: str, names: str, limit: int) -> None:
    if "\0" in names:
        raise ValueError(f"A name must not hold the character NUL: {names!r}.")
    try:
        size = len(names.encode())
    except UnicodeEncodeError:
        raise ValueError(f"A name must be valid Unicode: {names!r}.") from None
    if size > limit:
        raise ValueError(f"The names of {what} take {size} bytes together; {limit} is the most.")
