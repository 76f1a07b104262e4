"""Measures, beside upstream, and writes docs/performance.md: `make bench`, or `make bench ARGS=--short`."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import peers, report
from benchmarks.environments import ROOT, SIDES, draw, drive
from benchmarks.peers.known import beside
from benchmarks.stores import SERVERS, Place, fresh
from benchmarks.tables import put_into

STORES = (*SERVERS, "sqlite")

RESULTS = ROOT / ".cache" / "bench.json"

DRAINED = {
    "ours": dict.fromkeys(STORES, 100_000) | {"dynamodb": 10_000},
    "upstream": {
        "postgres": 3_000,
        "redis": 5_000,
        "mariadb": 3_000,
        "mysql": 3_000,
        "dynamodb": 1_000,
        "sqlite": 1_000,
    },
}
POPULATED = {
    "ours": dict.fromkeys(STORES, 200_000) | {"dynamodb": 10_000},
    "upstream": dict.fromkeys(STORES, 2_000),
}
POPULATING_RATES = {
    "ours": {
        "postgres": 15_000.0,
        "redis": 15_000.0,
        "mariadb": 6_000.0,
        "mysql": 4_000.0,
        "dynamodb": 300.0,
        "sqlite": 15_000.0,
    },
    "upstream": {
        "postgres": 400.0,
        "redis": 500.0,
        "mariadb": 200.0,
        "mysql": 100.0,
        "dynamodb": 60.0,
        "sqlite": 200.0,
    },
}
"""What populating surely reaches, so that nothing is due before all is there."""

LATENCY_INSTANCES = 2_000
LATENCY_INSTANCES_MANY = 40_000
"""Over the same time: 2,000 runs a second."""
STEPS_RUNS = 300_000
PROCESSES = (1, 2, 4)
IDLE_INSTANCES = {
    "ours": dict.fromkeys(STORES, 100_000) | {"dynamodb": 10_000},
    "upstream": dict.fromkeys(STORES, 5_000) | {"dynamodb": 1_000},
}
ONCE = ("steps", "idle", "statements", "memory")
"""What is measured in one round, however many are asked for."""
SCALES = (10_000, 100_000, 1_000_000)
SCALE_DUE = 10_000
SCALE_ONCE = 5_000_000
"""From this size on, one round is all there is time for."""

NOTIFYING = ("postgres", "redis")
"""The backends with the stricter aims."""
SLOW = ("dynamodb",)
"""Where a million of anything takes hours: the emulator of DynamoDB."""


def main() -> None:
    arguments = parsed()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() and arguments.parts else {}
    results["machine"] = machine()
    RESULTS.parent.mkdir(exist_ok=True)
    if "peers" in arguments.only:
        peers.prepare(arguments.stores)
    for store in arguments.stores:
        # One server at a time: those that are not asked take their share of the processors, too.
        with SERVERS[store]() if store in SERVERS else nullcontext() as server:
            for name in arguments.only:
                measured = MEASURED[name](arguments, partial(fresh, store, server), store)
                if measured:
                    results.setdefault(name, {})[store] = measured
                    results.setdefault("rounds", {})[name] = 1 if name in ONCE else arguments.repeats
                    RESULTS.write_text(json.dumps(results, indent=1))
    text = report.written(results)
    print(text)
    if arguments.write:
        put_into(ROOT / "docs" / "performance.md", text)
        draw(RESULTS, ROOT / "docs" / "images")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="a tenth of the work, once: minutes, and no figures to quote"
    )
    parser.add_argument(
        "--only", nargs="+", choices=MEASURED, help="these measurements; the rest stays as it was"
    )
    parser.add_argument(
        "--stores", nargs="+", choices=STORES, help="these backends; the rest stays as it was"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--repeats", type=int, default=5, help="interleaved rounds, of which medians are quoted"
    )
    parser.add_argument("--scales", nargs="+", type=int, default=list(SCALES))
    parser.add_argument("--no-write", dest="write", action="store_false", help="print the table only")
    arguments = parser.parse_args()
    arguments.parts = arguments.only or arguments.stores
    arguments.only, arguments.stores = arguments.only or list(MEASURED), arguments.stores or list(STORES)
    if arguments.short:
        arguments.repeats, arguments.write, arguments.scales = 1, False, [10_000, 100_000]
    return arguments


def sides_of(arguments: argparse.Namespace, store: str) -> list[str]:
    """Return who is measured on *store*: MariaDB refuses the index that upstream makes (of an expression), and it ends."""
    return [side for side in arguments.sides if (store, side) != ("mariadb", "upstream")]


Opens = Callable[[], Any]


def drain(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Rounds of ours and theirs in turn, so that a slow minute of the machine slows both."""
    return _drained(arguments, opens, store, "cron")


def intervals(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """The same with intervals, which upstream's Redis does in fewer steps than expressions."""
    return _drained(arguments, opens, store, "interval") if store == "redis" else {}


def _drained(arguments: argparse.Namespace, opens: Opens, store: str, kind: str) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides_of(arguments, store)}
    for number in range(arguments.repeats):
        for side in sides_of(arguments, store):
            due = DRAINED[side][store] // (10 if arguments.short else 1)
            with opens() as place:
                result = drive(
                    side, "drain", *place.arguments(), "--number", due, "--kind", kind,
                    "--rate", POPULATING_RATES[side][store],
                )  # fmt: skip
                log_line(f"drain of {kind}s {store} {side} round {number + 1}: {result['rate']:,.0f}/s")
            rounds[side].append(result)
    return {side: medians(results) for side, results in rounds.items()} | {"rounds": rounds}


def limits(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """A drain, and the same claims and completions without a worker, in turn."""
    rounds: dict[str, list[dict[str, Any]]] = {"drain": [], "raw": []}
    due = DRAINED["ours"][store] // (10 if arguments.short else 1)
    for number in range(arguments.repeats):
        for measurement, results in rounds.items():
            with opens() as place:
                rate = POPULATING_RATES["ours"][store]
                results.append(
                    drive("ours", measurement, *place.arguments(), "--number", due, "--rate", rate)
                )
            log_line(f"limits {store} {measurement} round {number + 1}: {results[-1]['rate']:,.0f}/s")
    return {measurement: medians(results) for measurement, results in rounds.items()}


def steps(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Where the time of a drain goes, by samples."""
    runs = min(STEPS_RUNS, DRAINED["ours"][store] * 3) // (10 if arguments.short else 1)
    with opens() as place:
        result = drive(
            "ours", "drain", *place.arguments(), "--number", runs, "--rate", POPULATING_RATES["ours"][store],
            "--steps",
        )  # fmt: skip
    log_line(f"steps {store}: {result['steps']}")
    return result


def processes(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """The same drain by ever more worker processes."""
    results: dict[str, Any] = {}
    number = DRAINED["ours"][store] // (10 if arguments.short else 1)
    for count in PROCESSES:
        rounds = []
        for _ in range(min(3, arguments.repeats)):
            with opens() as place, ThreadPoolExecutor(count) as threads:
                common = (*place.arguments(), "--number", number)
                seeded = drive("ours", "seed", *common, "--rate", POPULATING_RATES["ours"][store])
                work = ("ours", "work", *common, "--due", seeded["due"])
                rounds.append(added_up(list(threads.map(lambda _, work=work: drive(*work), range(count)))))
        results[str(count)] = medians(rounds)
        log_line(f"processes {store} {count}: {results[str(count)]}")
    return results


def added_up(assignment: list[dict[str, Any]]) -> dict[str, float]:
    """Add up what several processes have done of one drain."""
    runs = sum(share["runs"] for share in assignment)
    seconds = max(share["last"] for share in assignment) - min(
        share["first"] for share in assignment if share["runs"]
    )
    return {
        "runs": runs,
        "rate": (runs - 1) / seconds,
        "worker_cpu_us": sum(share["worker_cpu"] for share in assignment) / runs * 1e6,
        # All have looked at the same server for much the same time.
        "server_core_percent": max(share["server_cpu"] for share in assignment) / seconds * 100,
        "least_share_percent": min(share["runs"] for share in assignment) / runs * 100,
    }


def populate(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides_of(arguments, store)}
    for number in range(arguments.repeats):
        for side in sides_of(arguments, store):
            with opens() as place:
                scheduled = POPULATED[side][store] // (10 if arguments.short else 1)
                rounds[side].append(drive(side, "populate", *place.arguments(), "--number", scheduled))
                log_line(f"populate {store} {side} round {number + 1}: {rounds[side][-1]['rate']:,.0f}/s")
    return {side: medians(results) for side, results in rounds.items()}


def latency(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides_of(arguments, store)}
    for number in range(arguments.repeats):
        for side in sides_of(arguments, store):
            with opens() as place:
                rate = POPULATING_RATES[side][store]
                rounds[side].append(
                    drive(side, "latency", *place.arguments(), "--number", LATENCY_INSTANCES, "--rate", rate)
                )
                log_line(
                    f"latency {store} {side} round {number + 1}: p99 {rounds[side][-1]['p99_ms']:.1f} ms"
                )
    return {side: medians(results) for side, results in rounds.items()}


def latency_many(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """The same at 2,000 runs a second."""
    if store not in NOTIFYING:
        return {}
    rounds = []
    for number in range(arguments.repeats):
        with opens() as place:
            runs = LATENCY_INSTANCES_MANY // (10 if arguments.short else 1)
            rate = POPULATING_RATES["ours"][store]
            rounds.append(drive("ours", "latency", *place.arguments(), "--number", runs, "--rate", rate))
            log_line(f"latency of many {store} round {number + 1}: p99 {rounds[-1]['p99_ms']:.1f} ms")
    return {"ours": medians(rounds)}


def idle(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    results = {}
    for side in sides_of(arguments, store):
        with opens() as place:
            marks: list[int | None] = []

            def heard(_: str, place: Place = place, marks: list[int | None] = marks) -> None:
                if len(marks) < 2:
                    marks.append(place.statements())

            instances = IDLE_INSTANCES[side][store] // (10 if arguments.short else 1)
            result = drive(side, "idle", *place.arguments(), "--number", instances, heard=heard)
            result["instances"] = instances
            first, last = marks
            if first is not None and last is not None:
                result["statements_a_second"] = (last - first) / result["seconds"]
            results[side] = result
            log_line(f"idle {store} {side}: {result}")
    return results


def statements(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Statements of a drain, populating taken off by populating once more without."""
    if store not in SERVERS:
        return {}
    results = {}
    for side in sides_of(arguments, store):
        due = DRAINED[side][store] // 10
        with opens() as place:
            marks = [place.statements()]
            drive(side, "populate", *place.arguments(), "--number", due)
            marks.append(place.statements())
        with opens() as place:
            marks.append(place.statements())
            drive(side, "drain", *place.arguments(), "--number", due, "--rate", POPULATING_RATES[side][store])
            marks.append(place.statements())
        populating, both = marks[1] - marks[0], marks[3] - marks[2]
        results[side] = {"statements_a_run": (both - populating) / due, "runs": due}
        log_line(f"statements {store} {side}: {results[side]}")
    return results


def scale(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """The same number of due instances, among ever more that are not."""
    if store in SLOW:
        return {}
    results: dict[str, Any] = {}
    for size in arguments.scales:
        rounds = []
        for _ in range(1 if size >= SCALE_ONCE else min(3, arguments.repeats)):
            with opens() as place:
                rounds.append(
                    drive(
                        "ours", "drain", *place.arguments(), "--number", SCALE_DUE, "--beside", size - SCALE_DUE,
                        "--rate", POPULATING_RATES["ours"][store],
                    )
                )  # fmt: skip
        results[str(size)] = medians(rounds)
        log_line(f"scale {store} {size:,}: {results[str(size)]['rate']:,.0f}/s")
    return results


def memory(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    if store in SLOW:
        return {}
    with opens() as place:
        result = drive(
            "ours", "memory", *place.arguments(), "--number", 100_000 if arguments.short else 1_000_000
        )
    log_line(f"memory {store}: {result}")
    return result


def beside_peers(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Rounds of ours and of what a user may pick instead, on the same server."""
    share = 0.1 if arguments.short else 1.0
    due = {"drain": int(DRAINED["ours"][store] * share), "latency": LATENCY_INSTANCES}

    def ours(measurement: str) -> dict[str, Any]:
        with opens() as place:
            rate = POPULATING_RATES["ours"][store]
            result = drive(
                "ours", measurement, *place.arguments(), "--number", due[measurement], "--rate", rate
            )
        # As theirs is timed.
        return result | {"rate": result["rate_from_due"]} if measurement == "drain" else result

    rounds: dict[str, list[dict[str, Any]]] = {}
    # Where there is nobody to compare with, ours is measured by the others already.
    for number in range(arguments.repeats if beside(store) else 0):
        for name, result in peers.one_round(store, opens, ours, share=share):
            rounds.setdefault(name, []).append(result)
            log_line(
                f"peers {store} {name} round {number + 1}: {result['rate']:,.0f}/s, p99 {result['p99_ms']:.1f} ms"
            )
    return {name: medians(results) for name, results in rounds.items()}


MEASURED = {
    "drain": drain,
    "intervals": intervals,
    "limits": limits,
    "steps": steps,
    "processes": processes,
    "populate": populate,
    "latency": latency,
    "latency_many": latency_many,
    "idle": idle,
    "statements": statements,
    "scale": scale,
    "memory": memory,
    "peers": beside_peers,
}


def medians(results: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median_low([result[name] for result in results]) for name in results[0]}


def machine() -> dict[str, str]:
    """What a reader needs to know of where it was measured."""
    cpus = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "cpu": f"{len(cpus)} × {cpus[0] if cpus else platform.processor()}",
        "memory": f"{memory / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def log_line(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
