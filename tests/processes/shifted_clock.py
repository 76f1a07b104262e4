"""
Runs a module in a process whose clocks are wrong, and can be made wrong in other ways while it runs.

`python -m tests.processes.shifted_clock MODULE ARGUMENT…` reads the shifts from the file that the environment names, at
each reading of a clock. Clocks that C code reads by itself are right, so uvloop is not to be used; and so is `time.time`,
which only log entries go by.
"""

import mmap
import os
import runpy
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.processes.true_time import true_monotonic_ns, true_time_ns

FILE_VARIABLE = "PYNCETTE_TEST_CLOCK"

TIME_OF_DAY, MONOTONIC = 0, 8
"""Where in the file the shift of each clock is, in nanoseconds."""

SHIFT = struct.Struct("=q")
FILE_BYTES = 16

A_SECOND = 1_000_000_000


class ShiftedClock:
    """The clocks of one process, as seen by who shifts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(FILE_BYTES))
        with path.open("r+b") as file:
            self._shifts = mmap.mmap(file.fileno(), FILE_BYTES)

    @property
    def environment(self) -> dict[str, str]:
        return {FILE_VARIABLE: str(self.path), "USE_UVLOOP": "0"}

    def step(self, seconds: float) -> None:
        """Set the time of day forward by *seconds*, or back."""
        self._add(TIME_OF_DAY, seconds)

    def stand_still(self, seconds: float) -> None:
        """
        Have the monotonic clock lack the last *seconds*, as if the machine had been suspended.

        The process must have stood still for as long, or else it sees the clock go back. The clock that counts
        suspension (CLOCK_BOOTTIME) is left alone.
        """
        self._add(MONOTONIC, -seconds)

    def _add(self, place: int, seconds: float) -> None:
        (before,) = SHIFT.unpack_from(self._shifts, place)
        SHIFT.pack_into(self._shifts, place, before + int(seconds * A_SECOND))


def shift(path: Path) -> None:
    """Have this process read its clocks with the shifts that *path* holds."""
    with path.open("r+b") as file:
        shifts = mmap.mmap(file.fileno(), FILE_BYTES)

    def shifted(place: int, true_ns: Callable[[], int]) -> Callable[[], int]:
        def shifted_ns() -> int:
            at: int = SHIFT.unpack_from(shifts, place)[0]
            return true_ns() + at

        return shifted_ns

    true_of = time.clock_gettime_ns
    times = {
        time.CLOCK_REALTIME: shifted(TIME_OF_DAY, true_time_ns),
        time.CLOCK_MONOTONIC: shifted(MONOTONIC, true_monotonic_ns),
    }

    def clock_gettime_ns(clock: int) -> int:
        return times[clock]() if clock in times else true_of(clock)

    time.time_ns = times[time.CLOCK_REALTIME]
    time.monotonic_ns = times[time.CLOCK_MONOTONIC]
    time.monotonic = lambda: time.monotonic_ns() / A_SECOND
    time.clock_gettime_ns = clock_gettime_ns
    time.clock_gettime = lambda clock: clock_gettime_ns(clock) / A_SECOND


def main() -> None:
    shift(Path(os.environ[FILE_VARIABLE]))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
