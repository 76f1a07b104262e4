"""What happens to results while the backend is away."""

import asyncio

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.rules import RETURNED
from pyncette.core.spec import Policies
from pyncette.ledger import Settling
from pyncette.worker.outbox import Outbox
from pyncette.worker.patience import Patience
from tests.worker.bench import Bench, Registered


async def test_two_results_for_one_record_that_waited_together_are_written_one_after_the_other():
    handler = Registered("h", Policies())
    bench = Bench(handler)
    key = await bench.every(handler, 60)
    outbox = Outbox(bench.ledger, lambda *_: None, Patience())
    await bench.advance(60)
    outbox.put(await _claimed_and_returned(bench, handler, "first"))
    await bench.advance(60)
    outbox.put(await _claimed_and_returned(bench, handler, "second"))

    writing = asyncio.create_task(outbox.run())
    await outbox.emptied()
    writing.cancel()

    record = await bench.record(key)
    assert record.lease is None
    assert record.state.summary.counts.succeeded == 1


async def _claimed_and_returned(bench: Bench, handler: Registered, lease_id: str) -> Settling:
    now = bench.clock.now()
    claimed = await bench.store.claim({handler.partitions[0]: 1}, lease_id, "w1", now, now)
    held = rules.begin(claimed.records[0], handler.policies, now).held
    assert held is not None
    return Settling(held, RETURNED, rules.settle(held, RETURNED, now + SECOND))
