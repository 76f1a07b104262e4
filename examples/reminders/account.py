"""Accounts for every reminder: when it was due by the calendar of a person's zone, not by Pyncette, and whether it came."""

from __future__ import annotations

import datetime
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from examples.reminders import settings
from examples.reminders.tasks import remind, report
from pyncette import PyncetteContext
from pyncette.model import ContinuationToken
from pyncette.task import Task

UTC = datetime.UTC
_parsed = datetime.datetime.fromisoformat
A_DAY = datetime.timedelta(days=1)
A_MINUTE = datetime.timedelta(minutes=1)

WEEKDAYS = {"*": range(7), "MON-FRI": range(5), "SAT,SUN": range(5, 7), "SUN": range(6, 7)}

DAYS_AHEAD = 9
"""Within these, everybody's next time comes, wherever the date changes in between."""

REPORT_TIME = "18:00:00"
REPORT_DAY = "SUN"

PAGE = 1000
FAULTS_SHOWN_MAX = 10


class Case(NamedTuple):
    """A person: what they prefer since when and until when, what came, and what is scheduled for them."""

    address: str
    zone: str
    remind_at: str
    days: str
    weekly_report: bool
    since: datetime.datetime
    left_at: datetime.datetime | None
    unsubscribed: bool
    came: dict[str, list[str]]
    """The Message-IDs of reminders, by the date that says which one it is, with its offset."""
    reports: int
    next_reminder: datetime.datetime | None
    next_report: datetime.datetime | None


@dataclass
class Account:
    """What should have happened until an instant, and what did."""

    until: datetime.datetime
    people: int = 0
    due: int = 0
    received: int = 0
    repeated: int = 0
    refused: int = 0
    on_their_way: int = 0
    reports_due: int = 0
    reports: int = 0
    scheduled: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"Until {self.until:%Y-%m-%d %H:%M:%S} UTC, for {self.people:,} people:",
            f"  {self.due:>8,}  reminders were due, by the calendars of their zones",
            f"  {self.received:>8,}  came, dated with the person's own time",
            f"  {self.repeated:>8,}  came a second time, as the same message: a worker died between sending and noting it",
            f"  {self.refused:>8,}  were refused: no such mailbox, so not tried again",
            f"  {self.on_their_way:>8,}  are on their way: due just now, or to be tried again",
            f"  {self.reports:>8,}  weekly reports were written, of {self.reports_due:,} due",
            f"  {self.scheduled:>8,}  people are scheduled for their next time",
            f"  {len(self.faults):>8,}  faults",
        ]
        return "\n".join(lines + [f"            {fault}" for fault in self.faults[:FAULTS_SHOWN_MAX]])

    def examine(self, case: Case) -> None:
        """Add *case*."""
        self.people += 1
        end = self.until if case.left_at is None else min(self.until, case.left_at)
        self._reminders(case, list(occurrences(case.zone, case.remind_at, case.days, case.since, end)))
        if case.weekly_report:
            self._reports(case, list(occurrences(case.zone, REPORT_TIME, REPORT_DAY, case.since, end)))
        if case.left_at is None:
            self.scheduled += 1
            self._next(case, case.remind_at, case.days, case.next_reminder)
            if case.weekly_report:
                self._next(case, REPORT_TIME, REPORT_DAY, case.next_report)
        elif case.unsubscribed and (case.next_reminder or case.next_report):
            self.faults.append(f"{case.address} unsubscribed, and is scheduled all the same")

    def _reminders(self, case: Case, due: list[datetime.datetime]) -> None:
        came = {date: ids for date, ids in case.came.items() if _parsed(date) > case.since}
        self.due += len(due)
        for at in due:
            date = at.astimezone(ZoneInfo(case.zone)).isoformat()
            ids = came.pop(date, [])
            if len(set(ids)) == 1:
                self.received += 1
                self.repeated += len(ids) - 1
            elif ids:
                self.faults.append(f"{case.address} was reminded {len(ids)} times at {date}")
            elif at == case.left_at and not case.unsubscribed:
                self.refused += 1
            elif case.next_reminder is not None and case.next_reminder <= at:
                self.on_their_way += 1
            else:
                self.faults.append(f"{case.address} was not reminded at {date}")
        self.faults += [f"{case.address} was reminded at {date}, which is not their time" for date in came]

    def _reports(self, case: Case, due: list[datetime.datetime]) -> None:
        if due and due[-1] == case.left_at and case.reports < len(due):
            due.pop()  # their reminder was refused in the very moment when the report was due
        self.reports_due += len(due)
        self.reports += case.reports
        if case.reports != len(due) and (case.next_report is None or case.next_report > self.until):
            self.faults.append(f"{case.address} has {case.reports} weekly reports, not {len(due)}")

    def _next(self, case: Case, at: str, days: str, scheduled: datetime.datetime | None) -> None:
        if scheduled is not None and scheduled <= self.until:
            return  # it is on its way
        after = max(self.until, case.since)
        following = next(occurrences(case.zone, at, days, after, after + DAYS_AHEAD * A_DAY))
        if scheduled != following:
            self.faults.append(f"{case.address} is scheduled for {scheduled}, not for {following}")


async def make_account(context: PyncetteContext, until: datetime.datetime) -> Account:
    """Compare what everybody prefers with what the mail server received, and with what is scheduled."""
    account = Account(until)
    next_reminders = await _next_times(context, remind)
    next_reports = await _next_times(context, report)
    came = _came()
    reports = dict(_rows(settings.DATABASE, "SELECT person_id, count(*) FROM reports GROUP BY person_id"))
    for number, address, zone, remind_at, days, weekly_report, since, left_at, left_because in _rows(
        settings.DATABASE, "SELECT * FROM people"
    ):
        case = Case(
            address=address,
            zone=zone,
            remind_at=remind_at,
            days=days,
            weekly_report=bool(weekly_report),
            since=_parsed(since),
            left_at=_parsed(left_at) if left_at else None,
            unsubscribed=left_because == "unsubscribed",
            came=came.pop(address, {}),
            reports=reports.pop(number, 0),
            next_reminder=next_reminders.pop(str(number), None),
            next_report=next_reports.pop(str(number), None),
        )
        account.examine(case)
    for stranger in (*came, *next_reminders, *next_reports):
        account.faults.append(f"{stranger} is nobody's address or number")
    return account


def occurrences(
    zone: str, time: str, days: str, after: datetime.datetime, until: datetime.datetime
) -> Iterator[datetime.datetime]:
    """Yield when it is *time* on *days* in *zone*, after *after* and up to *until*, in UTC."""
    day = after.date() - A_DAY  # in UTC: where it is another day, it is the one before or after
    while (at := instant(zone, time, day)) <= until or day <= until.date():
        if after < at <= until and day.weekday() in WEEKDAYS[days]:
            yield at
        day += A_DAY


@cache  # few zones, times and days, for many people
def instant(zone: str, time: str, day: datetime.date) -> datetime.datetime:
    """
    Return when a clock on a wall in *zone* shows *time* on *day*.

    That is the first time if it does so twice, and the next minute that it shows if a change leaves that one out.
    """
    moment = datetime.datetime.combine(day, datetime.time.fromisoformat(time), ZoneInfo(zone))
    while moment.astimezone(UTC).astimezone(moment.tzinfo).replace(fold=0) != moment:
        moment += A_MINUTE
    return moment.astimezone(UTC)


async def _next_times(context: PyncetteContext, task: Task) -> dict[str, datetime.datetime]:
    """Return the next time of each instance of *task*."""
    times = {}
    token: ContinuationToken | None = None
    while True:
        page = await context.list_tasks(task, limit=PAGE, continuation_token=token)
        times.update({state.task.name: state.scheduled_at for state in page.tasks if state.scheduled_at})
        token = page.continuation_token
        if token is None:
            return times


def _came() -> dict[str, dict[str, list[str]]]:
    """Return the Message-IDs of all that came, by address and date."""
    came: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for address, date, message_id in _rows(
        settings.MAILBOX, "SELECT recipient, date, message_id FROM messages"
    ):
        came[address][parsedate_to_datetime(date).isoformat()].append(message_id)
    return came


def _rows(path: Path, query: str) -> Iterator[Any]:
    with closing(sqlite3.connect(path)) as connection:
        yield from connection.execute(query)
