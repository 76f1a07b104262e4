"""Notices when the machine is too busy to be judged: work that takes a moment takes far longer, and leases are short."""

import threading
import time
from collections.abc import Callable
from typing import Self

from tests.processes.true_time import true_now

WORK_SECONDS = 0.01
"""Of processor time, some times what a claim or a completion takes."""

STARVED_SECONDS = 0.2
"""If it takes that long, several processes that need each other for one step may need a lease for it."""

PAUSE_SECONDS = 0.2


class Canary:
    """Works a little now and then, and calls *starved* with the times between which that took too long; a context manager."""

    def __init__(self, starved: Callable[[int, int], object]) -> None:
        self._starved = starved
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sing, name="canary", daemon=True)
        self.slowest = 0.0
        """Seconds that the work took at most."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sing(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            began, began_at, end = true_now(), time.monotonic(), time.thread_time() + WORK_SECONDS
            while time.thread_time() < end:
                pass
            taken = time.monotonic() - began_at
            self.slowest = max(self.slowest, taken)
            if taken > STARVED_SECONDS:
                self._starved(began, true_now())
