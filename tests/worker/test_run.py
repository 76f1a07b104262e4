"""What is promised of a run between its claim and the call of its handler."""

import asyncio

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.rules import Ending, Held
from pyncette.core.spec import Policies
from pyncette.worker.outbox import Outbox
from pyncette.worker.patience import Patience
from pyncette.worker.run import Runs
from tests.worker.bench import Bench, Registered

LEASE = 10 * SECOND


@pytest.fixture
def handler() -> Registered:
    return Registered("h", Policies(lease=LEASE))


@pytest.fixture
async def held(handler: Registered) -> Held:
    """An occurrence that was claimed at the beginning of pretended time."""
    bench = Bench(handler)
    await bench.once(handler, 0, "a")
    now = bench.clock.now()
    claimed = await bench.store.claim({handler.partitions[0]: 1}, "lease", "w1", now, now)
    held = rules.begin(claimed.records[0], handler.policies, now).held
    assert held is not None
    return held


@pytest.fixture
def bench(handler: Registered) -> Bench:
    return Bench(handler)


@pytest.fixture
def outbox(bench: Bench) -> Outbox:
    return Outbox(bench.ledger, lambda *_: None, Patience())


@pytest.fixture
def runs(bench: Bench, outbox: Outbox) -> Runs:
    return Runs(bench.clock, outbox, 100, lambda _: None)


async def test_a_handler_is_not_called_once_its_lease_has_run_out(
    runs: Runs, outbox: Outbox, bench: Bench, handler: Registered, held: Held
) -> None:
    a_lease_ago = bench.clock.monotonic() - LEASE  # the process stood still since

    runs.start(held, handler, lease_until=a_lease_ago + LEASE, at=bench.clock.now())
    await runs.ended()

    assert handler.calls == []
    assert len(outbox) == 0


async def test_what_is_cancelled_before_its_handler_was_called_is_given_back(
    runs: Runs, outbox: Outbox, bench: Bench, handler: Registered, held: Held
) -> None:
    runs.start(held, handler, lease_until=bench.clock.monotonic() + LEASE, at=bench.clock.now())

    runs.cancel_all(Ending.DRAINED)
    async with asyncio.timeout(5):
        await runs.ended()

    assert handler.calls == []
    assert len(outbox) == 1
