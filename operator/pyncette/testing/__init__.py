"""
For tests: your app on any backend at simulated time, and the conformance suite of stores.

It is public. It imports the app and the store's port, and nothing else imports it.
"""

from pyncette.testing.clock import UnsettledError, VirtualClock
from pyncette.testing.world import World, running

__all__ = ["UnsettledError", "VirtualClock", "World", "running"]
