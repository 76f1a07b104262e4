"""A worker reports its load."""

from pyncette.core.spec import Policies
from pyncette.worker.service import Figures
from tests.worker.bench import Bench, Registered


async def test_a_worker_reports_its_load() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(5))
    bench.handlers = (handler,)
    for instance in "abcdefgh":
        await bench.once(handler, 1, instance)

    async with bench.worker(slots=2, batch_size=2) as worker:
        before = worker.figures
        await bench.advance(2)
        busy = worker.figures
        await bench.advance(60)
        after = worker.figures

    assert before == Figures(slots=2, slots_used=0, claimed=0, backlogged=0, unwritten=0)
    assert (busy.slots_used, busy.backlogged) == (2, 1)
    assert after == Figures(slots=2, slots_used=0, claimed=8, backlogged=0, unwritten=0)
