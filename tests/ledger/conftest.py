"""The fixture that most tests of the ledger ask for."""

import pytest

from tests.ledger.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
