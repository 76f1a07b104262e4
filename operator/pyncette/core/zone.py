"""Finds when the clocks of a time zone change, and what they show between two changes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from dateutil.tz import gettz

DAY: Final = 86_400

JUMP_MAX: Final = 2 * DAY
"""No change moves the clocks further than this: an offset from UTC is less than a day, either way."""

PROBE_STEP: Final = 2 * DAY
"""Two changes that undo each other are further apart than this. The closest known are those of Freetown in
September 1939, a few minutes short of four days; a test looks at all zones."""

BLOCK: Final = 1 << 27
"""Changes are searched for this many seconds at a time, some four years: a millisecond, once per zone and block."""

BLOCKS_MAX: Final = 256
"""Blocks kept per zone: a thousand years. Beyond that they are computed again."""

ZONES_MAX: Final = 1024
"""Zones kept: more than there are names (some 600), so only invented POSIX rules can crowd each other out."""

FIRST_SECOND: Final = -62_135_596_800 + 4 * DAY
"""The first second that is certain to have a datetime in every zone; the days are for offsets and for probing."""

LAST_SECOND: Final = 253_402_300_799 - 4 * DAY
"""The last such second, late in the year 9999."""


class Stretch(NamedTuple):
    """
    The time between two changes of a zone's clocks, in seconds since the epoch: UTC for *start* and *end* (not
    included), the clocks' own for *unseen* and *skipped*.
    """

    start: int
    end: int
    offset: int
    """The clocks show UTC plus this."""
    unseen: int
    """The clocks showed everything before this already, on an earlier pass: `start + offset` unless they went back."""
    skipped: int
    """From here to `start + offset` the clocks skipped: `start + offset` itself unless they went forward."""


class Zone:
    """The changes of one zone, read from its tzinfo and cached."""

    __slots__ = ("_blocks", "_info", "_recent")

    def __init__(self, info: tzinfo) -> None:
        self._info = info
        self._blocks: dict[int, tuple[list[int], list[Stretch]]] = {}
        self._recent = Stretch(0, 0, 0, 0, 0)

    def stretch_at(self, second: int) -> Stretch:
        """Return the stretch around *second* (UTC). Stretches are also cut where no clock changes, at blocks' edges."""
        recent = self._recent
        if recent[0] <= second < recent[1]:
            return recent
        starts, stretches = self._blocks.get(second // BLOCK) or self._survey(second // BLOCK)
        self._recent = recent = stretches[bisect_right(starts, second) - 1]
        return recent

    def _survey(self, index: int) -> tuple[list[int], list[Stretch]]:
        begin = index * BLOCK
        stretches = [
            # A stretch that began before the block continues in it, where it skips nothing more.
            stretch
            if stretch.start >= begin
            else stretch._replace(
                start=begin,
                unseen=max(stretch.unseen, begin + stretch.offset),
                skipped=begin + stretch.offset,
            )
            for stretch in self._stretches(begin - JUMP_MAX, begin + BLOCK)
            if stretch.end > begin
        ]
        if len(self._blocks) >= BLOCKS_MAX:
            self._blocks.clear()
        block = self._blocks[index] = [stretch.start for stretch in stretches], stretches
        return block

    def _stretches(self, begin: int, end: int) -> list[Stretch]:
        """Return the stretches from *begin* to *end*; they are right from `begin + JUMP_MAX` on."""
        stretches: list[Stretch] = []
        changes = self._changes(begin, end)
        reached = begin + changes[0][1]
        for (start, offset), (until, _) in pairwise([*changes, (end, 0)]):
            wall = start + offset
            stretches.append(Stretch(start, until, offset, max(wall, reached), min(wall, reached)))
            reached = max(reached, until + offset)
        return stretches

    def _changes(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return the offset at *begin* and after each change before *end*, with the time since when it holds."""
        at, offset = begin, self._offset(begin)
        changes = [(at, offset)]
        while at < end:
            probe = min(at + PROBE_STEP, end)
            if self._offset(probe) == offset:
                at = probe
                continue
            at = self._end_of(offset, at, probe)
            offset = self._offset(at)
            if at < end:
                changes.append((at, offset))
        return changes

    def _end_of(self, offset: int, begin: int, end: int) -> int:
        """Return the first second after *begin* with another offset, if there is one at *end*."""
        return begin + bisect_left(range(begin, end), True, key=lambda second: self._offset(second) != offset)

    def _offset(self, second: int) -> int:
        moment = datetime.fromtimestamp(min(max(second, FIRST_SECOND), LAST_SECOND), self._info)
        offset = moment.utcoffset()
        assert offset is not None
        return offset.days * DAY + offset.seconds


@lru_cache(maxsize=ZONES_MAX)
def resolve_zone(name: str) -> tzinfo:
    """
    Return the zone of an IANA name, or of anything else that `dateutil.tz.gettz` takes, such as a POSIX rule.

    Paths are refused, although gettz takes them: a name must mean the same on every machine. Raises ValueError.
    """
    path = name.lstrip(":")
    if path and not path.startswith("/") and ".." not in path:
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            zone = _gettz(name)
        if zone is not None:
            return zone
    raise ValueError(f"Invalid timezone specifier '{name}'.")


def is_portable(name: str) -> bool:
    """Return False for what else lies in a machine's folder of zones, such as localtime and posix/."""
    return name[:1].isupper()


def zone_names() -> list[str]:
    """Return the names of the IANA database that this machine knows. It reads them each time, in some milliseconds."""
    return sorted(filter(is_portable, available_timezones()))


def zone_or_utc(name: str) -> tzinfo:
    """Return the zone that `resolve_zone` finds for *name*, or UTC: to show times stored while the zone was known."""
    try:
        return resolve_zone(name)
    except ValueError:
        return UTC


def _gettz(name: str) -> tzinfo | None:
    try:
        return gettz(name)
    except (ValueError, OSError):
        return None


@lru_cache(maxsize=ZONES_MAX)
def zone_named(name: str) -> Zone:
    """Return the changes of the zone that `resolve_zone` finds for *name*. Raises the same errors."""
    return Zone(resolve_zone(name))
