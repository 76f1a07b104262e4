"""Notices when the machine is too busy to be judged: a little work, or a write to disk, takes far longer than usual."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.processes.true_time import true_now

WORK_SECONDS = 0.01
"""Of processor time, some times what a claim or a completion takes."""

STARVED_SECONDS = 0.2
"""If it takes that long, several processes that need each other for one step may need a lease for it."""

PAUSE_SECONDS = 0.2

BLOCK = bytes(4096)
"""What a write to disk is tried with."""


class Canary:
    """
    Works and writes a little in *folder* now and then, and reports to *starved* from when to when either took too long.

    A context manager.
    """

    def __init__(self, folder: Path, starved: Callable[[int, int], object]) -> None:
        self._file = folder / "canary"
        self._starved = starved
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._try, args=(step,), name="canary", daemon=True)
            for step in (_work, self._write)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _try(self, step: Callable[[], object]) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            began, began_at = true_now(), time.monotonic()
            step()
            if time.monotonic() - began_at > STARVED_SECONDS:
                self._starved(began, true_now())

    def _write(self) -> None:
        """Write a block as a database does at the end of a transaction."""
        with self._file.open("wb") as file:
            file.write(BLOCK)
            file.flush()
            os.fsync(file.fileno())


def _work() -> None:
    end = time.thread_time() + WORK_SECONDS
    while time.thread_time() < end:
        pass
