"""
The conformance suite: tests of each promise of the store's port, as classes to derive from.

It imports the store's port and the core, and no backend. The stores of this package and of third parties derive from it.
"""

from __future__ import annotations

import pytest

from pyncette.testing.conformance.backend import OpenAnother
from pyncette.testing.conformance.claiming import Claiming
from pyncette.testing.conformance.counting import Counting
from pyncette.testing.conformance.enduring import Enduring
from pyncette.testing.conformance.history import History
from pyncette.testing.conformance.loading import Loading
from pyncette.testing.conformance.looking_again import LookingAgain
from pyncette.testing.conformance.notifying import PATIENCE, Notifying
from pyncette.testing.conformance.opening import Opening
from pyncette.testing.conformance.records import (
    ELSEWHERE,
    HERE,
    LEASE,
    ODD_NAMES,
    T0,
    TRIES_MAX,
    a_record,
    a_run,
    changed,
    claim,
    claim_in_the_end,
    completed,
    create,
    instances,
    load,
    load_all,
    seen,
)
from pyncette.testing.conformance.renewing import Renewing
from pyncette.testing.conformance.scanning import Scanning
from pyncette.testing.conformance.swapping import Swapping
from pyncette.testing.conformance.swapping_leases import SwappingLeases
from pyncette.testing.conformance.telling_time import TellingTime
from pyncette.testing.conformance.unreadable import Unreadable

__all__ = [
    "ELSEWHERE",
    "HERE",
    "LEASE",
    "ODD_NAMES",
    "PATIENCE",
    "T0",
    "TRIES_MAX",
    "OpenAnother",
    "StoreConformance",
    "a_record",
    "a_run",
    "changed",
    "claim",
    "claim_in_the_end",
    "completed",
    "create",
    "instances",
    "load",
    "load_all",
    "seen",
]


@pytest.mark.asyncio
class StoreConformance(
    # From the last to the first: so does pytest run the tests of bases.
    Enduring,
    Notifying,
    TellingTime,
    Unreadable,
    History,
    Counting,
    Scanning,
    Renewing,
    LookingAgain,
    Claiming,
    SwappingLeases,
    Swapping,
    Loading,
    Opening,
):
    """
    What every store promises, one test a promise.

    Derive a class whose name begins with `Test`, and give it a fixture `backend`, which sets up an empty backend and
    yields whatever tells it from others (a path, a URL); `open_store`; and `poison`.
    """
