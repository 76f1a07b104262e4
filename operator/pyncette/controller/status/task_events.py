"""Makes Events of what changed between two statuses of a task: of transitions alone, and few of those."""

from __future__ import annotations

from collections.abc import Iterator

from pyncette.clock import Instant
from pyncette.controller.cluster.api import Manifest
from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import READY, RECONCILING, STALLED, condition_of
from pyncette.controller.status.events import EventContent, Regarding, event
from pyncette.mirror.conversion import REDRIVE, RESUME, RUN
from pyncette.resources.resource import UNOBSERVED
from pyncette.resources.task_status import TaskStatus


def events_of(
    regarding: Regarding, before: TaskStatus, after: TaskStatus, now: Instant, instance: str = ""
) -> list[Manifest]:
    """
    Return the Events of a status that was written: *before* became *after*; *instance* is the operator's pod.

    Reported are: that a task is stalled, or ready again; that it waits for its backend, its handler or its move; that it is
    suspended, resumed or over; that runs began to fail, that the first was dead-lettered, that they succeed again; that a
    request was handled. Not reported are: the outcome of each run, that an edit was applied, that a wait is over, and
    anything of a task that is seen for the first time, unless it is stalled.

    An Event that exists already by its name counts as created.
    """
    return [
        event(regarding, content, after.observed_generation, now, instance)
        for content in _contents(before, after)
    ]


def _contents(before: TaskStatus, after: TaskStatus) -> Iterator[EventContent]:
    ready = _of_ready(before, after)
    yield from ready
    if before.observed_generation == UNOBSERVED:
        return
    if not any(
        content.reason is Reason.RETRIES_EXHAUSTED for content in ready
    ):  # which says how the run failed
        yield from _of_runs(before, after)
    yield from _of_requests(before, after)


def _of_ready(before: TaskStatus, after: TaskStatus) -> list[EventContent]:
    """Report a new reason of Ready. Reconciling, Stalled, Suspended and HandlerResolved change with it only."""
    old, new = condition_of(before, READY), condition_of(after, READY)
    reason = None if new is None else Reason.of(new.reason)
    stuck = condition_of(after, STALLED) is not None
    if new is None or reason is None or reason.event is None:
        return []
    same = old is not None and (old.status, old.reason) == (new.status, new.reason)
    if reason is Reason.POOL_NOT_FOUND:
        # A pool that is being replaced, or is created right after its tasks, is not reported.
        if not stuck:
            return []
        same = same and condition_of(before, STALLED) is not None
    if same:
        return []
    if before.observed_generation == UNOBSERVED and not stuck:
        return []
    # The start of a wait is reported, but neither other waits after it nor its end: after an install, all tasks have
    # waited for their backend and their workers.
    waits_on = reason is Reason.SCHEDULED or condition_of(after, RECONCILING) is not None
    if waits_on and condition_of(before, RECONCILING) is not None:
        return []
    return [EventContent(reason, reason.event, new.message)]


def _of_runs(before: TaskStatus, after: TaskStatus) -> Iterator[EventContent]:
    """Report when runs begin to fail, when they succeed again, and the first dead letter."""
    old, new = condition_of(before, "RunsHealthy"), condition_of(after, "RunsHealthy")
    if old is None or new is None:
        return
    reason = Reason.of(new.reason)
    if reason is None or reason.event is None:
        return
    first_letter = not before.run_counts.dead_lettered and after.run_counts.dead_lettered > 0
    turned = old.status != new.status and (new.status == "False" or old.status == "False")
    if turned or (first_letter and reason is Reason.DEAD_LETTERED):
        yield EventContent(reason, reason.event, new.message)


def _of_requests(before: TaskStatus, after: TaskStatus) -> Iterator[EventContent]:
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
            yield EventContent(
                reason, "Normal", f"Handled the request of the annotation {annotation}: {new}", new
            )
