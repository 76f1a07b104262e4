"""Says how long to wait before what failed is tried again."""

from __future__ import annotations

import random
from typing import Final

FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 60.0
"""The wait doubles from the first to this: what recovers is soon tried again, and what does not costs little."""


def wait_after(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row, spread at random over the upper half."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(failures - 1, 16))
    return random.uniform(longest / 2, longest)
