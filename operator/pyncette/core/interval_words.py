"""Recognizes intervals that are written as a cron expression: in words, or in the notation of other schedulers."""

from __future__ import annotations

import re
from typing import Final

_UNIT: Final = "(seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)"

_INTERVAL: Final = re.compile(rf"\s*@?every\s+((?:[0-9]{{1,9}}\s*{_UNIT}\s*)+|{_UNIT}\s*)", re.IGNORECASE)
"""An interval in words, or in the notation of other schedulers: `every 5 minutes`, `@every 1h30m`."""

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def interval_seconds(expression: str) -> int | None:
    """Return the seconds of an interval that *expression* describes; None if it describes none."""
    found = _INTERVAL.fullmatch(expression)
    if found is None:
        return None
    parts = re.findall(rf"([0-9]*)\s*{_UNIT}", found[1], re.IGNORECASE)
    return sum(int(number or 1) * _UNIT_SECONDS[unit[0].lower()] for number, unit in parts) or None
