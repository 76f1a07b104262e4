"""Measures the operator among many tasks on a real API server and PostgreSQL: `make bench-operator`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.__main__ import log_line, machine
from benchmarks.environments import ROOT
from benchmarks.stores import postgres, server_pid
from benchmarks.tables import put_into, table
from pyncette.coordination.members import migrate
from pyncette.store.backend import read_backend
from tests.apiserver.operating import (
    POOL,
    Crowd,
    OperatorProcess,
    Process,
    Rows,
    cpu_seconds,
    memory_mib,
    name_of,
    pool,
    until,
    worker_process,
)
from tests.servers import ApiServer, open_apiserver

RESULTS: Final = ROOT / ".cache" / "bench-operator.json"
PAGE: Final = ROOT / "docs" / "performance.md"

RESYNC_SECONDS: Final = 60
"""More often than usual, so that three of them do not take a quarter of an hour."""

USUAL_RESYNC_SECONDS: Final = 300

RESYNCS: Final = 3

NAMESPACE: Final = "reports"

QUIET_SECONDS: Final = 30
"""Without a resync in it, from some seconds after one."""

EDITS: Final = 1_000
EDITS_A_SECOND: Final = 20

BURST: Final = 100

RUNS_A_SECOND: Final = 100
LOAD_SECONDS: Final = 60

PATIENCE_SECONDS: Final = 1_800
"""Beyond anything that could be called a result."""


class Scene(NamedTuple):
    """All that is there, and what is counted of whom."""

    apiserver: ApiServer
    operator: OperatorProcess
    worker: Process
    crowd: Crowd
    rows: Rows
    database: int
    """The first process of PostgreSQL."""
    number: int
    """How many tasks there are to be."""

    def cpu(self) -> dict[str, float]:
        """CPU seconds that each part has used so far."""
        pids = {"operator": self.operator.pid, "worker": self.worker.pid, "PostgreSQL": self.database}
        pids |= {"API server": self.apiserver.pid, "etcd": self.apiserver.etcd_pid}
        return {name: cpu_seconds(pid) for name, pid in pids.items()}


class Stretch:
    """A stretch of time, and what CPU each part used in it, in cores."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._began = time.time()
        self._before = scene.cpu()

    def end(self) -> dict[str, float]:
        seconds = time.time() - self._began
        used = self._scene.cpu()
        return {"seconds": seconds} | {name: (used[name] - self._before[name]) / seconds for name in used}


def main() -> None:
    arguments = parsed()
    results = asyncio.run(measure(arguments.tasks, arguments.profile))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1))
    text = written(results)
    print(text)
    if arguments.write:
        put_into(PAGE, text, BEGIN)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator_at_scale", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument(
        "--profile",
        metavar="COMMAND",
        help="run at the start of each part, with {pid} and {part} filled in, for example a py-spy",
    )
    parser.add_argument("--no-write", dest="write", action="store_false", help="print the table only")
    return parser.parse_args()


async def measure(number: int, profile: str | None) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": machine(), "tasks": number, "loads": []}
    with open_apiserver() as apiserver, postgres() as server, server.fresh_database() as url:
        apiserver.install()
        # It goes with the server: to empty it would take longer than a request may.
        apiserver.admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        with tempfile.TemporaryDirectory() as folder:
            await migrate(read_backend(url))
            place = apiserver, url, NAMESPACE, Path(folder), number, server_pid(server)
            async with opened(*place) as scene:
                for part in PARTS:
                    if profile:
                        command = profile.format(pid=scene.operator.pid, part=part.__name__)
                        await asyncio.create_subprocess_shell(command)
                    results[part.__name__] = await part(scene)
                    results["loads"].append(os.getloadavg()[0])
                    log_line(f"{part.__name__}: {json.dumps(results[part.__name__])}")
    return results


@asynccontextmanager
async def opened(
    apiserver: ApiServer, url: str, namespace: str, folder: Path, number: int, database: int
) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        crowd = await stack.enter_async_context(Crowd.of(apiserver, namespace))
        rows = await stack.enter_async_context(Rows.of(url))
        worker = stack.enter_context(worker_process(folder, url, namespace))
        operator = stack.enter_context(
            OperatorProcess(folder, apiserver.kubeconfig, url, resyncSeconds=RESYNC_SECONDS)
        )
        apiserver.admin.create(pool() | {"metadata": {"name": POOL, "namespace": namespace}})
        await operator.calm(120)
        yield Scene(apiserver, operator, worker, crowd, rows, database, number)


# --- What is measured ------------------------------------------------------------------------------------------------


async def creation(scene: Scene) -> dict[str, Any]:
    """All tasks are applied as fast as the API server takes them, while the operator runs."""
    stretch = Stretch(scene)
    empty_mib = scene.operator.memory_mib()
    began = time.time()
    await scene.crowd.create(range(scene.number))
    applied = time.time() - began
    rows = await until_rows(scene)
    await until(lambda: scene.crowd.are_ready(scene.number), PATIENCE_SECONDS, pause=2)
    ready = time.time() - began
    return {
        "applied_seconds": applied,
        "rows_seconds": rows - began,
        "rows_after_applied_seconds": rows - began - applied,
        "ready_seconds": ready,
        "empty_mib": empty_mib,
        "cpu": stretch.end(),
    }


async def rest(scene: Scene) -> dict[str, Any]:
    """Nothing changes; some resyncs pass."""
    operator = scene.operator
    await operator.calm(PATIENCE_SECONDS)
    before, stretch, mark = operator.metrics(), Stretch(scene), await scene.crowd.versions()
    await operator.resynced(PATIENCE_SECONDS, RESYNCS)
    with_resyncs = stretch.end()
    after = operator.metrics()
    await asyncio.sleep(10)
    quiet = Stretch(scene)
    await asyncio.sleep(QUIET_SECONDS)
    without = quiet.end()
    resyncs = after["resync_duration_seconds_count"] - before["resync_duration_seconds_count"]
    busy_seconds = (with_resyncs["operator"] - without["operator"]) * with_resyncs["seconds"]
    return {
        "memory_mib": operator.memory_mib(),
        "peak_mib": operator.peak_mib(),
        "apiserver_mib": memory_mib(scene.apiserver.pid),
        "etcd_mib": memory_mib(scene.apiserver.etcd_pid),
        "resync_seconds": (after["resync_duration_seconds_sum"] - before["resync_duration_seconds_sum"])
        / resyncs,
        "resync_cpu_seconds": busy_seconds / resyncs,
        "written": changed(mark, await scene.crowd.versions()),
        "cpu": without,
        "operator_usually": without["operator"] + busy_seconds / resyncs / USUAL_RESYNC_SECONDS,
    }


async def restart(scene: Scene) -> dict[str, Any]:
    """The operator is stopped, and started again."""
    operator = scene.operator
    await operator.calm(PATIENCE_SECONDS)
    mark = await scene.crowd.versions()
    await scene.rows.begin_again()
    began = time.time()
    code = operator.stop()
    stopped = time.time() - began
    operator.start()
    began = time.time()
    await until(lambda: asyncio.to_thread(operator.is_ready), PATIENCE_SECONDS, pause=0.2)
    ready = time.time() - began
    stretch = Stretch(scene)
    await operator.calm(PATIENCE_SECONDS)
    calm = time.time() - began
    await scene.operator.resynced(PATIENCE_SECONDS)
    return {
        "exit_code": code,
        "stop_seconds": stopped,
        "ready_seconds": ready,
        "calm_seconds": calm,
        "statuses_written": changed(mark, await scene.crowd.versions()),
        "rows_written": len(await scene.rows.written()),
        "peak_mib": operator.peak_mib(),
        "memory_mib": operator.memory_mib(),
        "cpu": stretch.end(),
    }


async def burst(scene: Scene) -> dict[str, Any]:
    """One task is edited again and again, as fast as the API server takes it."""
    await scene.operator.resynced(PATIENCE_SECONDS)
    await scene.operator.calm(PATIENCE_SECONDS)
    before = passes(scene)
    await scene.rows.begin_again()
    name = name_of(scene.number // 2)
    began = time.time()
    for number in range(BURST):
        answer = await scene.crowd.edit(name, args={"edit": str(number)})
    seconds = time.time() - began
    last = answer["generation"]
    await until(lambda: scene.rows.reached(name, last), PATIENCE_SECONDS, pause=0.1)
    await asyncio.sleep(5)
    return {
        "edits": BURST,
        "seconds": seconds,
        "passes": passes(scene) - before,
        "rows_written": len(await scene.rows.written()),
    }


async def edits(scene: Scene) -> dict[str, Any]:
    """Tasks are edited here and there, at a steady pace."""
    chosen = random.Random(1).sample(range(scene.number), min(EDITS, scene.number // 2))
    await scene.operator.calm(PATIENCE_SECONDS)
    await scene.rows.begin_again()
    sent: dict[str, float] = {}
    stretch = Stretch(scene)
    async with asyncio.TaskGroup() as editing:
        for number in chosen:
            name = name_of(number)
            sent[name] = time.time()
            editing.create_task(scene.crowd.edit(name, args={"edit": "paced"}))
            await asyncio.sleep(1 / EDITS_A_SECOND)
    cpu = stretch.end()
    await until(lambda: scene.rows.hold(len(chosen)), PATIENCE_SECONDS)
    reached: dict[str, float] = {}
    for row in await scene.rows.written():
        reached.setdefault(row.task, row.at)
    took = sorted(reached[name] - at for name, at in sent.items())
    return {
        "edits": len(took),
        "p50_seconds": statistics.median(took),
        "p99_seconds": took[int(len(took) * 0.99)],
        "max_seconds": took[-1],
        "cpu": cpu,
    }


async def load(scene: Scene) -> dict[str, Any]:
    """All tasks get an interval, so that there are some runs each second, and records change by themselves."""
    await scene.rows.begin_again()
    began = time.time()
    interval = scene.number // RUNS_A_SECOND
    await asyncio.gather(
        *(
            scene.crowd.edit(name_of(number), schedule=None, timeZone=None, intervalSeconds=interval)
            for number in range(scene.number)
        )
    )
    applied = time.time() - began
    rows = await until_rows(scene) - began
    await asyncio.sleep(max(60, interval))
    await scene.rows.begin_again()
    before, stretch = scene.operator.metrics(), Stretch(scene)
    await asyncio.sleep(LOAD_SECONDS)
    cpu = stretch.end()
    after = scene.operator.metrics()
    runs = len(await scene.rows.written()) / 2  # a claim, and an end
    return {
        "applied_seconds": applied,
        "rows_after_applied_seconds": rows - applied,
        "runs_a_second": runs / cpu["seconds"],
        "statuses_a_second": (
            after["status_writes_total", "written"] - before["status_writes_total", "written"]
        )
        / cpu["seconds"],
        "passes_a_second": (
            after["reconcile_duration_seconds_count"] - before["reconcile_duration_seconds_count"]
        )
        / cpu["seconds"],
        "statuses_waiting": after["status_writes_waiting"],
        "memory_mib": scene.operator.memory_mib(),
        "peak_mib": scene.operator.peak_mib(),
        "cpu": cpu,
    }


async def wiped(scene: Scene) -> dict[str, Any]:
    """The operator starts where all tasks are there, and the backend is empty."""
    scene.operator.stop()
    scene.worker.stop()
    await scene.rows.wipe()
    scene.worker.start()
    scene.operator.start()
    began = time.time()
    rows = await until_rows(scene) - began
    return {"rows_seconds": rows, "peak_mib": scene.operator.peak_mib()}


PARTS: Final = (creation, rest, restart, burst, edits, load, wiped)


# --- Waiting ---------------------------------------------------------------------------------------------------------


async def until_rows(scene: Scene) -> float:
    """Wait until each task has been written, and return when the last one was."""
    await until(lambda: scene.rows.hold(scene.number), PATIENCE_SECONDS)
    first: dict[str, float] = {}
    for row in await scene.rows.written():
        first.setdefault(row.task, row.at)
    return max(first.values())


def passes(scene: Scene) -> float:
    return scene.operator.metrics()["reconcile_duration_seconds_count", "PyncetteTask"]


def changed(before: dict[str, str], after: dict[str, str]) -> int:
    return sum(before.get(name) != version for name, version in after.items())


# --- Results ---------------------------------------------------------------------------------------------------------

BEGIN: Final = "<!-- measured: begin (make bench-operator) -->"

NAMES: Final = ("operator", "API server", "etcd", "PostgreSQL", "worker")


def written(results: dict[str, Any]) -> str:
    """Return the tables of the page."""
    return "\n".join([*_head(results), *_aims(results), *_parts(results)]).rstrip() + "\n"


def _head(results: dict[str, Any]) -> Iterator[str]:
    place, loads = results["machine"], results["loads"]
    yield (
        f"Measured on {place['date']}: {place['cpu']}, {place['memory']}, {place['system']}, Python {place['python']}; "
        f"{results['tasks']:,} tasks. All processes ran on the same cores. The load of the machine was {min(loads):.0f} to "
        f"{max(loads):.0f}."
    )
    yield ""


def _aims(results: dict[str, Any]) -> Iterator[str]:
    made, rest, again = results["creation"], results["rest"], results["restart"]
    many, edited = results["burst"], results["edits"]
    rows = [
        (
            "records in an empty backend, from the start of the operator: 60 s",
            f"{results['wiped']['rows_seconds']:.0f} s",
        ),
        (
            "records of tasks that are applied while it runs",
            f"{made['rows_after_applied_seconds']:.1f} s after the last task was applied; it took {made['applied_seconds']:.0f} s to apply all",
        ),
        (
            "all tasks Ready in their status, from the first apply: 5 min",
            f"{made['ready_seconds'] / 60:.1f} min",
        ),
        (
            f"memory after {RESYNCS} resyncs with full statuses: 256 MiB",
            f"{rest['memory_mib']:.0f} MiB, at most {rest['peak_mib']:.0f}; {made['empty_mib']:.0f} without a task",
        ),
        (
            "an edit reaches its record, p99: 1 s",
            f"{edited['p99_seconds']:.2f} s (p50 {edited['p50_seconds']:.2f}, max {edited['max_seconds']:.2f}; {edited['edits']:,} edits)",
        ),
        (
            "a restart writes nothing",
            f"{again['statuses_written']} statuses, {again['rows_written']} records; ready in {again['ready_seconds']:.0f} s",
        ),
        (
            f"a burst of {many['edits']} edits to one task costs one more pass",
            f"{many['passes']:.0f} passes; the burst took {many['seconds']:.1f} s",
        ),
    ]
    yield from table(("aim", "measured"), rows)


def _parts(results: dict[str, Any]) -> Iterator[str]:
    rest, load, made = results["rest"], results["load"], results["creation"]
    yield (
        "The next table shows the CPU usage in percent of a core. The operator's figure without changes includes a resync "
        f"every {USUAL_RESYNC_SECONDS} s, which takes {rest['resync_cpu_seconds']:.1f} s of CPU time. With "
        f"{load['runs_a_second']:.0f} runs a second, it writes {load['statuses_a_second']:.0f} statuses a second, and uses "
        f"{load['memory_mib']:.0f} MiB."
    )
    yield ""
    rows = [
        _shares("nothing changes", {**rest["cpu"], "operator": rest["operator_usually"]}),
        _shares(f"{load['runs_a_second']:.0f} runs a second", load["cpu"]),
    ]
    yield from table(("", *NAMES), rows)
    yield (
        "Until all tasks are created and Ready, the processes take this CPU time: "
        + ", ".join(f"{name} {made['cpu'][name] * made['cpu']['seconds']:.0f} s" for name in NAMES[:-1])
        + f". Without changes, the API server uses {rest['apiserver_mib']:.0f} MiB, and etcd {rest['etcd_mib']:.0f} MiB."
    )


def _shares(what: str, cpu: dict[str, float]) -> tuple[str, ...]:
    return (what, *(f"{cpu[name] * 100:.1f} %" for name in NAMES))


if __name__ == "__main__":
    main()
