"""Turns what was measured of peers into tables: their figures beside ours, their settings, and what each keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.peers.known import KEPT, OURS_KEEPS, Peer, beside
from benchmarks.tables import table

TITLES = {"postgres": "PostgreSQL", "redis": "Redis, or memory"}


def compared(results: dict[str, dict[str, Any]], _: dict[str, Any]) -> Iterator[str]:
    """All tables; *results* has for each store the figures of "ours" and of each peer."""
    measured = {store: figures for store, figures in results.items() if figures}
    if not measured:
        return
    yield "### Peers"
    yield ""
    yield (
        "These are the alternatives that a user may choose, measured together with this package on the same server. Jobs "
        "do nothing. Each package has one worker process, and the settings that its documentation recommends for speed. "
        "All jobs of a drain are due at one instant, and it is timed from that instant to the last handler. The jobs of "
        "this package are occurrences of a cron expression in a time zone, so it also writes the next occurrence of each. "
        "The jobs of the peers are one-offs. Start minus due is that of 2,000 one-offs over 20 s. The CPU time of this "
        "package counts from the due instant. That of a peer counts from a second before, or earlier if it prepares its "
        "jobs (River, Celery). The tables of graphile-worker, River and db-scheduler are vacuumed and analyzed before."
    )
    yield ""
    for store, figures in measured.items():
        yield from _figures(store, figures)
    yield from _kept([peer for store in measured for peer in beside(store)])
    yield from _settings([peer for store in measured for peer in beside(store)])


def _figures(store: str, figures: dict[str, dict[str, float]]) -> Iterator[str]:
    ours = figures["ours"]
    versions = {peer.name: peer.version for peer in beside(store)}
    rows = [
        (
            f"{name} {versions[name]}" if name in versions else "this package",
            _times(ours["rate"] / each["rate"]) if name in versions else "",
            f"{each['rate']:,.0f}",
            f"{each['worker_cpu_us']:,.0f}",
            f"{each['server_cpu_us']:,.0f}",
            f"{each['p50_ms']:,.1f}",
            f"{each['p99_ms']:,.1f}",
            f"{each['max_ms']:,.1f}",
        )
        for name, each in figures.items()
    ]
    head = (
        TITLES[store],
        "this package, relative to it",
        "runs/s",
        "worker CPU, µs per run",
        "server CPU, µs per run",
        "start − due p50, ms",
        "p99",
        "max",
    )
    yield from table(head, rows)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def _kept(peers: list[Peer]) -> Iterator[str]:
    yield "These are the features of each:"
    yield ""
    yield from _words(
        ("", *KEPT), [("this package", *OURS_KEEPS), *((peer.name, *peer.keeps) for peer in peers)]
    )


def _settings(peers: list[Peer]) -> Iterator[str]:
    yield "These are the settings, and the pages that recommend them:"
    yield ""
    yield from _words(
        ("", "settings", "recommended by"), [(peer.name, peer.settings, f"<{peer.page}>") for peer in peers]
    )


def _words(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table of words alone, where `table` takes the third column on for figures."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
