"""For tests of your own tasks: your app on any backend, at a time that moves only when told to."""

from pyncette.testing.clock import UnsettledError, VirtualClock
from pyncette.testing.world import World, running

__all__ = ["UnsettledError", "VirtualClock", "World", "running"]
