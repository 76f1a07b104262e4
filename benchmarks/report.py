"""Turns results into the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.peers.report import compared
from benchmarks.tables import NAMES, table

SIDES = {"ours": "this package", "upstream": "pyncette 1.1.0"}

STEPS = ("claim", "decode", "rule", "task", "handler", "encode", "complete", "event loop")


def written(results: dict[str, Any]) -> str:
    """Return all tables that *results* has the figures for."""
    return "\n".join(_lines(results)).rstrip() + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['memory']}, {machine['system']}, Python "
        f"{machine['python']}, with the server on the same cores. {_rounds(results['rounds'])}"
    )
    yield ""
    for name, section in SECTIONS.items():
        if name in results:
            stores = sorted(results[name].items(), key=lambda item: list(NAMES).index(item[0]))
            yield from section(dict(stores), results)


def _rounds(rounds: dict[str, int]) -> str:
    """Say how many rounds the figures are medians of."""
    by_number: dict[int, list[str]] = {}
    for name in SECTIONS:
        if name in rounds:
            by_number.setdefault(rounds[name], []).append(TITLES[name])
    if len(by_number) == 1:
        (number,) = by_number
        return f"Medians of {number} interleaved rounds."
    listed = "; ".join(
        f"{number} for {', '.join(names)}" for number, names in sorted(by_number.items(), reverse=True)
    )
    return f"Medians of interleaved rounds: {listed}."


def _drain(stores: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    yield "### Drain"
    yield ""
    yield "All instances have a cron expression in a time zone, and are due in the same second. The handlers do nothing."
    yield ""
    yield from _drained(stores, results.get("statements", {}))


def _intervals(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "This is the same drain with intervals. Upstream on Redis needs fewer steps for these than for expressions:"
    yield ""
    yield from _drained(stores, {})


def _drained(stores: dict[str, Any], statements: dict[str, Any]) -> Iterator[str]:
    rows = []
    for store, sides in stores.items():
        for side, label in SIDES.items():
            if side not in sides:
                continue
            figures = sides[side]
            counted = statements.get(store, {}).get(side, {}).get("statements_a_run")
            server = figures["server_cpu_us"]
            rows.append(
                (
                    NAMES[store],
                    label,
                    f"{figures['rate']:,.0f}",
                    _ratio(stores, store, side),
                    f"{figures['worker_cpu_us']:,.0f}",
                    f"{server:,.0f}" if store != "sqlite" else "–",
                    f"{figures['rate'] * server / 10_000:.0f} %" if store != "sqlite" else "–",
                    *([] if not statements else ["–" if counted is None else f"{counted:.2g}"]),
                )
            )
    head = (
        "backend",
        "",
        "runs/s",
        "ratio",
        "worker CPU, µs per run",
        "server CPU, µs per run",
        "server, % of a core",
        *(["statements per run"] if statements else []),
    )
    yield from table(head, rows)


def _ratio(stores: dict[str, Any], store: str, side: str) -> str:
    """Return how often as fast as upstream it is; upstream does not work on MariaDB, and that on MySQL stands in for it."""
    upstream = stores.get("mysql" if store == "mariadb" else store, {}).get("upstream")
    return f"{stores[store][side]['rate'] / upstream['rate']:.3g}×" if upstream else ""


def _limits(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### Compared with the limit of the backend"
    yield ""
    yield (
        "A drain is compared with a process that makes the same claims and completions, but decides nothing and calls no "
        "handler. That process has two batches of 250 in flight at any time. Rounds of both alternate."
    )
    yield ""
    rows = [
        (
            NAMES[store],
            "",
            f"{both['drain']['rate']:,.0f}",
            f"{both['raw']['rate']:,.0f}",
            f"{both['drain']['rate'] / both['raw']['rate']:.0%}".replace("%", " %"),
            f"{both['raw']['worker_cpu_us']:.0f}",
            f"{both['raw']['server_cpu_us']:.0f}" if store != "sqlite" else "–",
        )
        for store, both in stores.items()
    ]
    head = (
        "backend",
        "",
        "drain, runs/s",
        "without a worker, runs/s",
        "share",
        "CPU of that process, µs per run",
        "server CPU, µs per run",
    )
    yield from table(head, rows)


def _steps(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### Where the time goes"
    yield ""
    yield (
        "This is the CPU time of a run in the drain above, in µs. The worker was sampled every few milliseconds of its CPU "
        "time. *claim* queries for due records and plans how many to claim; *decode* reads records; *rule* decides what "
        "runs, and the next due time; *task* starts and ends the handler; *encode* and *complete* write the outcome. The "
        "last column is the CPU time of the server."
    )
    yield ""
    rows = [
        (
            NAMES[store],
            "",
            *(f"{figures['steps'].get(step, 0) * figures['worker_cpu_us']:.1f}" for step in STEPS),
            f"{figures['worker_cpu_us']:.1f}",
            f"{figures['server_cpu_us']:.1f}" if store != "sqlite" else "–",
        )
        for store, figures in stores.items()
    ]
    yield from table(("backend", "", *STEPS, "worker", "server"), rows)


def _processes(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### Several workers"
    yield ""
    yield "The same drain was run with one, two and four worker processes, which share the machine's cores with the server."
    yield ""
    rows = [
        (
            NAMES[store],
            count,
            f"{figures['rate']:,.0f}",
            f"{figures['rate'] / counts['1']['rate']:.2f}×",
            f"{figures['worker_cpu_us']:,.0f}",
            f"{figures['server_core_percent']:.0f} %" if store != "sqlite" else "–",
            f"{figures['least_share_percent']:.0f} %",
        )
        for store, counts in stores.items()
        for count, figures in counts.items()
    ]
    head = (
        "backend",
        "workers",
        "runs/s",
        "ratio",
        "CPU of workers, µs per run",
        "server, % of a core",
        "smallest share of a worker",
    )
    yield from table(head, rows)


def _populate(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### Scheduling in bulk"
    yield ""
    rows = [
        (
            NAMES[store],
            label,
            f"{sides[side]['rate']:,.0f}",
            _ratio(stores, store, side),
            f"{sides[side]['worker_cpu_us']:,.0f}",
            f"{sides[side]['server_cpu_us']:,.0f}" if store != "sqlite" else "–",
        )
        for store, sides in stores.items()
        for side, label in SIDES.items()
        if side in sides
    ]
    yield from table(
        ("backend", "", "instances/s", "ratio", "client CPU, µs per instance", "server CPU, µs per instance"),
        rows,
    )


def _latency(stores: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    yield "### Start minus due"
    yield ""
    yield "One-offs are spread evenly over 20 s. The figures are milliseconds from the due time to the first line of the handler."
    yield ""
    measured = [("100", stores), ("2,000", results.get("latency_many", {}))]
    rows = [
        (
            NAMES[store],
            label,
            rate,
            f"{sides[side]['p50_ms']:.1f}",
            f"{sides[side]['p99_ms']:.1f}",
            f"{sides[side]['max_ms']:.1f}",
        )
        for rate, of_rate in measured
        for store, sides in of_rate.items()
        for side, label in SIDES.items()
        if side in sides
    ]
    yield from table(("backend", "", "runs/s", "p50", "p99", "max"), rows)


def _idle(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### Idle"
    yield ""
    yield "One worker ran for 30 s. All instances were due weeks later."
    yield ""
    rows = []
    for store, sides in stores.items():
        for side, label in SIDES.items():
            if side not in sides:
                continue
            figures = sides[side]
            statements = figures.get("statements_a_second")
            rows.append(
                (
                    NAMES[store],
                    label,
                    f"{figures['instances']:,}",
                    "–" if statements is None else f"{statements:.2f}",
                    f"{figures['worker_core_percent']:.2f} %",
                    "–" if store == "sqlite" else f"{figures['server_core_percent']:.2f} %",
                )
            )
    yield from table(
        ("backend", "", "instances", "statements/s", "worker, % of a core", "server, % of a core"), rows
    )


def _scale(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### By number of instances"
    yield ""
    yield "10,000 instances are due. They are spread evenly among those that are not due."
    yield ""
    rows = []
    for store, sizes in stores.items():
        for size, figures in sizes.items():
            cost = figures["worker_cpu_us"] + figures["server_cpu_us"]
            rows.append(
                (
                    NAMES[store],
                    f"{int(size):,}",
                    f"{figures['rate']:,.0f}",
                    f"{cost:,.0f}",
                    f"{figures['populate_rate']:,.0f}",
                )
            )
    yield from table(
        ("backend", "instances", "runs/s", "CPU of worker and server, µs per run", "scheduled/s"), rows
    )


def _memory(stores: dict[str, Any], _: dict[str, Any]) -> Iterator[str]:
    yield "### Memory of a worker"
    yield ""
    rows = [
        (NAMES[store], f"{figures['early_mib']:.0f}", f"{figures['late_mib']:.0f}")
        for store, figures in stores.items()
    ]
    yield from table(("backend", "MiB after 100,000 runs", "MiB after 1,000,000"), rows)


TITLES = {
    "drain": "drains",
    "intervals": "drains of intervals",
    "limits": "the limit of the backend",
    "steps": "where the time goes",
    "processes": "several workers",
    "populate": "scheduling in bulk",
    "latency": "start minus due",
    "latency_many": "start minus due at 2,000 runs a second",
    "idle": "idle",
    "scale": "the number of instances",
    "memory": "memory",
    "peers": "peers",
}

SECTIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Iterator[str]]] = {
    "drain": _drain,
    "intervals": _intervals,
    "limits": _limits,
    "steps": _steps,
    "processes": _processes,
    "populate": _populate,
    "latency": _latency,
    "idle": _idle,
    "scale": _scale,
    "memory": _memory,
    "peers": compared,
}
