"""The record of an instance: its spec, when it is next due, its lease, and its outcomes so far."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.spec import Spec

# perf: structs here are not tracked by the garbage collector (`gc=False`). Immutable values form no cycles, and a worker
# under load makes so many that collections would pause it for milliseconds.

MESSAGE_CHARACTERS_MAX: Final = 1024
"""The stored length of an error, as `lastRun.message` promises."""


class Partition(NamedTuple):
    """A part of the records that workers claim from. A worker claims only from partitions of its own handlers."""

    realm: str
    """Keeps the tenants of one database apart; empty by default."""
    handler: str
    number: int = 0


RESERVED_REALMS: Final = "pyncette:"
"""The prefix of realms in which workers coordinate. No task can be in one: see `check_realm`."""


def check_realm(realm: str) -> None:
    """Raise ValueError for a realm that is reserved, and cannot have tasks."""
    if realm.startswith(RESERVED_REALMS):
        raise ValueError(f"realms that begin with {RESERVED_REALMS} are reserved, and cannot have tasks")


BEYOND: Final = "\U0010ffff" * 8
"""Sorts after the name of any instance, since Unicode will never give this code point to a character."""


class Key(NamedTuple):
    """The identity of a record. Keys of one partition are ordered by their three names, and scanned in that order."""

    partition: Partition
    task: str
    instance: str = ""
    """Empty for a task with a schedule of its own, and for a template."""
    occurrence: str = ""
    """Empty, but for a side run, a run on demand, a dead letter or a counter shard."""

    def __str__(self) -> str:
        name = f"{self.task}/{self.instance}" if self.instance else self.task
        return f"{name}@{self.occurrence}" if self.occurrence else name


RUN_PREFIX: Final = "run-"
"""The prefix of the `occurrence` of a run on demand."""

DEAD_LETTER_PREFIX: Final = "dead-"
"""The prefix of the `occurrence` of a dead letter; the occurrence of the failed run follows."""


def is_dead_letter(key: Key) -> bool:
    """Say whether *key* is that of a dead letter: a failed occurrence that is kept to be redriven."""
    return key.occurrence.startswith(DEAD_LETTER_PREFIX)


def is_on_demand(key: Key) -> bool:
    """Say whether *key* is that of a run on demand, which no schedule names, or of its dead letter."""
    return key.occurrence.removeprefix(DEAD_LETTER_PREFIX).startswith(RUN_PREFIX)


def is_side_run(key: Key) -> bool:
    """Say whether *key* is that of a side run: of an occurrence that its schedule named, and has moved on from."""
    return key.occurrence != "" and not key.occurrence.startswith((RUN_PREFIX, DEAD_LETTER_PREFIX))


class Lease(NamedTuple):
    """The right to run a record and to complete it."""

    id: str
    """New with each claim; one claim gives the same id to all records of its batch."""
    holder: str
    expires_at: Instant


class Outcome(Enum):
    """How an occurrence ended. Each ends in exactly one way, and is counted."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD_LETTERED = "deadLettered"
    MISSED = "missed"
    SKIPPED = "skipped"
    REPLACED = "replaced"
    LOST = "lost"
    WITHDRAWN = "withdrawn"


class Counts(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """The number of occurrences per outcome, since the record was created."""

    succeeded: int = 0
    failed: int = 0
    dead_lettered: int = 0
    missed: int = 0
    skipped: int = 0
    replaced: int = 0
    lost: int = 0
    withdrawn: int = 0


class Dropped(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A gap: occurrences that ended without a run, all in the same way."""

    outcome: Outcome
    first_at: Instant
    last_at: Instant
    count: int = 1
    exact: bool = True
    """False: *count* is a lower bound."""


class Started(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The occurrence in progress, once it differs from what `due_at` and `began_at` say."""

    scheduled_at: Instant
    began_at: Instant
    """The store's time of the first claim."""
    dropped: tuple[Dropped, ...] = ()
    """Occurrences that the choice of this one dropped; they are counted when it ends."""
    at_most_once: bool = False
    """True if `due_at` moved on before the handler was called: no edit has it called again."""
    due_at: Instant | None = None
    """
    With at most once, the `due_at` before this start. A release before the handler was called restores it.

    None once an edit has set another due time, which then stands.
    """


class Owner(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The resource that a record mirrors."""

    uid: str
    generation: int
    spec_hash: str
    name: str = ""
    """The name of the resource, if the record has another: a template has the name of its handler."""
    takes_instances: bool = False
    """For a template: its instances are removed with it (`deletionPolicy: Delete`)."""
    created_at: Instant | None = None
    """When the API server created the resource, in whole seconds. Of two with one name, it identifies the newer."""


class Requests(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The requests in annotations of a resource, by their values: each new value is one request. Empty: none."""

    run: str = ""
    """One extra run."""
    resume: str = ""
    """The end of the suspension by exhaustion."""
    redrive: str = ""
    """The dead letters again."""


NO_REQUESTS: Final = Requests()


class Summary(
    msgspec.Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    rename={"successes_without_history": "rowless"},
):
    """The history of a record in figures, with its last run."""

    last_scheduled_at: Instant | None = None
    last_started_at: Instant | None = None
    last_ended_at: Instant | None = None
    last_outcome: Outcome | None = None
    last_attempts: int = 0
    last_worker: str = ""
    last_message: str = ""
    last_success_at: Instant | None = None
    last_failure_at: Instant | None = None
    consecutive_failures: int = 0
    counts: Counts = Counts()
    exact: bool = True
    """False once a gap too large to be counted made `counts` a lower bound."""
    rows: int = 0
    """Rows of history written so far for other outcomes than success; the slot of the next one follows from it."""
    successes_without_history: int = 0
    """Successes that wrote no history row. The next slot is `counts.succeeded` minus this. Stored as `rowless`."""


class State(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename={"created_version": "born"}):
    """The fields of a record that no store compares: written with each completion, as one JSON text."""

    created_version: int = 0
    """The version that the record was created with: it differs when a record is created again. Stored as `born`."""
    started: Started | None = None
    exhausted: bool = False
    """Suspended because attempts were spent; ends by a resume or by a new generation."""
    withdrawn_at: Instant | None = None
    """Stopped since then, and removed after a grace unless its resource returns."""
    owner: Owner | None = None
    summary: Summary = Summary()
    handled: Requests = NO_REQUESTS
    """The requests of its resource that were carried out. Of a dead letter: the request that last redrove it."""
    floor: Instant | None = None
    """
    The latest nominal time of the schedule's own occurrences that has started and is no longer in progress.

    No edit makes that time, or one before it, due again, however wrong the editor's clock is. Extra runs, redriven dead
    letters and side runs do not change their own record's floor.
    """
    schedule_version: int | None = None
    """
    The version with which an edit or a resume has counted this schedule anew; None since its creation.

    Of a side run at most once: that of its schedule, see `schedule_version_of`; None if the schedule ended with it.
    """


class Record(msgspec.Struct, frozen=True, gc=False):
    """One instance as stored. A record is immutable: a rule returns a new one, and `swap` replaces it."""

    key: Key
    spec: Spec
    version: int
    """Grows with each write but a renewal. A new record starts at the store's clock in microseconds."""
    fence: int
    """Grows with each claim; starts like `version`."""
    due_at: Instant | None
    """The next occurrence, or the one in progress; nominal, without jitter. None: no further one."""
    schedule_since: Instant
    """Since when this schedule counts; an interval counts from here."""
    claimable_at: Instant | None
    """When the record can next be claimed. None: nothing is to run (suspended, finished)."""
    lease_length: Duration
    """A claim stamps its time plus this."""
    attempt: int = 0
    """Claims of the occurrence in progress that count; 0 if none is."""
    began_at: Instant | None = None
    """The time of the first claim of the occurrence in progress."""
    lease: Lease | None = None
    state: State = State()
    locator: Any = None
    """Where the store found it: the store's own business, and good only with this version."""

    def is_leased(self, now: Instant) -> bool:
        """Say whether a lease is held at *now*; at its very end it has expired."""
        return self.lease is not None and self.lease.expires_at > now

    def has_lease_of(self, other: Record) -> bool:
        """Say whether both have a lease, and it is the same: each claim gives an id of its own."""
        return self.lease is not None and other.lease is not None and self.lease.id == other.lease.id


def schedule_version_of(record: Record) -> int:
    """Return the version of *record* since which its times count as they do: it differs after each edit that changes them."""
    version = record.state.schedule_version
    return record.state.created_version if version is None else version


def inert_record(key: Key, spec: Spec, now: Instant) -> Record:
    """Return a new record that is never due or claimed: it exists to carry its *spec*, or just to exist."""
    return Record(
        key=key,
        spec=spec,
        version=now,
        fence=now,
        due_at=None,
        schedule_since=now,
        claimable_at=None,
        lease_length=0,
    )


class Run(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A row of history: how one occurrence, or one gap of them, ended."""

    id: str
    scheduled_at: Instant
    ended_at: Instant
    outcome: Outcome
    started_at: Instant | None = None
    attempts: int = 0
    worker: str = ""
    message: str = ""
    count: int = 1
    """More than 1 for a gap; a lower bound if not `exact`."""
    exact: bool = True


class HistoryRow(NamedTuple):
    """A run and the slot that keeps it. A write to a slot replaces its row, which bounds a history."""

    slot: int
    """Not negative for runs that succeeded, negative for the others."""
    run: Run


class Change(NamedTuple):
    """
    A compare-and-swap: put *after* in the place of *before*.

    Without *before* the record is created, if no record has its key; without *after* it is deleted. With both, the
    keys are equal and `after.version` is greater. *history* is written with it or not at all; each row replaces
    what its slot held for `history_of` (the key of *before* or *after*, unless it is given). Changes of one batch
    with the same *group*, if it is not 0, are made together or not at all.
    """

    before: Record | None
    after: Record | None
    history: tuple[HistoryRow, ...] = ()
    history_of: Key | None = None
    group: int = 0

    @property
    def key(self) -> Key:
        """The key of the record."""
        record = self.before or self.after
        assert record is not None
        return record.key


_S = TypeVar("_S", bound=msgspec.Struct)


def replace(value: _S, **fields: Any) -> _S:
    """Return *value* with *fields* in place of its own."""
    return msgspec.structs.replace(value, **fields)
