"""The commands of the example: `python -m examples.reminders COMMAND`."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import logging
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import TypeAlias
from zoneinfo import ZoneInfo

from examples.reminders import crowd, settings, subscriptions
from examples.reminders.account import Account, make_account
from examples.reminders.database import Database, Person
from examples.reminders.mail_server import running_mail_server
from examples.reminders.meter import Meter
from examples.reminders.tasks import app, remind, report, tidy
from pyncette import PyncetteContext
from pyncette.errors import PyncetteException
from pyncette.testing import running

UTC = datetime.UTC

A_DAY_OF_CHANGE = datetime.date(2026, 10, 25)
"""A Sunday, for the weekly reports. In its night, the clocks of Europe go back."""

RUSH_BEGINS = datetime.timedelta(seconds=2)
RUSH_BEGINS_LATER_BY = datetime.timedelta(milliseconds=4)
"""Time to schedule each person who takes part in a rush."""

HERD_SECONDS_MAX = 600
"""Real time for all reminders of one instant of simulated time, which are up to two thousand."""

PROGRESS_SECONDS = 1.0

Clock: TypeAlias = Callable[[], datetime.datetime]


async def day(date: datetime.date, people: int) -> Account:
    """Let a day pass in simulated time: due reminders run, for real, and then the clock moves to the next due time."""
    await start_afresh()
    meter = metered()
    start = datetime.datetime.combine(date, datetime.time(), UTC)
    async with (
        running_mail_server(),
        Database.open(settings.DATABASE) as database,
        running(app, start, backend="app", settle_seconds=HERD_SECONDS_MAX) as world,
    ):
        await sign_up_people(world.context, database, people, lambda: world.now)
        print(
            f"{date:%A, %d %B %Y}, from midnight to midnight UTC: the time is simulated, the messages are real"
        )
        began = time.monotonic()
        async with meter.shown(lambda: world.now):
            await world.advance(days=1)
        seconds = time.monotonic() - began
        print(f"The day took {seconds:.0f} s, for {meter.sent:,} messages: {meter.sent / seconds:,.0f}/s")
        return await make_account(world.context, until=world.now)


async def sign_up(people: int) -> None:
    """Start over, with *people* who want to be reminded."""
    await start_afresh()
    async with Database.open(settings.DATABASE) as database, app.create() as context:
        await sign_up_people(context, database, people, now)


async def run(rush: int, within: float) -> None:
    """Run a worker, until ctrl-C; or for a *rush* of so many reminders, *within* seconds, until they are sent."""
    meter = metered()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, meter.over.set)
    async with (
        running_mail_server(),
        Database.open(settings.DATABASE) as database,
        app.create() as context,
    ):
        worker = asyncio.create_task(context.run())
        worker.add_done_callback(lambda _: meter.over.set())
        async with meter.shown(now):
            if rush:
                meter.awaited = await hurry(context, database, rush, within)
            else:
                print("running a worker, which sends due reminders; press Ctrl-C to stop", flush=True)
            await meter.over.wait()
            context.shutdown()
            await worker
        print(meter.summary())


async def hurry(context: PyncetteContext, database: Database, count: int, within: float) -> set[str]:
    """Reschedule *count* people to be reminded in the next seconds, and then every day."""
    everyone = [person async for person in database.everyone()]
    begin = now() + RUSH_BEGINS + count * RUSH_BEGINS_LATER_BY
    people = []
    for person in random.sample(everyone, min(count, len(everyone))):
        at = (begin + datetime.timedelta(seconds=1 + random.uniform(0, within))).astimezone(
            ZoneInfo(person.zone)
        )
        people.append(person._replace(remind_at=f"{at:%H:%M:%S}", days="*", since=begin))
    await subscriptions.change_preferences(context, database, people)
    if now() > begin:
        sys.exit("this machine is too slow to schedule that many in so little time; try fewer")
    print(
        f"{len(people):,} people have just chosen a time within {within:g} s, from {begin:%H:%M:%S} UTC on",
        flush=True,
    )
    return {str(person.id) for person in people}


async def move(person_id: int, zone: str) -> None:
    """Move a person to *zone*."""
    ZoneInfo(zone)  # raises if it is invalid
    async with app.create() as context, Database.open(settings.DATABASE) as database:
        person = await existing(database, person_id)
        await subscriptions.change_preferences(context, database, [person._replace(zone=zone, since=now())])
        state = await context.get_task(remind, str(person_id))
        assert state is not None
        assert state.scheduled_at is not None
        print(f"person {person_id} lives in {zone} now; the next reminder comes at {state.scheduled_at}")


async def unsubscribe(person_id: int) -> None:
    """Stop sending mail to a person."""
    async with app.create() as context, Database.open(settings.DATABASE) as database:
        await existing(database, person_id)
        await subscriptions.unsubscribe(context, database, person_id)
        print(f"person {person_id} no longer gets mail")


async def check() -> Account:
    """Account for everything until now."""
    async with app.create() as context:
        return await make_account(context, until=now())


# --- Shared ----------------------------------------------------------------------------------------------------------


async def start_afresh() -> None:
    """Remove the data of earlier commands: the files, and the schedules in the backend."""
    for path in settings.FOLDER.glob("*.sqlite*"):
        path.unlink()
    async with app.create() as context:
        for task in (remind, report):
            while page := (await context.list_tasks(task, limit=1000)).tasks:
                async for result in context.unschedule_many(task, [state.task.name for state in page]):
                    if result.error is not None:
                        raise result.error
        await context.unschedule_task(tidy)


async def sign_up_people(context: PyncetteContext, database: Database, people: int, clock: Clock) -> None:
    """Generate *people*, and schedule their reminders."""
    began = time.monotonic()
    total = await crowd.make_up(database, people, clock())
    print(f"{people:,} people made up, with their habits, in {time.monotonic() - began:.1f} s", flush=True)
    began = shown = time.monotonic()
    done = 0
    async for result in subscriptions.subscribe_everyone(context, database):
        if result.error is not None:
            raise result.error
        done += 1
        if done % 1000 == 0 and time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"  {done:,} of {total:,} schedules", flush=True)
    seconds = time.monotonic() - began
    print(f"{done:,} schedules stored in {seconds:.1f} s, {done / seconds:,.0f}/s", flush=True)
    await crowd.count_preferences_from_now(database, clock())


def metered() -> Meter:
    meter = Meter()
    app.use_middleware(meter.measure)
    return meter


async def existing(database: Database, person_id: int) -> Person:
    person = await database.person(person_id)
    return person or sys.exit(
        f"person {person_id} not found, or does not get mail; `sign-up` generates people"
    )


def now() -> datetime.datetime:
    return datetime.datetime.now(UTC)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.reminders", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("day", help="start over, and let a day pass in simulated time")
    command.add_argument("date", nargs="?", type=datetime.date.fromisoformat, default=A_DAY_OF_CHANGE)
    commands.add_parser("sign-up", help="start over: generate people, and schedule their reminders")
    command = commands.add_parser("run", help="run a worker and the mail server")
    command.add_argument("--rush", type=int, default=0, metavar="N", help="remind N people now, and exit")
    command.add_argument(
        "--within", type=float, default=30, metavar="SECONDS", help="the duration of the rush; by default 30"
    )
    command = commands.add_parser("move", help="move a person to another time zone")
    command.add_argument("person", type=int)
    command.add_argument("zone")
    command = commands.add_parser("unsubscribe", help="stop sending mail to a person")
    command.add_argument("person", type=int)
    commands.add_parser("account", help="check that every reminder until now was sent")
    try:
        sys.exit(asyncio.run(obey(parser.parse_args())))
    except PyncetteException as error:
        sys.exit(str(error))


async def obey(arguments: argparse.Namespace) -> int:
    """Do what is asked for, and return 1 if the account of it shows a fault."""
    settings.FOLDER.mkdir(parents=True, exist_ok=True)
    # Hundreds of addresses are refused, and each is logged: that is for a file, and not between the lines shown here.
    logging.basicConfig(
        filename=settings.LOG, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    account = None
    match arguments.command:
        case "day":
            account = await day(arguments.date, settings.PEOPLE)
        case "sign-up":
            await sign_up(settings.PEOPLE)
        case "run":
            await run(arguments.rush, arguments.within)
        case "move":
            await move(arguments.person, arguments.zone)
        case "unsubscribe":
            await unsubscribe(arguments.person)
        case "account":
            account = await check()
    if account is not None:
        print(account)
    return 1 if account is not None and account.faults else 0


if __name__ == "__main__":
    main()
