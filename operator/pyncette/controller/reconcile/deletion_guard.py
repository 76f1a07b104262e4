"""Decides which deleted tasks are stopped in the backend, and holds back more than is credible at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from pyncette.controller.cluster.api import ObjectName

logger = logging.getLogger(__name__)

WINDOW_SECONDS: Final = 3600.0
"""Removals of the last hour count together: a mistake is made in one go, or by a tool that goes on for a while."""


class Verdict(NamedTuple):
    """The decision about deleted tasks."""

    stopped: Sequence[ObjectName]
    held: Sequence[ObjectName]


class Guard:
    """
    Lets tasks of one backend be stopped as long as they are at most *share* percent of all, or *least* of them, in an hour.

    Above that, all of them are held back until a person confirms their number.
    """

    def __init__(self, share: int, least: int) -> None:
        self._share = share
        self._least = least
        self._stopped_at: deque[float] = deque()
        self.held: frozenset[ObjectName] = frozenset()

    def judge(self, gone: Collection[ObjectName], mirrored: int, now: float) -> Verdict:
        """
        Decide about all that are *gone*, of *mirrored* that the backend holds; *now* in seconds.

        Neither what is stopped already is among them, nor what was confirmed: that is no reason to doubt what goes next.
        """
        allowed = self.allowed(mirrored, now)
        names = sorted(gone)
        credible = len(names) + len(self._stopped_at) <= allowed
        if credible:
            self._stopped_at.extend(now for _ in names)
            self.held = frozenset()
            return Verdict(names, ())
        self.held = frozenset(names)
        return Verdict((), names)

    def allowed(self, mirrored: int, now: float) -> int:
        """Return how many may go within the hour, of what there was at its begin."""
        self._pass_over(now)
        return max(self._least, (mirrored + len(self._stopped_at)) * self._share // 100)

    def _pass_over(self, now: float) -> None:
        while self._stopped_at and self._stopped_at[0] <= now - WINDOW_SECONDS:
            self._stopped_at.popleft()
