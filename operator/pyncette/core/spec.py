"""The spec of an instance: its schedule, its arguments, and the policies for its occurrences."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.schedule import Schedule

SPEC_FORMAT: Final = 1
"""Incremented when the release before cannot read a stored spec any more."""


CONCURRENT_RUNS_MAX: Final = 10_000
"""The highest limit of a task across workers: each run has a permit, which is a record."""


class Mode(Enum):
    """How often an occurrence may run when workers die."""

    AT_LEAST_ONCE = "AtLeastOnce"
    AT_MOST_ONCE = "AtMostOnce"


class Overlap(Enum):
    """The policy for an occurrence that is due while the one before it runs (`concurrencyPolicy`)."""

    FORBID = "Forbid"
    """It waits for the outcome of the one before, backoff included."""
    ALLOW = "Allow"
    """It runs beside the one before."""
    REPLACE = "Replace"
    """It cancels the one before and takes its place."""


class Missed(Enum):
    """The policy for occurrences that passed without a run: which of them still run (`missedRunPolicy`)."""

    ALL = "All"
    """One by one, oldest first; at most the newest `max_catch_up` of them."""
    LATEST = "Latest"
    """One run, for the latest."""
    SKIP = "Skip"
    """None that could not start within the starting deadline, or within `SKIP_TOLERANCE`."""
    FAST_FORWARD = "FastForward"
    """The oldest, once; then on from now (the `fast_forward` of the Python API)."""


class Exhaustion(Enum):
    """The policy for an occurrence that has no attempt left (`onExhausted`)."""

    CONTINUE = "Continue"
    SUSPEND = "Suspend"
    DEAD_LETTER = "DeadLetter"


class Heartbeat(Enum):
    """Who renews the lease of a run."""

    AUTOMATIC = "Automatic"
    COOPERATIVE = "Cooperative"


class Retry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """When a failed attempt is followed by another of the same occurrence."""

    max_attempts: int = 5
    """Attempts of one occurrence, the first included; 0 sets no limit."""
    initial: Duration = 5 * SECOND
    """The delay after the first attempt; it doubles with each further one."""
    maximum: Duration = 300 * SECOND
    jitter: bool = True
    """Spread each delay over its upper half, by a hash, so that occurrences that failed together are not retried together."""
    wait_for_lease: bool = False
    """Write nothing when an attempt fails: it is retried when the lease has expired (`FailureMode.NONE`)."""
    count_takeovers: bool = True
    """
    An attempt whose worker died is an attempt. False: whatever `max_attempts` is, an occurrence is taken over until its
    handler returns or raises (`FailureMode.COMMIT`, which is one attempt, and this).
    """


class Policies(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The policies for occurrences: everything but their due times. Defaults are those of the resources."""

    mode: Mode = Mode.AT_LEAST_ONCE
    overlap: Overlap = Overlap.FORBID
    missed: Missed = Missed.LATEST
    max_catch_up: int = 100
    """With `Missed.ALL`: how many of the missed ones run; 0 sets no limit."""
    starting_deadline: Duration | None = None
    """An occurrence that could not be started for the first time this long after it was due is skipped."""
    active_deadline: Duration | None = None
    """A run is cancelled after this time, heartbeats or not, and has failed."""
    retry: Retry = Retry()
    exhausted: Exhaustion = Exhaustion.CONTINUE
    jitter: Duration = 0
    """The upper bound of a delay that is hashed from the key of the instance, and always the same for it."""
    not_before: Instant | None = None
    not_after: Instant | None = None
    suspend: bool = False
    lease: Duration = 60 * SECOND
    heartbeat: Heartbeat = Heartbeat.AUTOMATIC
    max_concurrent: int = 0
    """The most concurrent runs of the task across workers; 0 sets no limit."""
    keep_finished: bool = False
    """Keep the record of a schedule that has no further occurrence, instead of removing it at its last completion."""
    keep_successful: int = 0
    """Rows of history that are kept for runs that succeeded."""
    keep_failed: int = 0
    """Rows of history that are kept for all other outcomes."""


EMPTY_ARGS: Final = msgspec.Raw(b"{}")


class Spec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The desired state of an instance, as stored. An instance of a template usually has no policies of its own."""

    schedule: Schedule | None = None
    """None for records that are never due by themselves: a template, a counter, a dead letter."""
    args: msgspec.Raw = EMPTY_ARGS
    """The arguments as a JSON object; parsed only when a handler asks for them."""
    policies: Policies | None = None
    partitions: int | None = None
    """For a declared template: its partition count, which never changes. None for all other records."""
    format: int = SPEC_FORMAT
