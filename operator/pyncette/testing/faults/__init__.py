"""
The fault suite: tests of what a store does when its server stops, hangs or refuses, as classes to derive from.

It stands beside the conformance suite. It imports the store's port and the core, and no backend. A backend derives a
class from `StoreFaults`, and from those of the other classes that its server can run.
"""

from __future__ import annotations

import pytest

from pyncette.testing.faults.clocks import WrongClock
from pyncette.testing.faults.connecting import Connecting
from pyncette.testing.faults.disconnecting import Disconnecting
from pyncette.testing.faults.hanging import Hanging
from pyncette.testing.faults.limiting import Limiting
from pyncette.testing.faults.listening import Listening
from pyncette.testing.faults.refusing import Refusing
from pyncette.testing.faults.restarting import Restarting
from pyncette.testing.faults.server import SECRET, Network, OnServer, answers, assert_is_one_sentence, until
from pyncette.testing.faults.sql import SqlFaults
from pyncette.testing.faults.tearing import Tearing

__all__ = [
    "SECRET",
    "Limiting",
    "Listening",
    "Network",
    "OnServer",
    "SqlFaults",
    "StoreFaults",
    "WrongClock",
    "answers",
    "assert_is_one_sentence",
    "until",
]


@pytest.mark.asyncio
class StoreFaults(
    # From the last to the first: so does pytest run the tests of bases.
    Refusing,
    Restarting,
    Tearing,
    Hanging,
    Disconnecting,
    Connecting,
):
    """
    What every store on a server does under faults, one test a promise.

    Derive a class whose name begins with `Test`, and give it a fixture `url` and the methods that raise
    NotImplementedError here. They break a server and repair it, so it should be no server that others use.
    """
