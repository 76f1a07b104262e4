"""What each program of a peer in Python is asked, and how it tells what it saw; measuring.mjs and main.go do the same."""

from __future__ import annotations

import argparse
import json
import time
from typing import NamedTuple


class Asked(NamedTuple):
    """Jobs to schedule: *number*, the first due at *first*, the others evenly over *spread* seconds from then on."""

    place: str
    number: int
    first: float
    spread: float
    ahead: float

    def due(self) -> list[float]:
        return [self.first + self.spread * index / self.number for index in range(self.number)]

    def all_scheduled(self) -> None:
        """Wait until it is *ahead* seconds before the first is due: then the worker is to be started."""
        left = self.first - self.ahead - time.time()
        if left < 0:
            raise SystemExit(f"scheduling took {-left:.1f} s longer than expected: give more --due-in")
        time.sleep(left)


def asked() -> Asked:
    parser = argparse.ArgumentParser()
    parser.add_argument("--place", required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--due-in", type=float, required=True)
    parser.add_argument("--spread", type=float, required=True)
    parser.add_argument("--ahead", type=float, required=True)
    arguments = parser.parse_args()
    first = float(round(time.time() + arguments.due_in))
    return Asked(arguments.place, arguments.number, first, arguments.spread, arguments.ahead)


def begins() -> None:
    """The worker is up, and looks for work from now on: CPU counts."""
    print("begins", flush=True)


def ended(late: list[float]) -> None:
    """All has run and is written: tell how many seconds after its due time each handler began."""
    print("ended", flush=True)
    # Whoever measures reads the CPU of this process now, and then lets it go on.
    input()
    print(json.dumps([seconds * 1000 for seconds in late]), flush=True)
