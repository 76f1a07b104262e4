"""Makes Events of what changed between two statuses of a task: of transitions alone, and few of those."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.controller.api import TASKS, Manifest
from pyncette.controller.reasons import EventType, Reason
from pyncette.resources.conversion import REDRIVE, RESUME, RUN
from pyncette.resources.modelling import datetime_of
from pyncette.resources.resource import UNOBSERVED, Condition
from pyncette.resources.task import TaskStatus

REPORTER: Final = "pyncette.dev/operator"
"""Who reports, as `kubectl describe` shows it."""

MESSAGE_BYTES_MAX: Final = 1024
"""The API server refuses Events that say more."""

NAME_MAX: Final = 253
"""Characters of a name in the API."""

WINDOW: Final[Duration] = 600 * SECOND
"""
What is told once is not told again for up to this time: its Event would have the same name. So a task that fails every
other minute makes two Events in ten minutes, and an operator that restarts in the middle of a write makes none twice.
"""


class Regarding(NamedTuple):
    """The object that Events are about."""

    namespace: str
    name: str
    uid: str


class Occasion(NamedTuple):
    """Something that is worth an Event."""

    reason: Reason
    type: EventType
    message: str
    occasion: str = ""
    """Tells it from others of the same reason that are to be told as well."""


def events_of(
    regarding: Regarding, before: TaskStatus, after: TaskStatus, now: Instant, instance: str = ""
) -> list[Manifest]:
    """
    Return the Events of a status that was written: *before* became *after*; *instance* is the operator's pod.

    Told are: that a task got stuck, or is well again; that it waits for its backend, its handler or its move; that it is
    suspended, goes on, or is over; that runs began to fail, that the first was dead-lettered, that they succeed again; that
    something asked for was done. Not told are: how each run went, that an edit was taken over, that a wait is over, and
    anything of a task that is seen for the first time, unless it is stuck.

    An Event that is there already by its name was told: whoever creates them takes that for done.
    """
    return [
        _event(regarding, occasion, after.observed_generation, now, instance)
        for occasion in _occasions(before, after)
    ]


def _occasions(before: TaskStatus, after: TaskStatus) -> Iterator[Occasion]:
    ready = _of_ready(before, after)
    yield from ready
    if before.observed_generation == UNOBSERVED:
        return
    if not any(
        occasion.reason is Reason.RETRIES_EXHAUSTED for occasion in ready
    ):  # which says how the run failed
        yield from _of_runs(before, after)
    yield from _of_requests(before, after)


def _of_ready(before: TaskStatus, after: TaskStatus) -> list[Occasion]:
    """Tell of Ready by its reason: Reconciling, Stalled, Suspended and HandlerResolved change for no other."""
    old, new = _condition(before, "Ready"), _condition(after, "Ready")
    if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
        return []
    reason = Reason.of(new.reason)
    stuck = _condition(after, "Stalled") is not None
    if reason is None or reason.event is None:
        return []
    if before.observed_generation == UNOBSERVED and not stuck:
        return []
    # That it begins to wait is told; what else it waits for, and that the wait is over, is not: after an install all tasks
    # have waited for their backend and their workers.
    waits_on = reason is Reason.SCHEDULED or _condition(after, "Reconciling") is not None
    if waits_on and _condition(before, "Reconciling") is not None:
        return []
    return [Occasion(reason, reason.event, new.message)]


def _of_runs(before: TaskStatus, after: TaskStatus) -> Iterator[Occasion]:
    """Tell when runs begin to fail and when they succeed again, and not of each; and of the first dead letter."""
    old, new = _condition(before, "RunsHealthy"), _condition(after, "RunsHealthy")
    if old is None or new is None:
        return
    reason = Reason.of(new.reason)
    if reason is None or reason.event is None:
        return
    first_letter = not before.run_counts.dead_lettered and after.run_counts.dead_lettered > 0
    turned = old.status != new.status and (new.status == "False" or old.status == "False")
    if turned or (first_letter and reason is Reason.DEAD_LETTERED):
        yield Occasion(reason, reason.event, new.message)


def _of_requests(before: TaskStatus, after: TaskStatus) -> Iterator[Occasion]:
    asked = (
        (Reason.RUN_REQUESTED, RUN, before.last_handled_run_request, after.last_handled_run_request),
        (
            Reason.RESUME_REQUESTED,
            RESUME,
            before.last_handled_resume_request,
            after.last_handled_resume_request,
        ),
        (
            Reason.REDRIVE_REQUESTED,
            REDRIVE,
            before.last_handled_redrive_request,
            after.last_handled_redrive_request,
        ),
    )
    for reason, annotation, old, new in asked:
        if new is not None and new != old:
            yield Occasion(reason, "Normal", f"Done as the annotation {annotation} asks: {new}", new)


def _condition(status: TaskStatus, kind: str) -> Condition | None:
    return next((item for item in status.conditions if item.type == kind), None)


def _event(
    regarding: Regarding, occasion: Occasion, generation: int, now: Instant, instance: str
) -> Manifest:
    at = f"{datetime_of(now - now % SECOND):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": _name(regarding, occasion, generation, now),
            "namespace": regarding.namespace,
        },
        "involvedObject": {
            "apiVersion": TASKS.api_version,
            "kind": TASKS.name,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
        },
        "reason": occasion.reason.value,
        "message": _cut(occasion.message),
        "type": occasion.type,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
        "source": {"component": REPORTER},
        "reportingComponent": REPORTER,
        "reportingInstance": instance,
    }


def _name(regarding: Regarding, occasion: Occasion, generation: int, now: Instant) -> str:
    """Return the name of an Event, which is the same for what means the same."""
    meaning = (regarding.uid, occasion.reason.value, occasion.occasion, str(generation), str(now // WINDOW))
    digest = blake2b("\0".join(meaning).encode("utf-8", "replace"), digest_size=8).hexdigest()
    return f"{regarding.name[: NAME_MAX - len(digest) - 1].rstrip('-.')}.{digest}"


def _cut(message: str) -> str:
    """Cut *message* to what an Event may hold, between two characters."""
    told = message.encode("utf-8", "replace")
    if len(told) <= MESSAGE_BYTES_MAX:
        return told.decode()
    return told[: MESSAGE_BYTES_MAX - len("…".encode())].decode("utf-8", "ignore") + "…"
