"""
The operator as a process, among the largest tasks that the API server stores: it stays within the limit of the chart.

Their size in MiB is in the variable PYNCETTE_LARGE_MIB:

    PYNCETTE_LARGE_MIB=1536 pytest -m long --timeout 1800 tests/apiserver/test_memory.py
"""

import asyncio
import os

import pytest

from pyncette.coordination.members import migrate
from pyncette.resources.arguments import ARGS_BYTES_MAX, ARGS_KEYS_MAX
from pyncette.store.backend import read_backend
from tests.apiserver.operating import LIMIT_MIB, POOL, Crowd, OperatorProcess, name_of, pool

pytestmark = pytest.mark.long

LARGE_MIB = int(os.environ.get("PYNCETTE_LARGE_MIB", "96"))

PATIENCE_SECONDS = 120 + LARGE_MIB

LARGEST = {f"{number:02}": "x" * ARGS_BYTES_MAX for number in range(ARGS_KEYS_MAX)}
"""One MiB."""


async def test_the_largest_tasks_fit_into_the_limit_while_they_are_written_and_at_a_start(
    apiserver, namespace, tmp_path
):
    url = f"sqlite:///{tmp_path}/tasks.db"
    await migrate(read_backend(url))
    settings = {"namespaces": [namespace], "resyncSeconds": 20}
    async with Crowd.of(apiserver, namespace) as crowd:
        with OperatorProcess(tmp_path, apiserver.kubeconfig, url, **settings) as operator:
            apiserver.admin.create(pool() | {"metadata": {"name": POOL, "namespace": namespace}})
            await operator.calm(PATIENCE_SECONDS)

            await crowd.create(range(LARGE_MIB), args=LARGEST)
            await operator.calm(PATIENCE_SECONDS)
            written = operator.peak_mib()
            await asyncio.to_thread(operator.stop)
            operator.start()
            await operator.calm(PATIENCE_SECONDS)

            started = operator.peak_mib()
            print(f"peak memory in MiB: {written:.0f} while they are written, {started:.0f} at a start")
            assert max(written, started) < LIMIT_MIB
        last = await crowd.get(name_of(LARGE_MIB - 1))
        await crowd.delete(range(LARGE_MIB))

    (stalled,) = (one for one in last["status"]["conditions"] if one["type"] == "Stalled")
    assert stalled["reason"] == "ArgumentsTooLarge"
