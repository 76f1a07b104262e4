"""How often the operator polls what does not notify it."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.core.backoff import Backoff


class Intervals(NamedTuple):
    """Seconds between two polls, and before a decision. Tests use shorter ones."""

    scan: float = 2.0
    """Between two scans of a backend for what workers have written."""
    scan_share: float = 20.0
    """Scans take at most one part in this many of the time, however many tasks there are."""
    backend: float = 5.0
    """Between two health checks of a backend, which also read its time."""
    namespaces: float = 10.0
    """Between two reads of the namespaces that the selectors of backends select."""
    deletions: float = 2.0
    """Deletions within this time are one event: a namespace is deleted object by object."""
    confirmation: float = 2.0
    """How soon a confirmation is noticed, and a backend that is available again and holds a deleted task."""
    move: float = 2.0
    """How soon a task is reconciled again that moves to another pool or handler once its run has ended."""
    taken_key: float = 10.0
    """How soon a task is reconciled again whose key another task owns: that task may be deleted."""
    quiet: float = 0.5
    """The quiet period of an object after a pass and after each edit meanwhile: a burst of edits costs one more pass."""
    outdated: float = 0.5
    """How soon an object is reconciled again of which the API server has a newer version, which the watch will deliver."""


DEFAULT: Final = Intervals()

RETRIES: Final = Backoff(first=0.2, maximum=60.0, jitter=0.5)
"""Between passes that fail: what recovers is soon tried again, and what does not costs little."""

CONNECTS: Final = Backoff(first=0.5, maximum=15.0, jitter=0.5)
"""Between attempts to open a backend, so that a server that comes back is not met by all at once."""
