"""
Plays histories for as long as you like: `python -m tests.simulation 0 10000`, from the root, with `operator` on the path.

One seed alone is told in full: `python -m tests.simulation 42`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from .history import History, HistoryError
from .playing import in_quiet, played

BATCH = 50

FAILURES_MAX = 20
"""After so many, the rest would tell nothing new."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("first", type=int, help="the first seed")
    parser.add_argument("last", type=int, nargs="?", help="the first seed that is not played any more")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many play at once")
    options = parser.parse_args()
    if options.last is None:
        sys.exit(tell(options.first))
    sys.exit(play(range(options.first, options.last), options.processes))


def tell(seed: int) -> str | None:
    """Play one history, and print all that happened."""
    history, failed = History(seed), None
    with in_quiet():
        try:
            history.play()
        except HistoryError as error:
            failed = f"seed {seed}: {error.__cause__ or error}"
    print(*history.journal.lines(), history.scenario, sep="\n")
    return failed


def play(seeds: range, processes: int) -> str | None:
    """Play many, on all processors, and print those that fail."""
    began = time.monotonic()
    runs = failed = 0
    with multiprocessing.Pool(processes) as pool:
        batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
        for of_batch, failures in pool.imap_unordered(_play_batch, batches):
            runs += of_batch
            failed += len(failures)
            print(*failures, sep="\n", end="\n" * bool(failures), flush=True)
            if failed >= FAILURES_MAX:
                break
    took = time.monotonic() - began
    print(
        f"{len(seeds)} histories, {runs} calls of handlers in {took:.1f} s: {len(seeds) / took:.0f} a second"
    )
    return f"{failed} failed" if failed else None


def _play_batch(seeds: range) -> tuple[int, list[str]]:
    results = list(played(seeds))
    failures = [str(result).splitlines()[0] for result in results if isinstance(result, HistoryError)]
    return sum(result for result in results if isinstance(result, int)), failures


if __name__ == "__main__":
    main()
