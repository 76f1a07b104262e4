"""
Explores the full product, or some of it, on all processors: `python -m tests.exploration`, from the root.

`--part 2/5` takes a fifth of it, `--pairs` a few combinations in which every two values meet, and `--faults 2
--occurrences 3` one depth. A line tells what was seen each minute; what is named on a command line can be explored again
by `--only`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from .combination import Combination, Depth, all_combinations, depths_of, pairwise
from .exploring import Explored, explore

TOLD_EACH_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description=__doc__)
    parser.add_argument("--part", default="1/1", help="which part of how many")
    parser.add_argument("--pairs", action="store_true", help="pairs of values, not the full product")
    parser.add_argument("--faults", type=int, help="the faults of a history")
    parser.add_argument("--occurrences", type=int, help="the occurrences of a history")
    parser.add_argument("--only", default="", help="combinations whose name has this in it")
    parser.add_argument("--states", type=int, help="give up a combination after so many states, and say so")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many explore at once")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    found = pairwise() if options.pairs else list(all_combinations())
    work = [
        (combination._replace(occurrences=depth.occurrences), depth.faults, options.states)
        for combination in found
        for depth in _depths(combination, options)
        if options.only in str(combination)
    ]
    sys.exit(explore_all(work[part - 1 :: parts], options.processes))


def _depths(combination: Combination, options: argparse.Namespace) -> list[Depth]:
    if options.faults is not None and options.occurrences is not None:
        return [Depth(options.faults, options.occurrences)]
    return [*depths_of(combination)]


def explore_all(work: list[tuple[Combination, int, int | None]], processes: int) -> str | None:
    """Explore all of *work*, and print what was found."""
    began = told = time.monotonic()
    states = done = given_up = failed = 0
    with multiprocessing.Pool(processes, maxtasksperchild=20) as pool:
        for result in pool.imap_unordered(_explored, work):
            done += 1
            states += result.states
            if result.broken is not None:
                failed += 1
                print(result.broken, end="\n\n", flush=True)
            elif not result.is_complete:
                given_up += 1
                print(f"given up after {result.states:,} states: {result.combination}", flush=True)
            if time.monotonic() >= told + TOLD_EACH_SECONDS:
                told = time.monotonic()
                print(f"{told - began:.0f} s: {done} of {len(work)}, {states:,} states", flush=True)
    took = time.monotonic() - began
    print(f"{done} searches, {states:,} states in {took:.1f} s: {states / took:,.0f} a second")
    if given_up:
        print(f"{given_up} were given up")
    return f"{failed} failed" if failed else None


def _explored(work: tuple[Combination, int, int | None]) -> Explored:
    return explore(*work)


if __name__ == "__main__":
    main()
