"""Says how often the operator asks for what nothing tells it of."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.core.backoff import Backoff


class Pace(NamedTuple):
    """Seconds between two looks at something, and before something is decided. Tests have less time than clusters."""

    look: float = 2.0
    """How soon it is noticed what workers have written."""
    look_share: float = 20.0
    """At most one part in so many of the time is spent on that, however many tasks there are."""
    backend: float = 5.0
    """How often a backend is asked whether it is there: its answer tells the time, too."""
    calm: float = 2.0
    """What goes within such a time goes together: a namespace is deleted object by object."""
    held: float = 2.0
    """How soon a confirmation is noticed, and a backend that is back and holds something that went."""
    waiting: float = 2.0
    """How soon a task is looked at again that moves to another pool or handler once its run is over."""
    taken: float = 10.0
    """How soon a task is looked at again whose place another has: that may be deleted."""
    rest: float = 0.5
    """How long an object is left alone after a look at it, and after each edit meanwhile: a burst of them costs one look more."""
    behind: float = 0.5
    """How soon something is looked at again of which the API server has a newer version: that is on its way to us."""


USUAL: Final = Pace()

RETRIES: Final = Backoff(first=0.2, maximum=60.0, jitter=0.5)
"""Between passes that fail: what recovers is soon tried again, and what does not costs little."""

CONNECTS: Final = Backoff(first=0.5, maximum=15.0, jitter=0.5)
"""Between attempts to open a backend, so that a server that comes back is not met by all at once."""
