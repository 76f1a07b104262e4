"""Turns results into the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BEGIN = "<!-- measured: begin (make bench) -->"
END = "<!-- measured: end -->"

NAMES = {
    "postgres": "PostgreSQL",
    "redis": "Redis",
    "mariadb": "MariaDB",
    "mysql": "MySQL",
    "dynamodb": "DynamoDB Local",
    "sqlite": "SQLite",
}


def put_into(page: Path, text: str, begin: str = BEGIN) -> None:
    """Replace what stands between the mark *begin* of *page* and the next end."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n\n{text}\n{END}{after}")


def written(results: dict[str, Any]) -> str:
    """Return all tables that *results* has the figures for."""
    return "\n".join(_lines(results)).rstrip() + "\n"


def _lines(results: dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['memory']}, {machine['system']}, Python "
        f"{machine['python']}, the server on the same cores. Medians of {results['repeats']} interleaved rounds."
    )
    yield ""
    if "drain" in results:
        yield from _drain(results)
    if "populate" in results:
        yield from _populate(results["populate"])
    if "latency" in results:
        yield from _latency(results["latency"])
    if "idle" in results:
        yield from _idle(results["idle"])
    if "scale" in results:
        yield from _scale(results["scale"])
    if "memory" in results:
        yield from _memory(results["memory"])
    if "peers" in results:
        # Late, since it takes table() from here.
        from benchmarks.peers.report import compared

        yield from compared(results["peers"])


def _drain(results: dict[str, Any]) -> Iterator[str]:
    yield "### Drain"
    yield ""
    yield "Instances with a cron in a time zone that are all due in the same second; handlers that do nothing."
    yield ""
    rows = []
    for store, sides in results["drain"].items():
        for side, label in (("ours", "this package"), ("upstream", "pyncette 1.1.0")):
            if side not in sides:
                continue
            figures = sides[side]
            ratio = f"{figures['rate'] / sides['upstream']['rate']:.0f}×" if "upstream" in sides else ""
            statements = results.get("statements", {}).get(store, {}).get(side, {}).get("statements_a_run")
            rows.append(
                (
                    NAMES[store],
                    label,
                    f"{figures['rate']:,.0f}",
                    ratio,
                    f"{figures['worker_cpu_us']:,.0f}",
                    f"{figures['server_cpu_us']:,.0f}" if store != "sqlite" else "–",
                    "–" if statements is None else f"{statements:.3g}",
                )
            )
    head = (
        "backend",
        "",
        "runs/s",
        "ratio",
        "worker CPU, µs a run",
        "server CPU, µs a run",
        "statements a run",
    )
    yield from table(head, rows)


def _populate(results: dict[str, Any]) -> Iterator[str]:
    yield "### Scheduling in bulk"
    yield ""
    rows = []
    for store, sides in results.items():
        ratio = f"{sides['ours']['rate'] / sides['upstream']['rate']:.0f}×" if "upstream" in sides else ""
        for side, label in (("ours", "this package"), ("upstream", "pyncette 1.1.0")):
            if side in sides:
                rows.append(
                    (
                        NAMES[store],
                        label,
                        f"{sides[side]['rate']:,.0f}",
                        ratio if side == "ours" else "1×",
                        f"{sides[side]['worker_cpu_us']:,.0f}",
                    )
                )
    yield from table(("backend", "", "instances/s", "ratio", "worker CPU, µs each"), rows)


def _latency(results: dict[str, Any]) -> Iterator[str]:
    yield "### Start minus due"
    yield ""
    yield "2,000 one-offs spread evenly over 20 s; milliseconds from the due time to the first line of the handler."
    yield ""
    rows = [
        (
            NAMES[store],
            label,
            f"{sides[side]['p50_ms']:.1f}",
            f"{sides[side]['p99_ms']:.1f}",
            f"{sides[side]['max_ms']:.1f}",
        )
        for store, sides in results.items()
        for side, label in (("ours", "this package"), ("upstream", "pyncette 1.1.0"))
        if side in sides
    ]
    yield from table(("backend", "", "p50", "p99", "max"), rows)


def _idle(results: dict[str, Any]) -> Iterator[str]:
    yield "### Idle"
    yield ""
    yield "One worker, all instances due in weeks, 30 s."
    yield ""
    rows = []
    for store, sides in results.items():
        for side, label in (("ours", "this package"), ("upstream", "pyncette 1.1.0")):
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
        ("backend", "", "instances", "statements/s", "worker, of a core", "server, of a core"), rows
    )


def _scale(results: dict[str, Any]) -> Iterator[str]:
    yield "### Among ever more instances"
    yield ""
    yield "10,000 due ones, evenly among those that are not."
    yield ""
    rows = []
    for store, sizes in results.items():
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
        ("backend", "instances", "runs/s", "CPU of worker and server, µs a run", "scheduled/s"), rows
    )


def _memory(results: dict[str, Any]) -> Iterator[str]:
    yield "### Memory of a worker"
    yield ""
    rows = [
        (NAMES[store], f"{figures['early_mib']:.0f}", f"{figures['late_mib']:.0f}")
        for store, figures in results.items()
    ]
    yield from table(("backend", "MiB after 100,000 runs", "MiB after 1,000,000"), rows)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Return a Markdown table whose first two columns are words, and the rest figures."""
    yield f"| {' | '.join(head)} |"
    yield "|---|---|" + "---:|" * (len(head) - 2)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
