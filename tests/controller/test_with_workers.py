"""An operator and a real worker on one backend: what each of them does about a task that the other cannot serve."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from pyncette import Pyncette
from pyncette.coordination.permit_records import permit_partition
from pyncette.store.backend import read_backend
from tests.controller.bench import CLUSTER, TASKS, Bench

REALM = f"{CLUSTER}/default/default"


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path, resyncSeconds=5, withdrawalGraceSeconds=1)
    bench.pool()
    yield bench
    await bench.end()


class Worker:
    """A worker of the pool, with a template, and a handler for tasks with a schedule of their own."""

    def __init__(self, bench):
        self.ran = []
        self.app = Pyncette()
        self.context = None
        self._url = (bench.folder / "url").read_text()

        @self.app.dynamic_task()
        async def send(context):
            self.ran.append(context.task.name)

        @self.app.handler()
        async def tick(context):
            self.ran.append(context.task.name)

        @self.app.handler()
        async def count(context, number: int):
            self.ran.append((context.task.name, number))

        self.template = send

    @contextlib.asynccontextmanager
    async def at_work(self):
        async with self.app.create(new_store=read_backend(self._url).new_store, realm=REALM) as context:
            self.context = context
            running = asyncio.create_task(context.run())
            try:
                yield self
            finally:
                context.shutdown()
                await running

    async def schedule(self, name):
        await self.context.schedule_task(self.template, name, interval=timedelta(seconds=0.2))


async def test_a_dynamic_task_with_other_partitions_stops_no_worker_and_is_fixed_by_the_right_number(bench):
    """All in one apply, as the finding has it: the operator mirrors before the first worker runs."""
    bench.task("users", dynamic=True, partitions=8)
    bench.task("beat", handler="tick", intervalSeconds=1)
    await bench.start()
    assert (await bench.record("send")).spec.partitions == 8

    async with Worker(bench).at_work() as worker:
        await bench.until(lambda: "beat" in worker.ran)
        await bench.until(lambda: bench.condition("Ready", "users")["reason"] == "PartitionsDiffer")
        assert "must be 1, as in the task module, not 8" in bench.condition("Ready", "users")["message"]
        await worker.schedule("ada")
        await bench.until(lambda: "ada" in worker.ran)

        bench.api.remove(TASKS, "default/users")
        bench.task("users", dynamic=True, partitions=1)
        await bench.until(lambda: bench.condition("Ready", "users")["status"] == "True")

        worker.ran.clear()
        await bench.until(lambda: {"ada", "beat"} <= {*worker.ran})


async def test_instances_of_another_count_are_kept_and_reported_until_the_stored_count_is_rolled_out(bench):
    bench.task("users", dynamic=True, partitions=8)
    bench.task("beat", handler="tick", intervalSeconds=1)
    await bench.start()
    eight = Pyncette()

    @eight.partitioned_task(name="send", partition_count=8)
    async def send(context): ...

    async with eight.create(
        new_store=read_backend((bench.folder / "url").read_text()).new_store, realm=REALM
    ) as context:
        await context.schedule_task(send, "ada", interval=timedelta(hours=1))

        async with Worker(bench).at_work() as worker:
            await bench.until(lambda: "beat" in worker.ran)
            await bench.until(lambda: bench.condition("Ready", "users")["reason"] == "PartitionsDiffer")
            bench.api.remove(TASKS, "default/users")
            bench.task("users", dynamic=True, partitions=1)
            await bench.until(
                lambda: (
                    'refuse the handler "send"'
                    in (bench.condition("Ready", "users") or {}).get("message", "")
                )
            )
            assert "stored in 8 partitions" in bench.condition("Ready", "users")["message"]
            assert await context.get_task(send, "ada") is not None

            await context.unschedule_task(send, "ada")
            await bench.until(lambda: bench.condition("Ready", "users")["status"] == "True")
            await worker.schedule("bob")
            await bench.until(lambda: "bob" in worker.ran)


async def test_permits_of_a_large_limit_are_few_and_none_is_left_after_its_task_is_removed(bench):
    bench.task("beat", handler="tick", intervalSeconds=1, maxConcurrentRuns=10_000, concurrencyPolicy="Allow")
    await bench.start()
    partition = permit_partition(REALM, "tick", "beat")

    async def permits():
        async with bench.store() as store:
            return len(await store.scan(partition, "beat", None, 20_000))

    async with Worker(bench).at_work() as worker:
        await bench.until(lambda: worker.ran.count("beat") >= 2)
        assert 1 <= await permits() <= 8

        bench.api.remove(TASKS, "default/beat")
        async with asyncio.timeout(30):
            while True:
                if not await permits():
                    break
                await asyncio.sleep(0.1)
        ran = len(worker.ran)
        await asyncio.sleep(2)  # two intervals, in which a live worker would have made them anew

    assert len(worker.ran) == ran
    assert await permits() == 0


async def test_invalid_arguments_are_reported_until_they_are_corrected(bench):
    bench.task("wrong", handler="count", intervalSeconds=1, args={"number": "many"})
    bench.task("right", handler="count", intervalSeconds=1, args={"number": 7})
    await bench.start()

    async with Worker(bench).at_work() as worker:
        await bench.until(lambda: ("right", 7) in worker.ran)
        await bench.until(lambda: bench.condition("HandlerResolved", "wrong")["reason"] == "ArgumentsInvalid")
        message = bench.condition("HandlerResolved", "wrong")["message"]
        assert message == "spec.args.number: 'many' is not of type 'integer'."
        assert bench.condition("HandlerResolved", "right")["status"] == "True"

        bench.api.edit(TASKS, "default/wrong", args={"number": 8})
        await bench.until(lambda: ("wrong", 8) in worker.ran)
        await bench.until(lambda: bench.condition("Ready", "wrong")["status"] == "True")
