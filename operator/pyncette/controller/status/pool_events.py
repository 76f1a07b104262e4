"""Makes Events of what changed between two statuses of a pool: of transitions alone, and few of those."""

from __future__ import annotations

from collections.abc import Iterator

from pyncette.clock import Instant
from pyncette.controller.cluster.api import POOLS, Manifest
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import READY, STALLED, condition_of
from pyncette.controller.status.events import EventContent, Regarding, event
from pyncette.controller.status.pool_context import BACKEND_REACHABLE, DATABASE_COPIED
from pyncette.controller.status.pool_status import points_to_pods
from pyncette.resources.pool import PoolStatus
from pyncette.resources.resource import UNOBSERVED


def events_of_pool(
    regarding: Regarding, before: PoolStatus, after: PoolStatus, now: Instant, instance: str = ""
) -> list[Manifest]:
    """
    Return the Events of a status that was written: *before* became *after*; *instance* is the operator's pod.

    Events report that a pool got stuck, that its workers are not ready or not ready soon in a rollout, and that it recovered.
    They also report that it is scaled to zero, that its backend became unavailable or available, and that its database is
    a copy. The steps of a rollout have Events of the Deployment. A new pool has no Event, unless it is stuck.

    An Event that exists already by its name counts as created.
    """
    return [
        event(regarding._replace(kind=POOLS), content, _meant(content, after), now, instance)
        for content in _contents(before, after)
    ]


def _meant(content: EventContent, after: PoolStatus) -> int:
    """Return the generation of the Event; 0 for good news: an autoscaler makes new generations all the time."""
    return after.observed_generation if content.type == "Warning" else 0


def _contents(before: PoolStatus, after: PoolStatus) -> Iterator[EventContent]:
    ready = _of_ready(before, after)
    if ready is not None:
        yield ready
    pods = _of_pods(before, after)
    if pods is not None:
        yield pods
    backend = _of_backend(before, after)
    if backend is not None and (ready is None or ready.reason is not backend.reason):
        yield backend
    copied = condition_of(after, DATABASE_COPIED)
    if copied is not None and condition_of(before, DATABASE_COPIED) is None:
        yield EventContent(Reason.DATABASE_COPIED, "Warning", copied.message)


def _of_ready(before: PoolStatus, after: PoolStatus) -> EventContent | None:
    """Report a new reason of Ready. Reconciling and Stalled change with it only."""
    old, new = condition_of(before, READY), condition_of(after, READY)
    if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
        return None
    reason = Reason.of(new.reason)
    if reason is None or reason.event is None:
        return None
    if before.observed_generation == UNOBSERVED and condition_of(after, STALLED) is None:
        return None
    return EventContent(reason, reason.event, new.message)


def _of_pods(before: PoolStatus, after: PoolStatus) -> EventContent | None:
    """Report once what to check while a rollout waits for its pods; the reason of Ready does not change then."""
    ready = condition_of(after, READY)
    if (
        ready is None
        or ready.reason != Reason.ROLLING_OUT.value
        or not points_to_pods(after)
        or points_to_pods(before)
    ):
        return None
    return EventContent(Reason.PODS_NOT_READY, "Warning", ready.message)


def _of_backend(before: PoolStatus, after: PoolStatus) -> EventContent | None:
    """Report when operator and workers no longer share a backend, and when they do again."""
    old, new = condition_of(before, BACKEND_REACHABLE), condition_of(after, BACKEND_REACHABLE)
    if old is None or new is None or old.status == new.status or "Unknown" in {old.status, new.status}:
        return None
    reason = Reason.of(new.reason)
    return None if reason is None or reason.event is None else EventContent(reason, reason.event, new.message)
