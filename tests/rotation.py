"""
Long lists of tests, of which each day plays a part: over some days all are played, and each day takes less time.

`PYNCETTE_TEST_ROTATION=3` plays the part of another day, and `PYNCETTE_TEST_ROTATION=all` plays everything.
"""

import os
import time
from collections.abc import Sequence
from typing import Final, TypeVar

VARIABLE: Final = "PYNCETTE_TEST_ROTATION"

A_DAY_SECONDS: Final = 86400

_T = TypeVar("_T")


def fix_rotation() -> str:
    """Have this process and those that it starts play the same part, whatever the time is, and return which."""
    return os.environ.setdefault(VARIABLE, str(int(time.time() // A_DAY_SECONDS)))


def part_of_today(items: Sequence[_T], parts: int) -> list[_T]:
    """Return every *parts*-th of *items*, beginning with another one each day; all of them, if there are fewer."""
    rotation = fix_rotation()
    return (
        list(items)
        if rotation == "all" or len(items) < parts
        else list(items[int(rotation) % parts :: parts])
    )
