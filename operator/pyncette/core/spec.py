"""What is wanted of an instance: when it is due, what it is called with, and what becomes of its occurrences."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.schedule import Schedule

SPEC_FORMAT: Final = 1
"""Grows when a stored spec can no longer be read by the release before."""


CONCURRENT_RUNS_MAX: Final = 10_000
"""The highest limit of a task on all workers together: each run has a permit, which is a record."""


class Mode(Enum):
    """How often an occurrence may run when workers die."""

    AT_LEAST_ONCE = "AtLeastOnce"
    AT_MOST_ONCE = "AtMostOnce"


class Overlap(Enum):
    """What happens when an occurrence is due while the one before it runs (`concurrencyPolicy`)."""

    FORBID = "Forbid"
    """It waits for the outcome of the one before, backoff included."""
    ALLOW = "Allow"
    """It runs beside the one before."""
    REPLACE = "Replace"
    """It cancels the one before and takes its place."""


class Missed(Enum):
    """Which of several occurrences that passed without a run are made up for (`missedRunPolicy`)."""

    ALL = "All"
    """One by one, oldest first; at most the newest `max_catch_up` of them."""
    LATEST = "Latest"
    """One run, for the latest."""
    SKIP = "Skip"
    """None that could not start within the starting deadline, or within `SKIP_TOLERANCE`."""
    FAST_FORWARD = "FastForward"
    """The oldest, once; then on from now (the `fast_forward` of the Python API)."""


class Exhaustion(Enum):
    """What follows when the attempts of an occurrence are spent (`onExhausted`)."""

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
    """Spread each delay over the half below it, by a hash, so that what failed together does not return together."""
    wait_for_lease: bool = False
    """Write nothing when an attempt fails: the lease expires, and then it is tried again (`FailureMode.NONE`)."""
    count_takeovers: bool = True
    """
    An attempt whose worker died is an attempt. False: whatever `max_attempts` is, an occurrence is taken over until its
    handler returns or raises (`FailureMode.COMMIT`, which is one attempt, and this).
    """


class Policies(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Everything that is decided about occurrences, beside when they are due. Defaults are those of the resources."""

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
    """Runs of the task at once, on all workers together; 0 sets no limit."""
    keep_finished: bool = False
    """Keep the record of a schedule that has no further occurrence, instead of removing it at its last completion."""
    keep_successful: int = 0
    """Rows of history kept of runs that succeeded."""
    keep_failed: int = 0
    """Rows of history kept of occurrences that ended in any other way."""


EMPTY_ARGS: Final = msgspec.Raw(b"{}")


class Spec(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is stored of a request. An instance of a template has no policies of its own: those of the template count."""

    schedule: Schedule | None = None
    """None for what is never due by itself: a template, a tally, a dead letter."""
    args: msgspec.Raw = EMPTY_ARGS
    """The arguments as a JSON object; parsed only when a handler asks for them."""
    policies: Policies | None = None
    partitions: int | None = None
    """Of a template that is declared: how many its instances are spread over, which never changes. None for all else."""
    format: int = SPEC_FORMAT
