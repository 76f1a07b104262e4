"""
Does one measurement in one process, and prints what it saw as a line of JSON.

It uses nothing but names that both packages share, so the same lines measure ours and the released upstream, each in
an environment of its own. What only ours has (`schedule_many`) is used where it is there.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import uvloop

import pyncette
from pyncette import Context, Pyncette

ZONE = "Europe/Dublin"
SPREAD_SECONDS = 20
SETTLE_SECONDS_MAX = 120
LEASE = datetime.timedelta(seconds=300)
INTERVAL_SECONDS_MIN = 15
"""Longer than the drain takes: what was run must not be due again before it is over."""
START_SECONDS = 8
"""From the end of populating until instances are due: processes start meanwhile."""
QUIET_SECONDS = 2
"""Without a run after so long, nothing is left."""
AT_ONCE = 50
"""Calls of `schedule_task` under way at once, where there is no bulk call."""
SCATTERING = 0x9E3779B97F4A7C15
"""Odd, and near the golden ratio of 2**64: multiples of it, cut short, come in no order, and none twice."""


def main() -> None:
    arguments = parsed()
    # What our app.main() does for a process of its own; here on both sides, since both are started without it.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    sys.setswitchinterval(0.0005)
    print(json.dumps(uvloop.run(MEASUREMENTS[arguments.measurement](arguments))), flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    stores = ["sqlite", "postgres", "redis", "mariadb", "mysql", "dynamodb"]
    parser.add_argument("--store", choices=stores, required=True)
    parser.add_argument(
        "--place", required=True, help="the file or the URL; for dynamodb, the endpoint and the table"
    )
    parser.add_argument("--number", type=int, required=True, help="instances that are due")
    parser.add_argument("--beside", type=int, default=0, help="instances that are not due, in the same table")
    parser.add_argument(
        "--rate", type=float, default=500, help="instances a second that populating surely reaches"
    )
    parser.add_argument(
        "--kind", choices=["cron", "interval"], default="cron", help="the schedule of what is drained"
    )
    parser.add_argument(
        "--due", type=float, help="when what `seed` has scheduled is due, in seconds since the epoch"
    )
    parser.add_argument("--at-once", type=int, default=500, help="both concurrency_limit and batch_size")
    parser.add_argument(
        "--steps", action="store_true", help="sample where the time of the drain goes (ours only)"
    )
    parser.add_argument("--server-pid", type=int, help="the first process of the server, to count its CPU")
    return parser.parse_args()


# --- What is measured ------------------------------------------------------------------------------------------------


async def drain(arguments: argparse.Namespace) -> dict[str, Any]:
    """All instances fall due in the same second: runs a second from the first to the last handler."""
    calls: list[float] = []
    done = asyncio.Event()
    app = opened(arguments)

    @app.dynamic_task(lease_duration=LEASE)
    async def tick(context: Context) -> None:
        calls.append(time.perf_counter())
        if len(calls) >= arguments.number:
            done.set()

    async with app.create() as context:
        total = arguments.number + arguments.beside
        due = soon((2 if arguments.kind == "cron" else INTERVAL_SECONDS_MIN) + total / arguments.rate)
        began = time.perf_counter()
        await schedule(context, tick, due_and_others(arguments, due))
        populated = time.perf_counter() - began
        await asyncio.sleep(time_left(due) - 0.4)
        running = asyncio.create_task(context.run())
        await asyncio.sleep(max(0, (due - now()).total_seconds()))
        began = time.perf_counter()
        before = cpu(arguments.server_pid)
        with Sampler(active=arguments.steps) as sampler:
            await asyncio.wait_for(done.wait(), 600)
        context.shutdown()
        await running
        after = cpu(arguments.server_pid)
    return {
        "runs": len(calls),
        "seconds": calls[arguments.number - 1] - calls[0],
        "rate": (arguments.number - 1) / (calls[arguments.number - 1] - calls[0]),
        "rate_from_due": arguments.number / (calls[arguments.number - 1] - began),
        "worker_cpu_us": (after[0] - before[0]) / len(calls) * 1e6,
        "server_cpu_us": (after[1] - before[1]) / len(calls) * 1e6,
        "populate_rate": total / populated,
        "rss_mib": peak_rss_mib(),
        **sampler.result(),
    }


def time_left(due: datetime.datetime) -> float:
    """Return the seconds until *due*, until when all instances have to be there."""
    left = (due - now()).total_seconds()
    if left < 0.5:
        raise SystemExit("populating took longer than expected: give a smaller --rate")
    return left


def due_and_others(
    arguments: argparse.Namespace, due: datetime.datetime
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the instances that are due at *due*, evenly among those beside them, which are due in weeks."""
    total = arguments.number + arguments.beside
    every = max(1, total // arguments.number)
    later = cron_at(due + datetime.timedelta(days=40))
    then = cron_at(due)
    for index in range(total):
        if index % every or index // every >= arguments.number:
            yield name_of(index), later
        elif arguments.kind == "cron":
            yield name_of(index), then
        else:
            yield name_of(index), {"interval": due - now()}


async def seed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Schedule instances that are all due in the same second, for several processes of `work`."""
    app = opened(arguments)

    @app.dynamic_task(lease_duration=LEASE)
    async def tick(context: Context) -> None: ...

    async with app.create() as context:
        due = soon(START_SECONDS + arguments.number / arguments.rate)
        await schedule(context, tick, due_and_others(arguments, due))
    return {"due": due.timestamp()}


async def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run, beside other processes that do the same, what is due, until nothing is left: who did what is for all to add up."""
    calls: list[float] = []
    app = opened(arguments)

    @app.dynamic_task(lease_duration=LEASE)
    async def tick(context: Context) -> None:
        calls.append(time.time())

    async with app.create() as context:
        await asyncio.sleep(arguments.due - time.time() - 0.4)
        running = asyncio.create_task(context.run())
        await asyncio.sleep(max(0, arguments.due - time.time()))
        before = cpu(arguments.server_pid)
        while time.time() - max([arguments.due, *calls[-1:]]) < QUIET_SECONDS:  # noqa: ASYNC110 - other processes tell nothing
            await asyncio.sleep(0.1)
        after = cpu(arguments.server_pid)
        context.shutdown()
        await running
    return {
        "runs": len(calls),
        "first": min(calls, default=0),
        "last": max(calls, default=0),
        "worker_cpu": after[0] - before[0],
        "server_cpu": after[1] - before[1],
    }


async def raw(arguments: argparse.Namespace) -> dict[str, Any]:
    """The claims and completions of a drain by a process that decides nothing and calls nobody (ours only): the backend's limit."""
    from pyncette.clock import SECOND
    from pyncette.core.record import Change, Partition, Record, replace

    app = opened(arguments)

    @app.dynamic_task(lease_duration=LEASE)
    async def tick(context: Context) -> None: ...

    async with app.create() as context:
        due = soon(2 + arguments.number / arguments.rate)
        await schedule(context, tick, due_and_others(arguments, due))

    def a_day_later(record: Record) -> Record:
        assert record.due_at is not None
        at = record.due_at + 86400 * SECOND
        return replace(
            record,
            version=record.version + 1,
            due_at=at,
            claimable_at=at,
            attempt=0,
            began_at=None,
            lease=None,
        )

    runs = 0

    async def take_turns(store: Any, lease_id: str) -> None:
        nonlocal runs
        while runs < arguments.number:
            at = int(time.time() * SECOND)
            claimed = await store.claim(
                {Partition("", "tick"): arguments.at_once // 2}, lease_id, "raw", at, at
            )
            if claimed.records:
                changes = [Change(record, a_day_later(record)) for record in claimed.records]
                made = await store.swap(changes)
                runs += sum(made)
            else:
                await asyncio.sleep(0.001)

    async with app.new_store() as store:
        await asyncio.sleep(time_left(due))
        before, began = cpu(arguments.server_pid), time.perf_counter()
        async with asyncio.timeout(600):
            await asyncio.gather(take_turns(store, "one"), take_turns(store, "other"))
        seconds = time.perf_counter() - began
        after = cpu(arguments.server_pid)
    return {
        "runs": runs,
        "rate": runs / seconds,
        "worker_cpu_us": (after[0] - before[0]) / runs * 1e6,
        "server_cpu_us": (after[1] - before[1]) / runs * 1e6,
    }


async def populate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Instances with a cron in a time zone, scheduled as fast as the API allows."""
    app = opened(arguments)

    @app.dynamic_task()
    async def tick(context: Context) -> None: ...

    async with app.create() as context:
        later = cron_at(soon(40 * 86400))
        before = cpu(arguments.server_pid)
        began = time.perf_counter()
        await schedule(context, tick, ((name_of(index), later) for index in range(arguments.number)))
        seconds = time.perf_counter() - began
        after = cpu(arguments.server_pid)
    return {
        "rate": arguments.number / seconds,
        "worker_cpu_us": (after[0] - before[0]) / arguments.number * 1e6,
        "server_cpu_us": (after[1] - before[1]) / arguments.number * 1e6,
    }


async def latency(arguments: argparse.Namespace) -> dict[str, Any]:
    """One-offs spread evenly over twenty seconds: start of the handler minus due time."""
    late: list[float] = []
    done = asyncio.Event()
    app = opened(arguments)

    @app.dynamic_task()
    async def tick(context: Context) -> None:
        late.append((now() - context.scheduled_at).total_seconds() * 1000)
        if len(late) >= arguments.number:
            done.set()

    async with app.create() as context:
        first = soon(3 + arguments.number / arguments.rate)
        step = datetime.timedelta(seconds=SPREAD_SECONDS) / arguments.number
        items = ((name_of(index), {"execute_at": first + step * index}) for index in range(arguments.number))
        await schedule(context, tick, items)
        running = asyncio.create_task(context.run())
        await asyncio.wait_for(done.wait(), SPREAD_SECONDS + SETTLE_SECONDS_MAX)
        context.shutdown()
        await running
    late.sort()
    return {
        "p50_ms": late[len(late) // 2],
        "p99_ms": late[len(late) * 99 // 100],
        "max_ms": late[-1],
        "early": sum(value < 0 for value in late),
    }


async def idle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Instances that are all due in weeks: what a worker costs that has nothing to do."""
    app = opened(arguments)

    @app.dynamic_task()
    async def tick(context: Context) -> None: ...

    async with app.create() as context:
        later = cron_at(soon(40 * 86400))
        await schedule(context, tick, ((name_of(index), later) for index in range(arguments.number)))
        running = asyncio.create_task(context.run())
        await asyncio.sleep(3)
        before, began = cpu(arguments.server_pid), time.perf_counter()
        # The parent counts statements in between, by the marks on this line.
        print("idle", flush=True)
        await asyncio.sleep(30)
        print("done", flush=True)
        seconds = time.perf_counter() - began
        after = cpu(arguments.server_pid)
        await asyncio.sleep(1)
        context.shutdown()
        await running
    return {
        "worker_core_percent": (after[0] - before[0]) / seconds * 100,
        "server_core_percent": (after[1] - before[1]) / seconds * 100,
        "seconds": seconds,
    }


async def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after a tenth of the runs, and after all of them."""
    readings: list[float] = []
    done = asyncio.Event()
    count = 0
    app = opened(arguments)

    @app.dynamic_task(fast_forward=False)
    async def tick(context: Context) -> None:
        nonlocal count
        count += 1
        if count == arguments.number // 10:
            readings.append(rss_mib())
        if count == arguments.number:
            readings.append(rss_mib())
            done.set()

    async with app.create() as context:
        items = ((name_of(index), {"interval": datetime.timedelta(seconds=1)}) for index in range(20_000))
        await schedule(context, tick, items)
        running = asyncio.create_task(context.run())
        await asyncio.wait_for(done.wait(), 1200)
        context.shutdown()
        await running
    return {"early_mib": readings[0], "late_mib": readings[1]}


MEASUREMENTS = {
    "drain": drain,
    "seed": seed,
    "work": work,
    "raw": raw,
    "populate": populate,
    "latency": latency,
    "idle": idle,
    "memory": memory,
}


# --- What they share -------------------------------------------------------------------------------------------------


def opened(arguments: argparse.Namespace) -> Pyncette:
    common: dict[str, Any] = {"batch_size": arguments.at_once, "concurrency_limit": arguments.at_once}
    if arguments.store == "sqlite":
        from pyncette.sqlite import sqlite_repository

        return Pyncette(repository_factory=sqlite_repository, sqlite_database=arguments.place, **common)
    if arguments.store == "dynamodb":
        from pyncette.dynamodb import dynamodb_repository

        endpoint, _, table = arguments.place.rpartition("/")
        return Pyncette(
            repository_factory=dynamodb_repository,
            dynamodb_region_name="eu-west-1",
            dynamodb_endpoint=endpoint,
            dynamodb_table_name=table,
            **common,
        )
    if arguments.store == "redis":
        from pyncette.redis import redis_repository

        return Pyncette(repository_factory=redis_repository, redis_url=arguments.place, **common)
    if arguments.store == "postgres":
        from pyncette.postgres import postgres_repository

        return Pyncette(repository_factory=postgres_repository, postgres_url=arguments.place, **common)
    from pyncette.mysql import mysql_repository

    place = urlsplit(arguments.place)
    named = {
        "mysql_host": place.hostname,
        "mysql_port": place.port,
        "mysql_user": unquote(place.username or ""),
        "mysql_password": unquote(place.password or ""),
        "mysql_database": place.path[1:],
    }
    return Pyncette(repository_factory=mysql_repository, **named, **common)


async def schedule(context: Any, task: Any, items: Any) -> None:
    if hasattr(context, "schedule_many"):
        async for result in context.schedule_many(task, items):
            if result.error is not None:
                raise result.error
        return
    waiting = set()
    for name, options in items:
        waiting.add(asyncio.ensure_future(context.schedule_task(task, name, **options)))
        if len(waiting) >= AT_ONCE:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                call.result()
    await asyncio.gather(*waiting)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def soon(seconds: float) -> datetime.datetime:
    return (now() + datetime.timedelta(seconds=seconds + 1)).replace(microsecond=0)


def cron_at(at: datetime.datetime) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    local = at.astimezone(ZoneInfo(ZONE))
    return {
        "schedule": f"{local.minute} {local.hour} {local.day} {local.month} * {local.second}",
        "timezone": ZONE,
    }


def name_of(index: int) -> str:
    """Names come in no order, as the ids of users do; and cost next to nothing, since it is not they that are measured."""
    return f"user-{index * SCATTERING % 2**40:010x}-{index}"


def cpu(server_pid: int | None) -> tuple[float, float]:
    """CPU seconds of this process, and of the server with all its processes, those that ended included."""
    return time.process_time(), 0.0 if server_pid is None else server_cpu(server_pid)


def server_cpu(first: int) -> float:
    ticks = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parent = int(fields[1])
        if int(folder.name) == first:
            ticks += sum(map(int, fields[11:15]))
        elif parent == first:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


STEPS = (
    ("handler", "benchmarks/driver.py", "tick"),
    ("decode", "store/codec.py", "decode"),
    ("decode", "rows.py", "claimed_records"),
    ("encode", "store/codec.py", "encode"),
    ("encode", "rows.py", ""),
    ("rule", "pyncette/core/", ""),
    ("task", "worker/run.py", ""),
    ("task", "worker/occurrence.py", ""),
    ("task", "app/registration.py", ""),
    ("claim", "pyncette/store/", "claim"),
    ("claim", "worker/poller.py", ""),
    ("claim", "worker/turns.py", ""),
    ("claim", "worker/limits.py", ""),
    ("claim", "worker/claims.py", ""),
    ("claim", "worker/dispatch.py", ""),
    ("complete", "pyncette/store/", "swap"),
    ("complete", "pyncette/store/", "_swap"),
    ("complete", "pyncette/ledger/", ""),
    ("complete", "worker/completions.py", ""),
)
"""Which part of a file's path and of a function's name mean which step; the innermost frame that means one decides."""

SAMPLE_SECONDS = 0.002


class Sampler:
    """Notes at which step the process is, each few milliseconds of its CPU."""

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if self._active:
            signal.signal(signal.SIGPROF, self._note)
            signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def result(self) -> dict[str, Any]:
        """Return the share of each step, if there was anything to note."""
        total = self._counts.total()
        return {"steps": {step: count / total for step, count in self._counts.items()}} if total else {}

    def _note(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            code = frame.f_code
            for step, path, name in STEPS:
                if path in code.co_filename and code.co_name.startswith(name):
                    self._counts[step] += 1
                    return
            frame = frame.f_back
        self._counts["event loop"] += 1


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_rss_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print(f"pyncette {pyncette.__version__} on Python {sys.version.split()[0]}", file=sys.stderr)
    main()
