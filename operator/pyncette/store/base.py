"""The port to a backend: a few verbs for batches, whose promises the conformance suite tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, runtime_checkable

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import StoreRefusedError

__all__ = [
    "ANSWER_BYTES_MAX",
    "ANSWER_OBJECTS_MAX",
    "ANSWER_RECORDS_MAX",
    "ARGS_BYTES_MAX",
    "HISTORY_ROWS_MAX",
    "KEY_BYTES_MAX",
    "MIN_READER",
    "PARTITIONS_MAX",
    "PARTITION_BYTES_MAX",
    "PORT_VERSION",
    "SCHEMA_VERSION",
    "SPEC_BYTES_MAX",
    "STATE_BYTES_MAX",
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
    "check_partitions",
]

PORT_VERSION: Final = 1
"""Grows with each change of the port that stores have to follow."""

SCHEMA_VERSION: Final = 1
"""The version of the schema that this release writes."""

MIN_READER: Final = 1
"""The oldest schema version whose releases may use a schema of `SCHEMA_VERSION`."""


KEY_BYTES_MAX: Final = 1000
"""The length of task, instance and occurrence of a key together, in UTF-8, that every backend can index."""

PARTITION_BYTES_MAX: Final = 1000
"""The length of realm and handler of a partition together, in UTF-8."""


SPEC_BYTES_MAX: Final = 49 * 1024
"""Maximum length of an encoded spec, in UTF-8. With `STATE_BYTES_MAX`, a record has at most 64 KiB."""

STATE_BYTES_MAX: Final = 15 * 1024
"""Maximum length of an encoded state, and of a row of history. The longest message takes 6 KiB, the longest requests 5 KiB."""

ARGS_BYTES_MAX: Final = 40 * 1024
"""Maximum length of the arguments in a spec. The rest suffices for a schedule with the longest key as its seed."""

HISTORY_ROWS_MAX: Final = 4000
"""Maximum number of rows of a history that are read. A task keeps at most 1000 successes and 1000 other outcomes."""

PARTITIONS_MAX: Final = 50_000
"""Maximum number of partitions of a realm: about 50 dynamic tasks with the most partitions."""

ANSWER_BYTES_MAX: Final = 36 * 2**20
"""
The size of one answer of a server, or of what it sends while a connection is made.

The largest page that our own records need is `ANSWER_RECORDS_MAX` of the largest: 32 MiB, with their names and what
protocols add.
"""

ANSWER_RECORDS_MAX: Final = 500
"""The records that one request asks for at most. With more, the largest would exceed `ANSWER_BYTES_MAX`."""

ANSWER_OBJECTS_MAX: Final = 2_000_000
"""
The Python objects that may come to be while one answer is received: up to 150 MB.

The smallest elements take 16 times their size in memory. The longest list of partitions has a tenth as many.
"""


class Claimed(NamedTuple):
    """The result of a claim."""

    records: Sequence[Record]
    """The leased records, as they are after the claim; ordered by `claimable_at` within each partition."""
    backend_now: Instant
    """The backend's own time, read while it carried out the claim."""
    next_claimable_at: Instant | None
    """
    When to claim again, with the same *ahead* and from the same partitions; None: not before something is written.

    At or before the claim's `now`: at once, since this claim may have returned less than was claimable. That is
    required if a record was claimable and unleased before the claim was sent, and the claim did not lease it. The
    reason may be the limit, a lock, a concurrent write or claim, or a backend that could not keep up. It is allowed
    if a record could not be read. In all other cases the time is later, so that callers do not spin.

    Later than `now`: the soonest time at which a record becomes due or a lease ends, leases of this claim included. It
    may be too early, but never too late for records that were written before the claim was sent. Writers notify
    others of later writes.
    """


class Counted(NamedTuple):
    """The numbers of due and leased records, as far as they are cheap to count."""

    due: int
    """Records that are claimable now."""
    leased: int
    """Scheduled records whose lease has not expired."""
    is_exact: bool
    """False if more records may be due or leased than were read."""
    total: int | None
    """
    The instances of the task; None if there are too many to count cheaply. If there are more than the limit, it may
    include side runs.
    """


class Renewal(NamedTuple):
    """A lease to renew. It then ends *length* after the renewal's `now`, or later if it did so before."""

    key: Key
    lease_id: str
    length: Duration


class Renewed(NamedTuple):
    """The result of a renewal: for each lease, whether it is still held."""

    held: Sequence[bool]
    backend_now: Instant


class Notification(NamedTuple):
    """A record in *partition* becomes claimable at *at*, which may be sooner than other workers expect."""

    partition: Partition
    at: Instant


class Capabilities(NamedTuple):
    """The abilities of a backend, so that no caller depends on its name."""

    name: str
    notifies: bool
    """`notified` yields the notifications of other processes. Without it, a worker polls at every poll interval."""
    shared: bool
    """Other processes can open the same records."""
    durable: bool
    """Records survive the process."""
    swap_batch_max: int = 500
    """The largest number of changes in one `swap`."""
    group_max: int = 500
    """The largest number of changes in one group, each with at most two rows of history."""


class Store(Protocol):
    """
    The place where records are kept. It moves records, and decides nothing.

    A store is an async context manager. Entering it connects, and creates what is missing unless it was told not to;
    leaving it closes all connections. Each happens once. In between, many tasks may call all verbs at once, on the event
    loop that entered it. A cancelled call may or may not have been carried out, and leaves the store usable.

    Every verb raises `StoreUnavailableError` if the backend did not answer. The result of the call is then unknown: a
    swap may have happened, and records may have been leased, whose leases simply expire. The next call connects again.
    Instants and durations are microseconds. Like versions and fences, they are signed integers of 64 bits. `now` is
    always the caller's. A store never uses a clock of its own, so that every backend works on virtual time.

    Names are any text without NUL that UTF-8 can encode, of up to `KEY_BYTES_MAX` and `PARTITION_BYTES_MAX`. They are
    equal if their characters are (case and accents count), and ordered by code points. A number of a partition is not
    negative and has 31 bits. Holders and ids of leases are text without NUL of up to 255 characters. A verb raises
    ValueError for any other name, before it does anything.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        """
        Return the record of each key, in the order of *keys*; None for a record that does not exist.

        A record that cannot be read (a poisoned row) is None too, and logged. It must not affect other records.

        Rows are untrusted: another program may have written them. A record whose spec exceeds `SPEC_BYTES_MAX`, or whose
        state exceeds `STATE_BYTES_MAX`, cannot be read. Where possible, the server checks the lengths, so that no verb
        transfers such a text or keeps it in memory. The same applies to rows of history, and to names that are too long.
        """
        ...

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """
        Make each change whose *before* is still the stored record, and return for each whether it was made.

        A record is unchanged while it has the version of *before*. A renewal does not change the version. So a swap
        writes the end of the lease only if it changes the lease: if `after.lease` has the id of `before.lease`, the
        stored lease stays as it is. Another lease in *after* replaces the stored one, and None removes it. A record may be
        created with a lease. *before* is a record that a store returned, or the *after* of a swap that was made.

        The batch takes one round trip or transaction. A change that loses does not affect other changes, and writes no
        row of history. Changes of one group, which is a number other than 0, are made as a whole or not at all, even if
        this process or the backend dies. A group creates at most one record. Rows of one slot are written in the order of
        the batch, so the last one wins. The deletion of a record whose `occurrence` is empty deletes the history of its
        key too, rows of the same change included.

        Raises ValueError for an invalid batch (see `check_changes`), and for a record that is too large to be read again,
        before anything is written.
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
        Lease claimable records of each partition, soonest first, at most as many as its limit in *limits*.

        A limit of 0 leases nothing, and only finds out when the next record is claimable.

        A record is claimable if `claimable_at <= now + ahead` and it has no lease, or one with `expires_at <=
        expired_at`. So records that become due within *ahead* are leased early, to be started on time. The claim sets the
        lease (*lease_id*, *holder*, *now* + `lease_length`) and adds one to `attempt`, `version` and `fence`. It sets
        `began_at`, if that is None, to the later of *now* and `claimable_at`. Nothing else changes.

        No two calls return the same record while the first lease lives, on any number of workers. An empty result does
        not mean that nothing is due: another worker may have been faster. A record that cannot be read (a poisoned
        row) is logged, left out, and stays in the store. It is leased all the same, so that a few such records do not
        fill every claim. A lease id must not be used for two claims.
        """
        ...

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        """
        Renew the leases that are still held under the same id, in one write.

        A lease then ends at *now* plus its length, or when it ended before, whichever is later. A renewal may be carried
        out long after it was sent, and must not undo a later one. An expired lease that was not taken over is held; the
        lease of a deleted record is not. The version stays. A store may move `claimable_at` of a renewed record up to the
        end of the lease, but not down, and not from None.
        """
        ...

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        """
        Return at most *limit* records of *task*, or of the whole partition, after the key *after*, in the order of keys.

        A page costs the same wherever it begins. A record that exists throughout a sequence of pages is in exactly one of
        them. An empty page is the end. A page may be short without being the last, since records that cannot be read are
        left out and logged.
        """
        ...

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        """
        Count the due and the leased records of *task*, or of the whole partition, at a cost that *limit* bounds.

        The store reads at most *limit* due records, soonest first, and as many leased ones, and counts those of *task*.
        Leases that end later than *now* + *longest_lease* may be missed. Records that cannot be read are counted. Without
        *task* there is no total. The numbers are not of one instant: they may include concurrent writes or not, and may
        be some seconds old.
        """
        ...

    async def partitions(self, realm: str) -> list[Partition]:
        """
        Return every partition of *realm* that has a record, and perhaps some that no longer have one.

        Raises StoreRefusedError if there are more than `PARTITIONS_MAX`.
        """
        ...

    async def history(self, key: Key) -> list[Run]:
        """
        Return the history of *key*, the latest `ended_at` first. Rows that cannot be read are left out and logged.

        At most `HISTORY_ROWS_MAX` rows are read.
        """
        ...

    async def now(self) -> Instant:
        """Return the backend's own time."""
        ...

    async def notify(self, notifications: Sequence[Notification]) -> None:
        """Send *notifications* to all callers of `notified`, in all processes, if the backend can."""
        ...

    def notified(self) -> AsyncIterator[Notification]:
        """
        Yield notifications from now on, until closed. Some may be lost, for example with a connection.

        A store whose capabilities exclude notifications yields nothing and waits.
        """
        ...


@runtime_checkable
class Versioned(Protocol):
    """
    A store that keeps its least reader: the oldest schema version whose releases may use its records.

    A release with an older schema is refused when it connects; see `SchemaError`.
    """

    async def min_reader(self) -> int:
        """Return the least reader."""
        ...

    async def raise_min_reader(self, version: int) -> None:
        """Raise the least reader to *version*. It never falls."""
        ...


def check_partition(partition: Partition) -> None:
    """Raise ValueError unless every store can keep *partition*."""
    _check_names("realm and handler", partition.realm + partition.handler, PARTITION_BYTES_MAX)
    if not 0 <= partition.number < 2**31:
        raise ValueError(f"A partition's number must be from 0 to {2**31 - 1}, not {partition.number}.")


def check_key(key: Key) -> None:
    """Raise ValueError unless every store can keep the names of *key*, apart from its partition."""
    _check_names("task, instance and occurrence", key.task + key.instance + key.occurrence, KEY_BYTES_MAX)


def check_partitions(number: int, realm: str) -> None:
    """Raise StoreRefusedError if a realm has too many partitions to be read."""
    if number > PARTITIONS_MAX:
        raise StoreRefusedError(
            f"The realm {realm} has more than {PARTITIONS_MAX:,} partitions: remove those that no worker wrote"
        )


def check_changes(changes: Sequence[Change]) -> None:
    """
    Raise ValueError unless *changes* are a valid batch.

    Each change has a *before* or an *after*. With both, they are of one key and the version grows. No key occurs twice.
    New records have names that every store can keep. Arguments have at most `ARGS_BYTES_MAX`. No group creates two records, and a batch with groups writes no
    history of a record that it deletes.
    """
    keys = {_checked_key(change) for change in changes}
    if len(keys) != len(changes):
        raise ValueError("No key may occur twice in a batch of changes.")
    if any(change.group for change in changes):
        _check_groups(changes)


def _checked_key(change: Change) -> Key:
    """Return the key of *change*. Raises ValueError unless it is valid by itself."""
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
        if len(after.spec.args) > ARGS_BYTES_MAX:
            raise ValueError(
                f"The arguments of {key} have {len(after.spec.args):,} bytes; at most {ARGS_BYTES_MAX:,} are allowed: "
                "store large data elsewhere, and pass a reference to it."
            )
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
        raise ValueError("A batch with groups cannot write the history of a record that it deletes.")


def _check_names(what: str, names: str, limit: int) -> None:
    if "\0" in names:
        raise ValueError(f"A name must not contain the character NUL: {names!r}.")
    try:
        size = len(names.encode())
    except UnicodeEncodeError:
        raise ValueError(f"A name must be valid Unicode: {names!r}.") from None
    if size > limit:
        raise ValueError(f"The names of {what} have {size} bytes together; at most {limit} are allowed.")
