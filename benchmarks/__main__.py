"""Measures, beside upstream, and writes docs/performance.md: `make bench`, or `make bench ARGS=--short`."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import peers, report
from benchmarks.environments import ROOT, SIDES, drive
from benchmarks.peers.known import beside
from benchmarks.stores import SERVERS, Place, fresh

STORES = (*SERVERS, "sqlite")

RESULTS = ROOT / ".cache" / "bench.json"

DRAINED = {
    "ours": dict.fromkeys(STORES, 100_000) | {"dynamodb": 20_000},
    "upstream": {
        "postgres": 3_000,
        "redis": 5_000,
        "mariadb": 3_000,
        "mysql": 3_000,
        "dynamodb": 1_000,
        "sqlite": 1_000,
    },
}
POPULATED = {"ours": 200_000, "upstream": 2_000}
POPULATING_RATES = {
    "ours": {
        "postgres": 15_000.0,
        "redis": 15_000.0,
        "mariadb": 6_000.0,
        "mysql": 4_000.0,
        "dynamodb": 100.0,
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
IDLE_INSTANCES = {"ours": 100_000, "upstream": 5_000}
SCALES = (10_000, 100_000, 1_000_000)
SCALE_DUE = 10_000


def main() -> None:
    arguments = parsed()
    results: dict[str, Any] = {"machine": machine(), "repeats": arguments.repeats, "short": arguments.short}
    if RESULTS.exists() and arguments.only:
        results |= json.loads(RESULTS.read_text())
    if "peers" in (arguments.only or MEASURED):
        peers.prepare(arguments.stores)
    with ExitStack() as stack:
        servers = {
            store: stack.enter_context(SERVERS[store]()) for store in arguments.stores if store in SERVERS
        }
        for name in arguments.only or MEASURED:
            results[name] = {
                store: MEASURED[name](arguments, lambda store=store: fresh(store, servers.get(store)), store)
                for store in arguments.stores
            }
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1))
    text = report.written(results)
    print(text)
    if arguments.write:
        report.put_into(ROOT / "docs" / "performance.md", text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="a tenth of the work, once: minutes, and no figures to quote"
    )
    parser.add_argument(
        "--only", nargs="+", choices=MEASURED, help="these measurements; the rest stays as it was"
    )
    parser.add_argument("--stores", nargs="+", choices=STORES, default=["postgres", "sqlite"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--repeats", type=int, default=5, help="interleaved rounds, of which medians are quoted"
    )
    parser.add_argument("--scales", nargs="+", type=int, default=list(SCALES))
    parser.add_argument("--no-write", dest="write", action="store_false", help="print the table only")
    arguments = parser.parse_args()
    if arguments.short:
        arguments.repeats, arguments.write, arguments.scales = 1, False, [10_000, 100_000]
    return arguments


Opens = Callable[[], Any]


def drain(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Rounds of ours and theirs in turn, so that a slow minute of the machine slows both."""
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
    for number in range(arguments.repeats):
        for side in arguments.sides:
            due = DRAINED[side][store] // (10 if arguments.short else 1)
            with opens() as place:
                result = drive(
                    side, "drain", *place.arguments(), "--number", due, "--rate", POPULATING_RATES[side][store]
                )  # fmt: skip
                told(f"drain {store} {side} round {number + 1}: {result['rate']:,.0f}/s")
            rounds[side].append(result)
    return {side: medians(results) for side, results in rounds.items()} | {"rounds": rounds}


def populate(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
    for number in range(arguments.repeats):
        for side in arguments.sides:
            with opens() as place:
                scheduled = POPULATED[side] // (10 if arguments.short else 1)
                rounds[side].append(drive(side, "populate", *place.arguments(), "--number", scheduled))
                told(f"populate {store} {side} round {number + 1}: {rounds[side][-1]['rate']:,.0f}/s")
    return {side: medians(results) for side, results in rounds.items()}


def latency(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.sides}
    for number in range(arguments.repeats):
        for side in arguments.sides:
            with opens() as place:
                rate = POPULATING_RATES[side][store]
                rounds[side].append(
                    drive(side, "latency", *place.arguments(), "--number", LATENCY_INSTANCES, "--rate", rate)
                )
                told(f"latency {store} {side} round {number + 1}: p99 {rounds[side][-1]['p99_ms']:.1f} ms")
    return {side: medians(results) for side, results in rounds.items()}


def idle(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    results = {}
    for side in arguments.sides:
        with opens() as place:
            marks: list[int | None] = []

            def heard(_: str, place: Place = place, marks: list[int | None] = marks) -> None:
                if len(marks) < 2:
                    marks.append(place.statements())

            instances = IDLE_INSTANCES[side] // (10 if arguments.short else 1)
            result = drive(side, "idle", *place.arguments(), "--number", instances, heard=heard)
            result["instances"] = instances
            first, last = marks
            if first is not None and last is not None:
                result["statements_a_second"] = (last - first) / result["seconds"]
            results[side] = result
            told(f"idle {store} {side}: {result}")
    return results


def statements(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Statements of a drain, populating taken off by populating once more without."""
    if store not in SERVERS:
        return {}
    results = {}
    for side in arguments.sides:
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
        told(f"statements {store} {side}: {results[side]}")
    return results


def scale(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """The same number of due instances, among ever more that are not."""
    results: dict[str, Any] = {}
    for size in arguments.scales:
        rounds = []
        for _ in range(min(3, arguments.repeats)):
            with opens() as place:
                rounds.append(
                    drive(
                        "ours", "drain", *place.arguments(), "--number", SCALE_DUE, "--beside", size - SCALE_DUE,
                        "--rate", POPULATING_RATES["ours"][store],
                    )
                )  # fmt: skip
        results[str(size)] = medians(rounds)
        told(f"scale {store} {size:,}: {results[str(size)]['rate']:,.0f}/s")
    return results


def memory(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    with opens() as place:
        result = drive(
            "ours", "memory", *place.arguments(), "--number", 100_000 if arguments.short else 1_000_000
        )
    told(f"memory {store}: {result}")
    return result


def beside_peers(arguments: argparse.Namespace, opens: Opens, store: str) -> dict[str, Any]:
    """Rounds of ours and of what a user may pick instead, on the same server."""
    share = 0.1 if arguments.short else 1.0
    due = {"drain": int(DRAINED["ours"][store] * share), "latency": LATENCY_INSTANCES}

    def ours(measurement: str) -> dict[str, Any]:
        with opens() as place:
            rate = POPULATING_RATES["ours"][store]
            return drive(
                "ours", measurement, *place.arguments(), "--number", due[measurement], "--rate", rate
            )

    rounds: dict[str, list[dict[str, Any]]] = {}
    # Where there is nobody to compare with, ours is measured by the others already.
    for number in range(arguments.repeats if beside(store) else 0):
        for name, result in peers.one_round(store, opens, ours, share=share):
            rounds.setdefault(name, []).append(result)
            told(
                f"peers {store} {name} round {number + 1}: {result['rate']:,.0f}/s, p99 {result['p99_ms']:.1f} ms"
            )
    return {name: medians(results) for name, results in rounds.items()}


MEASURED = {
    "drain": drain,
    "populate": populate,
    "latency": latency,
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


def told(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
