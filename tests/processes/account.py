"""
An account of every run, kept by handlers in files of their own, so that no store can make it look better than it was.

Each process appends to one file. What was written stays when a process is killed, since it is the system's by then.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from tests.processes.true_time import true_monotonic_ns, true_time_ns

LINE_BYTES = 256
"""Divides a page of memory, so that a line lies in one, and a process that is killed leaves no half of it."""

STARTED, ENDED, RAISED, STOPPED = "started", "ended", "raised", "stopped"


class Occurrence(NamedTuple):
    """What may run only once, or has to run at all."""

    task: str
    instance: str
    scheduled_at: int
    """Microseconds since the epoch."""


@dataclass(slots=True)
class Run:
    """One call of a handler, as it was seen from inside. Times are nanoseconds of the clock that all processes share."""

    occurrence: Occurrence
    process: int
    fence: int
    attempt: int
    idempotency_key: str
    started_at: int
    time_of_day: int
    """Of the start, in nanoseconds since the epoch: the machine's own, whatever the process believes."""
    ended_at: int | None = None
    stopped_at: int | None = None
    """When it was stopped, or learned that its lease was lost."""
    raised_at: int | None = None
    """When it raised because its arguments say so."""

    @property
    def over_at(self) -> int | None:
        """When the handler returned or raised; None if nobody saw it."""
        return self.ended_at or self.stopped_at or self.raised_at

    @property
    def is_open(self) -> bool:
        return self.over_at is None


class Writer:
    """Writes the account of this process."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.account"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what: str, occurrence: Occurrence, fence: int, attempt: int, key: str) -> None:
        words = (
            f"{what} {true_monotonic_ns()} {true_time_ns()} {fence} {attempt} {key}"
            f" {occurrence.scheduled_at} {occurrence.task} {occurrence.instance}"
        )
        line = f"{words:<{LINE_BYTES - 1}}\n".encode()
        assert len(line) == LINE_BYTES
        os.write(self._file, line)


class Account:
    """What all processes have written so far."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = list(runs)
        self.of: Mapping[Occurrence, list[Run]] = _by_occurrence(self.runs)
        """The runs of each occurrence, in the order of their starts."""

    @classmethod
    def read(cls, folder: Path, *processes: int) -> Self:
        """Read what was written in *folder*: by *processes*, or by all."""
        paths = [_path(folder, process) for process in processes] or sorted(folder.glob("*.account"))
        return cls(run for path in paths if path.exists() for run in _runs(path))

    def by(self, *processes: int) -> list[Run]:
        return [run for run in self.runs if run.process in processes]

    def open_runs(self) -> list[Run]:
        """Runs that started and neither ended nor were stopped."""
        return [run for run in self.runs if run.is_open]

    @property
    def started(self) -> set[Occurrence]:
        return set(self.of)

    @property
    def ended(self) -> set[Occurrence]:
        return {run.occurrence for run in self.runs if run.ended_at is not None}

    def more_than_once(self, task: str) -> list[Occurrence]:
        """Occurrences of *task* that began more than once."""
        return [
            occurrence for occurrence, runs in self.of.items() if occurrence.task == task and len(runs) > 1
        ]

    def fences_that_do_not_grow(self) -> list[Occurrence]:
        """
        Occurrences of which a later attempt has no greater fence.

        It need not have begun later: a process may be frozen just before it calls a handler, and call it when it wakes.
        """
        found = []
        for occurrence, runs in self.of.items():
            attempts = [run.attempt for run in sorted(runs, key=lambda run: run.fence)]
            unique = len({run.fence for run in runs}) == len(runs)
            if not unique or attempts != sorted(attempts):
                found.append(occurrence)
        return found

    def summary(self) -> str:
        starts = Counter(run.occurrence.task for run in self.runs)
        ends = Counter(run.occurrence.task for run in self.runs if run.ended_at is not None)
        stopped = Counter(run.occurrence.task for run in self.runs if run.stopped_at is not None)
        again = Counter(occurrence.task for occurrence, runs in self.of.items() if len(runs) > 1)
        return f"started {dict(starts)}, ended {dict(ends)}, stopped {dict(stopped)}, more than once {dict(again)}"


def lines_written(folder: Path, *processes: int) -> int:
    """How many lines there are, without reading them: a cheap sign of progress."""
    paths = [_path(folder, process) for process in processes] or folder.glob("*.account")
    return sum(path.stat().st_size for path in paths if path.exists()) // LINE_BYTES


def _path(folder: Path, process: int) -> Path:
    return folder / f"{process}.account"


def _by_occurrence(runs: Iterable[Run]) -> Mapping[Occurrence, list[Run]]:
    found: dict[Occurrence, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.started_at):
        found[run.occurrence].append(run)
    return dict(found)


def _runs(path: Path) -> Iterable[Run]:
    process = int(path.stem)
    runs: list[Run] = []
    # The fence tells apart two runs of one occurrence by the same process.
    latest: dict[tuple[Occurrence, int], Run] = {}
    for line in path.read_text().splitlines():
        what, at, time_of_day, fence, attempt, idempotency_key, scheduled_at, task, instance = line.split()
        occurrence = Occurrence(task, instance, int(scheduled_at))
        key = (occurrence, int(fence))
        if what == STARTED:
            latest[key] = Run(
                occurrence, process, int(fence), int(attempt), idempotency_key, int(at), int(time_of_day)
            )
            runs.append(latest[key])
        elif what == ENDED:
            latest[key].ended_at = int(at)
        elif what == RAISED:
            latest[key].raised_at = int(at)
        else:
            assert what == STOPPED, line
            latest[key].stopped_at = int(at)
    return runs
