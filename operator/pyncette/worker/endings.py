"""Logs how a run ended that did not succeed, and what follows: another attempt, a dead letter, a suspension."""

from __future__ import annotations

import datetime

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import is_dead_letter
from pyncette.core.runs import Completion, Ending, HeldRun
from pyncette.worker.occurrence import Occurrence

logger = naming_logger(__name__)


def log_ending(occurrence: Occurrence, completion: Completion, now: Instant) -> None:
    """Log what ended a run, unless it was the error of its handler, which is logged already; and what follows."""
    extra = occurrence.log_fields()
    ended = completion.ended
    if ended.ending is Ending.REPLACED:
        logger.info("the run was replaced: %s", ended.message, extra=extra)
    elif ended.ending is Ending.DRAINED:
        logger.info("the run was cancelled: %s", ended.message, extra=extra)
    elif ended.ending in {Ending.RAISED, Ending.REFUSED}:
        if occurrence.ending is Ending.RAISED:
            logger.error("the run timed out: %s", ended.message, extra=extra)
        _log_what_follows(completion, now, extra)


def _log_what_follows(completion: Completion, now: Instant, extra: dict[str, object]) -> None:
    held, change = completion.held, completion.change
    if change is None:
        logger.info("the next attempt follows when the lease expires", extra=extra)
    elif is_dead_letter(held.record.key):
        logger.warning("the redrive failed: its dead letter is kept", extra=extra)
    elif completion.created is not None and is_dead_letter(completion.created.key):
        logger.warning("the occurrence was dead-lettered", extra=extra)
    elif _suspends(completion):
        logger.warning("the schedule is suspended, since no attempt succeeded", extra=extra)
    elif change.after is not None and change.after.attempt > 0:
        delay = max(0, (change.after.claimable_at or now) - now)
        logger.info("the next attempt%s follows in %s", _number(held), _seconds(delay), extra=extra)
    else:
        logger.info("the occurrence failed, and is not retried", extra=extra)


def _number(held: HeldRun) -> str:
    """Return which attempt comes after *held*, if their number has a limit."""
    limit = held.policies.retry.max_attempts
    return f", {held.attempt + 1} of {limit}," if limit else ""


def _suspends(completion: Completion) -> bool:
    """Return True if the policy of the task suspends its schedule, since no attempt is left."""
    if completion.removed_counts is not None and completion.removed_counts.exhausts:
        return True  # a side run, whose schedule is another record
    change = completion.change
    return change is not None and change.after is not None and change.after.state.exhausted


def _seconds(delay: Duration) -> str:
    seconds = delay / SECOND
    return f"{seconds:.3g} s" if seconds < 60 else str(datetime.timedelta(seconds=round(seconds)))
