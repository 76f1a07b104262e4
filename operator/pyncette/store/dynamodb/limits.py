"""The time limits of requests to DynamoDB."""

from __future__ import annotations

from typing import Final, NamedTuple


class Limits(NamedTuple):
    """Time limits in seconds."""

    connect: float = 5.0
    answer: float = 12.0
    """A request takes milliseconds. A service that has not answered by then is unreachable."""
    pause_max: float = 2.0
    """The longest pause before a deferred request is repeated."""


LIMITS: Final = Limits()
