"""
The subscriptions of people: their reminders, changes, and unsubscriptions.

The database of the service is authoritative, and is written first. If a later step fails, repeat the call to complete it.
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
        # Only the person: all other data may change until the handler runs.
        "args": {"person_id": person.id},
    }


def report_of(person: Person) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the options of the instance that writes *person* a report each week."""
    return str(person.id), {
        "schedule": REPORT_TIME,
        "timezone": person.zone,
        "args": {"person_id": person.id},
    }


async def subscribe_everyone(context: PyncetteContext, database: Database) -> AsyncIterator[InstanceResult]:
    """
    Schedule the reminders and reports of everyone, and yield a result for each instance.

    People are read and scheduled as a stream. Existing schedules that are the same do not change.
    """
    reminders = (reminder_of(person) async for person in database.everyone())
    async for result in context.schedule_many(remind, reminders):
        yield result
    reports = (report_of(person) async for person in database.everyone() if person.weekly_report)
    async for result in context.schedule_many(report, reports):
        yield result


async def change_preferences(context: PyncetteContext, database: Database, people: Iterable[Person]) -> None:
    """
    Replace the subscriptions of *people*.

    With force, since otherwise a subscription whose reminder is being sent at this moment is refused. That reminder loses
    its lease, but is still sent.
    """
    preferences = list(people)
    await database.change_preferences(preferences)
    reports = [person for person in preferences if person.weekly_report]
    for task, items in ((remind, map(reminder_of, preferences)), (report, map(report_of, reports))):
        async for result in context.schedule_many(task, items, force=True):
            if result.error is not None:
                raise result.error


async def unsubscribe(context: PyncetteContext, database: Database, person_id: int) -> None:
    """Stop sending mail to a person."""
    await database.leave_alone(person_id, datetime.now(UTC), "unsubscribed")
    for task in (remind, report):
        await context.unschedule_task(task, str(person_id))
