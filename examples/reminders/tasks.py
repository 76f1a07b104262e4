"""The tasks: a reminder for each person, a weekly report for those who want one, and an hourly cleanup."""

from __future__ import annotations

import datetime
import random
from collections.abc import AsyncIterator

from examples.reminders import settings
from examples.reminders.database import Database
from examples.reminders.mail import AddressRefusedError, Mailer, reminder
from pyncette import Context, FailureMode, Pyncette, PyncetteContext
from pyncette.backend import backend_repository
from pyncette.errors import DoNotRetry, RetryAfter
from pyncette.model import NextFunc

SIX_DAYS = datetime.timedelta(days=6)
"""From the first day of a week to its last."""

ATTEMPTS_MAX = 10
"""With the delays below, the last attempt is about ten minutes after the first. Later, a reminder is of no use."""

FIRST_RETRY_SECONDS = 2
LAST_RETRY_SECONDS = 300

app = Pyncette(backend_repository, defaults="safe", backend_url=settings.BACKEND)


class RunContext(Context):
    """The context of a run, with the values of the fixtures below."""

    database: Database
    mailer: Mailer


@app.fixture()
async def database(_: PyncetteContext) -> AsyncIterator[Database]:
    async with Database.open(settings.DATABASE) as opened:
        yield opened


@app.fixture()
async def mailer(_: PyncetteContext) -> AsyncIterator[Mailer]:
    pool = Mailer(settings.SMTP_HOST, settings.SMTP_PORT)
    yield pool
    await pool.close()


@app.middleware
async def retry_later_and_later(context: Context, run: NextFunc) -> None:
    """
    Retry failed runs after delays that double, up to ATTEMPTS_MAX, unless the handler raised DoNotRetry or RetryAfter.

    The random part spreads the retries of runs that failed together, such as while the mail server was down.
    """
    try:
        await run()
    except (DoNotRetry, RetryAfter):
        raise
    except Exception as error:
        if context.attempt >= ATTEMPTS_MAX:
            raise DoNotRetry(f"given up after {context.attempt} attempts: {error}") from error
        wait = min(FIRST_RETRY_SECONDS * 2 ** (context.attempt - 1), LAST_RETRY_SECONDS)
        delay = datetime.timedelta(seconds=wait * random.uniform(0.5, 1))
        raise RetryAfter(delay, f"{type(error).__name__}: {error}") from error


@app.dynamic_task(failure_mode=FailureMode.NONE)  # without a limit of its own: retry_later_and_later has one
async def remind(context: RunContext, person_id: int) -> None:
    """
    Send a person their reminder.

    An occurrence may run again, after an error of the mail server or a crash of the worker. A message that is recorded as
    sent is not sent again. If the worker crashes between sending and recording, the second message has the Message-ID of
    the first, so that mail systems can recognize the duplicate.
    """
    database = context.database
    message_id = f"<{context.idempotency_key}@habits.example>"
    person = await database.person(person_id)
    if person is None or await database.was_sent(message_id):
        return
    today = context.scheduled_at.date()  # in their zone, since scheduled_at is in the zone of the schedule
    habits = await database.habits(person.id, today - SIX_DAYS, today)
    try:
        await context.mailer.send(reminder(person, habits, context.scheduled_at, message_id))
    except AddressRefusedError as error:
        await database.leave_alone(person.id, context.scheduled_at, f"refused: {error}")
        raise DoNotRetry(f"person {person.id} cannot be reached: {error}") from error
    await database.note_sent(message_id, person.id, context.scheduled_at)


@app.dynamic_task(failure_mode=FailureMode.NONE)
async def report(context: RunContext, person_id: int) -> None:
    """Write the report of the week that ends today for a person. Writing it again replaces it."""
    database = context.database
    person = await database.person(person_id)
    if person is None:
        return
    today = context.scheduled_at.date()
    habits = await database.habits(person.id, today - SIX_DAYS, today)
    lines = [f"{habit.title}: {'#' * habit.days_done:.<7}\n" for habit in habits]
    await database.write_report(person.id, f"{today:%G-W%V}", "".join(lines))


@app.task(interval=datetime.timedelta(hours=1))
async def tidy(context: RunContext) -> None:
    """
    Remove the schedules of people who no longer get mail, so that they do not run in vain.

    It checks the last day each time, so a run that fails or is late misses nobody.
    """
    database = context.database
    left = await database.left_since(context.scheduled_at - datetime.timedelta(days=1))
    for task in (remind, report):
        async for result in context.app_context.unschedule_many(task, map(str, left)):
            if result.error is not None:
                raise result.error


if __name__ == "__main__":
    app.main()
