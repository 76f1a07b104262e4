"""Checks cron expressions and time zones with errors that say what to write instead."""

from __future__ import annotations

import re
from typing import Final

from croniter import CroniterBadCronError

from pyncette.core.reading import suspect_field
from pyncette.core.schedule import Cron, check
from pyncette.core.suggestions import nearest
from pyncette.core.zone import resolve_zone, zone_names

ABBREVIATIONS: Final = {
    "AEDT": "Australia/Sydney",
    "AEST": "Australia/Sydney",
    "AKST": "America/Anchorage",
    "BST": "Europe/London",
    "CDT": "America/Chicago",
    "CEST": "Europe/Berlin",
    "CST": "America/Chicago",
    "EDT": "America/New_York",
    "EEST": "Europe/Athens",
    "EST": "America/New_York",
    "IST": "Asia/Kolkata",
    "JST": "Asia/Tokyo",
    "KST": "Asia/Seoul",
    "MDT": "America/Denver",
    "MST": "America/Denver",
    "PDT": "America/Los_Angeles",
    "PST": "America/Los_Angeles",
    "SGT": "Asia/Singapore",
}
"""A place with the time of each abbreviation that people write. Some are also used elsewhere: a suggestion is a question."""

OFFSET: Final = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?00)?", re.ASCII | re.IGNORECASE)
"""A whole number of hours from UTC."""

EAST_MAX: Final = 14
WEST_MAX: Final = 12
"""The offsets of the zones below `Etc/`, in hours."""


def check_cron(schedule: Cron) -> None:
    """Refuse an invalid schedule like `check`, with an error that also says which field is wrong, or which zone is near."""
    try:
        resolve_zone(schedule.zone)
    except ValueError as error:
        zone = suggested_zone(schedule.zone)
        raise ValueError(f"{error} Did you mean {zone}?" if zone else str(error)) from None
    try:
        check(schedule)
    except CroniterBadCronError as error:
        suspect = suspect_field(schedule.expression)
        raise CroniterBadCronError(f"{error}; look at the {suspect}" if suspect else str(error)) from None


def suggested_zone(name: str) -> str | None:
    """Return the IANA name that *name* probably means: that of an abbreviation, of an offset, or the nearest one."""
    place = ABBREVIATIONS.get(name.rstrip("0123456789").upper())
    if place is not None:
        return place
    offset = OFFSET.fullmatch(name)
    if offset is None:
        return nearest(name, zone_names())
    east, hours = offset[1] == "+", int(offset[2])
    if not 0 < hours <= (EAST_MAX if east else WEST_MAX):
        return None
    return f"Etc/GMT{'-' if east else '+'}{hours}"  # as in POSIX, these names have the opposite sign
