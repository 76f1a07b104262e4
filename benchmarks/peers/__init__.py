"""What a user may pick instead, measured beside ours: each with the settings that its own documents give as the fastest."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from benchmarks.driver import SETTLE_SECONDS_MAX, SPREAD_SECONDS, server_cpu
from benchmarks.peers.environments import MADE
from benchmarks.peers.known import PEERS, Peer, beside
from benchmarks.stores import Place, server_pid

LATENCY_JOBS = 2_000
STARTING_SECONDS = 3
"""What a program and its connections take to come up, before it schedules anything."""


Opens = Callable[[], AbstractContextManager[Place]]
Ours = Callable[[str], dict[str, float]]


def one_round(
    store: str, opens: Opens, ours: Ours, *, share: float = 1.0
) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure ours and then each peer of *store*, every time in a new place; *ours* does a measurement of ours."""
    yield "ours", {**ours("drain"), **ours("latency")}
    for peer in beside(store):
        figures: dict[str, float] = {}
        for measurement in ("drain", "latency"):
            with opens() as place:
                figures |= measure(peer, place, measurement, share=share)
        yield peer.name, figures


def prepare(stores: Sequence[str]) -> None:
    """Make what the peers of *stores* need. Raises MissingToolError before anything has been measured."""
    for peer in PEERS:
        if peer.store in stores:
            peer.program()


def measure(peer: Peer, place: Place, measurement: str, *, share: float = 1.0) -> dict[str, float]:
    """
    Do one *measurement*, "drain" or "latency", and return the fields that the driver has for it.

    *share* is how much of the usual work is done. A drain is timed from the due instant, not from the first handler: a
    peer that takes everything before it runs anything (APScheduler) would else be timed for half of its work. What is
    written after the last handler is in the CPU, and not in the time; so it is with ours.
    """
    if measurement == "latency":
        return latency_of(_started(peer, place, int(LATENCY_JOBS * share), SPREAD_SECONDS * share).late_ms)
    number = int(peer.drained * share)
    ran = _started(peer, place, number, 0)
    return {
        **drain_of(ran.late_ms),
        "worker_cpu_us": ran.worker_cpu / number * 1e6,
        "server_cpu_us": ran.server_cpu / number * 1e6,
    }


def drain_of(late_ms: list[float]) -> dict[str, float]:
    seconds = max(late_ms) / 1000
    return {"runs": len(late_ms), "seconds": seconds, "rate": len(late_ms) / seconds}


def latency_of(late_ms: list[float]) -> dict[str, float]:
    late = sorted(late_ms)
    return {
        "p50_ms": late[len(late) // 2],
        "p99_ms": late[len(late) * 99 // 100],
        "max_ms": late[-1],
        "early": sum(value < 0 for value in late),
    }


class _Ran(NamedTuple):
    late_ms: list[float]
    worker_cpu: float
    server_cpu: float


def _started(peer: Peer, place: Place, number: int, spread: float) -> _Ran:
    """Run the program of *peer* on *number* jobs; count its CPU, its children's and the server's while it works."""
    address = "memory" if peer.name.endswith("memory") else place.address
    due_in = STARTING_SECONDS + number / peer.scheduled_a_second + peer.ahead
    options = {
        "--place": address,
        "--number": number,
        "--due-in": due_in,
        "--spread": spread,
        "--ahead": peer.ahead,
    }
    arguments = [str(word) for option in options.items() for word in option]
    with (
        (MADE / "stderr").open("w+") as errors,
        subprocess.Popen(
            [*peer.program(), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=MADE,
        ) as process,
    ):
        giving_up = threading.Timer(due_in + spread + SETTLE_SECONDS_MAX, process.kill)
        giving_up.start()
        try:
            began = _cpu_when_told(process, "begins", place)
            ended = _cpu_when_told(process, "ended", place)
            told, _ = process.communicate("\n")
        finally:
            giving_up.cancel()
            process.kill()
        errors.seek(0)
        complaints = errors.read()[-3000:]
    if began is None or ended is None or process.returncode != 0:
        raise RuntimeError(f"{peer.name} {' '.join(arguments)} failed:\n{complaints}")
    late = json.loads(told)
    if len(late) != number:
        raise RuntimeError(f"{peer.name} ran {len(late)} of {number} jobs:\n{complaints}")
    return _Ran(late, ended[0] - began[0], ended[1] - began[1])


def _cpu_when_told(process: subprocess.Popen[str], word: str, place: Place) -> tuple[float, float] | None:
    """CPU seconds of worker and server at the time of this line; None if the program ends without it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            server = 0.0 if place.server is None else server_cpu(server_pid(place.server))
            return server_cpu(process.pid), server
    return None
