"""For tests of your own tasks: a clock that moves only when told to, on any backend."""

from pyncette.testing.clock import VirtualClock

__all__ = ["VirtualClock"]
