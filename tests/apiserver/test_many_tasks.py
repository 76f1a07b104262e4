"""The operator as a process, among hundreds of tasks: what `make bench-operator` measures among ten thousand keeps its shape."""

import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pyncette.controller.intervals import DEFAULT
from pyncette.coordination.members import migrate
from pyncette.store.backend import read_backend
from tests.apiserver.operating import POOL, Crowd, OperatorProcess, Rows, name_of, pool, until, worker_process

pytestmark = pytest.mark.long

FIRST, MORE = 250, 500

KIB_A_TASK = 40
"""Ten thousand tasks take some 12 KiB each. A few hundred also make the process touch memory for the first time."""

PATIENCE_SECONDS = 120

BURST = 50


@asynccontextmanager
async def scene(apiserver, namespace, url, folder):
    """An operator of one namespace, a worker, and an account of what is written."""
    await migrate(read_backend(url))
    async with AsyncExitStack() as stack:
        crowd = await stack.enter_async_context(Crowd.of(apiserver, namespace))
        rows = await stack.enter_async_context(Rows.of(url))
        stack.enter_context(worker_process(folder, url, namespace))
        settings = {"namespaces": [namespace], "statusWritesPerSecond": 1_000, "resyncSeconds": 10}
        operator = stack.enter_context(OperatorProcess(folder, apiserver.kubeconfig, url, **settings))
        apiserver.admin.create(pool() | {"metadata": {"name": POOL, "namespace": namespace}})
        await operator.calm(PATIENCE_SECONDS)
        yield operator, crowd, rows


async def test_all_are_mirrored_and_told_of_in_bounded_memory_and_then_left_alone(
    apiserver, namespace, postgres_url, tmp_path
):
    async with scene(apiserver, namespace, postgres_url, tmp_path) as (operator, crowd, rows):
        await crowd.create(range(FIRST))
        await until(lambda: crowd.are_ready(FIRST), PATIENCE_SECONDS)
        await operator.resynced(PATIENCE_SECONDS)
        before = operator.memory_mib()

        await crowd.create(range(FIRST, FIRST + MORE))
        await until(lambda: crowd.are_ready(FIRST + MORE), PATIENCE_SECONDS)
        await operator.resynced(PATIENCE_SECONDS, 2)

        assert await rows.count() == FIRST + MORE
        assert (operator.memory_mib() - before) * 1024 / MORE < KIB_A_TASK

        versions = await crowd.versions()
        await rows.begin_again()
        exit_code = operator.stop()
        operator.start()
        await operator.resynced(PATIENCE_SECONDS, 2)

        assert exit_code == 0
        assert await crowd.versions() == versions
        assert await rows.written() == []


async def test_a_burst_of_edits_reaches_its_row_with_few_passes(apiserver, namespace, postgres_url, tmp_path):
    async with scene(apiserver, namespace, postgres_url, tmp_path) as (operator, crowd, rows):
        await crowd.create(range(10))
        await until(lambda: crowd.are_ready(10), PATIENCE_SECONDS)
        await operator.resynced(PATIENCE_SECONDS)
        before = operator.metrics()["reconcile_duration_seconds_count", "PyncetteTask"]

        began = time.monotonic()
        for number in range(BURST):
            edited = await crowd.edit(name_of(3), args={"edit": str(number)})
        took = time.monotonic() - began
        await until(lambda: rows.reached(name_of(3), edited["generation"]), PATIENCE_SECONDS, pause=0.1)

        passes = operator.metrics()["reconcile_duration_seconds_count", "PyncetteTask"] - before
        # One at once, and one at the end of each rest; a resync may add one of each task.
        assert passes - 10 <= 2 + took / DEFAULT.quiet
