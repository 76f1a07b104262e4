"""
For tests: an app on any backend in simulated time, and two suites for stores: conformance and faults.

It is public. It imports the app and the port of the store. No other room imports it.
"""

from pyncette.testing.clock import UnsettledError, VirtualClock
from pyncette.testing.world import World, running

__all__ = ["UnsettledError", "VirtualClock", "World", "running"]
