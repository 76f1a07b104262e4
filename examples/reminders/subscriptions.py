"""
What people wish for: to be reminded, at another time or in another zone, or not any more.

The service's own database has the truth, and is written first. If what follows it fails, the same call again mends it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from examples.reminders.database import Database, Person
from examples.reminders.tasks import remind, report
from pyncette import PyncetteContext
from pyncette.model import InstanceResult

REPORT_TIME = "0 18 * * SUN"


def reminder_of(person: Person) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the options of the instance that reminds *person*."""
    hour, minute, second = (int(part) for part in person.remind_at.split(":"))
    return str(person.id), {
        "schedule": f"{minute} {hour} * * {person.days} {second}",  # seconds come last
        "timezone": person.zone,
        # No more than whom it is about: what else the handler needs to know may change until it runs.
        "person_id": person.id,
    }


def report_of(person: Person) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the options of the instance that writes *person* a report each week."""
    return str(person.id), {"schedule": REPORT_TIME, "timezone": person.zone, "person_id": person.id}


async def subscribe_everyone(context: PyncetteContext, database: Database) -> AsyncIterator[InstanceResult]:
    """
    Schedule what everyone wishes for, and tell of each instance how it went.

    Nothing is held for all at once, neither here nor on the way. Whoever has that schedule already keeps it as it is.
    """
    reminders = (reminder_of(person) async for person in database.everyone())
    async for result in context.schedule_many(remind, reminders):
        yield result
    reports = (report_of(person) async for person in database.everyone() if person.weekly_report)
    async for result in context.schedule_many(report, reports):
        yield result


async def change_wishes(context: PyncetteContext, database: Database, people: Iterable[Person]) -> None:
    """
    Let *people* have what they wish for now, instead of what they wished for before.

    With force, since else the sooner of the old and the new next time would be kept: one more reminder at a time that
    they gave up. A reminder that is being sent in this very moment loses its lease, which does not call it back.
    """
    wishes = list(people)
    await database.change_wishes(wishes)
    reports = [person for person in wishes if person.weekly_report]
    for task, items in ((remind, map(reminder_of, wishes)), (report, map(report_of, reports))):
        async for result in context.schedule_many(task, items, force=True):
            if result.error is not None:
                raise result.error


async def unsubscribe(context: PyncetteContext, database: Database, person_id: int) -> None:
    """Send a person nothing any more."""
    await database.leave_alone(person_id, datetime.now(UTC), "unsubscribed")
    for task in (remind, report):
        await context.unschedule_task(task, str(person_id))
