"""Makes up the people of the demonstration: where they live, when they want to be reminded, what they do each day."""

from __future__ import annotations

import datetime
import random
import sqlite3

from examples.reminders.database import Database, utc
from examples.reminders.mail_server import GONE, GREYLISTING

ZONES = {
    # Roughly where people with a smartphone live, in thousandths; and some places that schedulers get wrong.
    "Asia/Shanghai": 130, "Asia/Kolkata": 120, "America/New_York": 75, "Europe/Berlin": 50, "Asia/Tokyo": 45,
    "America/Sao_Paulo": 45, "Europe/London": 40, "America/Chicago": 40, "Europe/Paris": 38, "Asia/Jakarta": 38,
    "America/Los_Angeles": 35, "Europe/Madrid": 28, "Europe/Rome": 28, "Africa/Lagos": 25, "America/Mexico_City": 25,
    "Europe/Istanbul": 22, "Europe/Moscow": 22, "Asia/Manila": 20, "Asia/Dhaka": 18, "Asia/Ho_Chi_Minh": 18,
    "Africa/Cairo": 17, "Asia/Seoul": 15, "Africa/Johannesburg": 12, "Europe/Warsaw": 12, "Asia/Karachi": 12,
    "America/Bogota": 10, "America/Argentina/Buenos_Aires": 10, "Africa/Nairobi": 9, "America/Toronto": 8,
    "Australia/Sydney": 8, "America/Denver": 7, "Asia/Tehran": 7, "Europe/Amsterdam": 6, "Asia/Riyadh": 6,
    "Europe/Athens": 4, "America/Santiago": 4, "America/Phoenix": 3, "Africa/Casablanca": 3, "Europe/Dublin": 3,
    "Europe/Lisbon": 3, "Asia/Kathmandu": 2, "Australia/Adelaide": 2, "Pacific/Auckland": 2, "Asia/Dubai": 2,
    "Asia/Jerusalem": 2, "Pacific/Honolulu": 1, "America/St_Johns": 1, "Australia/Lord_Howe": 1, "Pacific/Apia": 1,
    "Pacific/Kiritimati": 1, "Pacific/Chatham": 1, "America/Anchorage": 1, "Atlantic/Azores": 1, "Asia/Yangon": 1,
}  # fmt: skip

HOURS = (2, 1, 3, 1, 2, 6, 20, 34, 28, 14, 8, 6, 10, 6, 4, 4, 5, 8, 12, 16, 24, 26, 16, 6)
"""How many want to be reminded in each hour of their day: before work, and in the evening. Some are awake at night."""

DAYS = {"*": 80, "MON-FRI": 15, "SAT,SUN": 5}
DOMAINS = {"mail.example": 985, GREYLISTING: 10, GONE: 5}
WITH_A_REPORT = 0.1
DILIGENCE = 0.6
HABITS = (
    "read",
    "walk",
    "stretch",
    "drink water",
    "practise the piano",
    "write",
    "call somebody",
    "go to bed",
)


async def make_up(database: Database, count: int, since: datetime.datetime) -> int:
    """
    Make *count* people, always the same ones, and return how many schedules they ask for.

    Each has one to three habits; a tenth of them want a weekly report, and did some of their habits lately.
    """
    chance = random.Random(1)

    def choose(weights: dict[str, int]) -> list[str]:
        return chance.choices(list(weights), list(weights.values()), k=count)

    week = [(since.date() - datetime.timedelta(days=ago)).isoformat() for ago in range(8)]
    preferences = zip(choose(DOMAINS), choose(ZONES), _times(chance, count), choose(DAYS), strict=True)
    people = []
    habits: list[tuple[int, int, str]] = []
    check_ins = []
    for number, (domain, zone, remind_at, days) in enumerate(preferences, start=1):
        report = chance.random() < WITH_A_REPORT
        people.append(
            (number, f"person{number}@{domain}", zone, remind_at, days, report, utc(since), None, None)
        )
        for title in chance.sample(HABITS, chance.randint(1, 3)):
            habits.append((len(habits) + 1, number, title))
            if report:
                check_ins += [(len(habits), day) for day in week if chance.random() < DILIGENCE]

    def write(connection: sqlite3.Connection) -> None:
        with connection:
            connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", people)
            connection.executemany("INSERT INTO habits VALUES (?, ?, ?)", habits)
            connection.executemany("INSERT INTO check_ins VALUES (?, ?)", check_ins)

    await database.do(write)
    return count + sum(report for *_, report, _, _, _ in people)


async def count_preferences_from_now(database: Database, now: datetime.datetime) -> None:
    """Let everybody's preferences count from *now*, once all are scheduled: what came before that is not accounted for."""

    def write(connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("UPDATE people SET since = ?", (utc(now),))

    await database.do(write)


def _times(chance: random.Random, count: int) -> list[str]:
    """People choose round times: the hour and the half, then the quarters, then fives, and few an odd minute."""
    hours = chance.choices(range(24), HOURS, k=count)
    steps = chance.choices((30, 15, 5, 1), (50, 20, 20, 10), k=count)
    return [
        f"{hour:02}:{chance.randrange(0, 60, step):02}:00" for hour, step in zip(hours, steps, strict=True)
    ]
