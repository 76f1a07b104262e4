"""The record of a task is what its resource wishes for, and its status is what the record says."""

import pytest

from tests.controller.bench import TASKS, Bench


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    await bench.end()


async def test_a_task_is_stored_and_its_status_says_when_it_is_due(bench):
    bench.pool()
    bench.task()

    await bench.start()

    record = await bench.record()
    assert record.due_at is not None
    assert record.state.owner.uid == bench.api.stored(TASKS, "default/report")["metadata"]["uid"]
    assert bench.status()["observedGeneration"] == 1
    assert bench.condition("Scheduled")["status"] == "True"
    assert "nextScheduleTime" in bench.status()


async def test_an_edit_reaches_the_record_and_does_not_move_the_next_run_unless_it_touches_the_schedule(
    bench,
):
    bench.pool()
    bench.task()
    await bench.start()
    before = await bench.record()

    bench.api.edit(TASKS, "default/report", args={"to": "finance"})
    await bench.settled()

    after = await bench.record()
    assert (after.due_at, bytes(after.spec.args)) == (before.due_at, b'{"to":"finance"}')
    assert bench.status()["observedGeneration"] == 2
