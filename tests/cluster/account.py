"""An account of every run, as the handlers of images/accounted have written it down on a volume."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

IN_STEP_SECONDS = 0.001
"""Times are whole microseconds, and floats here."""


@dataclass(slots=True)
class Run:
    """One call of a handler, as it was seen from inside. Times are seconds since the epoch."""

    task: str
    scheduled_at: float
    attempt: int
    fence: int
    pod: str
    release: str
    args: dict[str, Any]
    started_at: float
    ended_at: float | None = None
    told_at: float | None = None
    """When it was told to stop."""

    @property
    def late(self) -> float:
        return self.started_at - self.scheduled_at


class Account:
    """What has been written so far."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = sorted(runs, key=lambda run: run.started_at)

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the files of all pods, one after the other."""
        runs: dict[tuple[str, float, int], Run] = {}
        for line in text.splitlines():
            found = json.loads(line)
            what, at = found.pop("what"), found.pop("at")
            # The fence tells apart two runs of one occurrence.
            key = (found["task"], found["scheduled_at"], found["fence"])
            if what == "started":
                assert key not in runs, f"{key} began twice"
                runs[key] = Run(**found, started_at=at)
            elif what == "ended":
                runs[key].ended_at = at
            else:
                runs[key].told_at = at
        return cls(runs.values())

    def of(self, task: str) -> list[Run]:
        return [run for run in self.runs if run.task == task]

    def times(self, task: str) -> list[float]:
        """For when *task* was run, in order, each once."""
        return sorted({run.scheduled_at for run in self.of(task)})

    def more_than_once(self, task: str) -> list[float]:
        """Times of *task* that were begun more than once."""
        return sorted(at for at, count in self._starts(task).items() if count > 1)

    def not_ended(self, task: str) -> list[float]:
        """Times of *task* that were begun, and that no attempt ended."""
        ended = {run.scheduled_at for run in self.of(task) if run.ended_at is not None}
        return sorted(set(self.times(task)) - ended)

    def missing(self, task: str, every: float) -> list[float]:
        """
        Times *every* so many seconds, between the first and the last run of *task*, for which it did not run.

        Fails if it ran for a time that is out of step with the first.
        """
        times = self.times(task)
        assert len(times) > 1, f"{task} ran for {len(times)} times, of which nothing can be told"
        steps = {round((at - times[0]) / every): at for at in times}
        for step, at in steps.items():
            assert abs(times[0] + step * every - at) < IN_STEP_SECONDS, (
                f"{task} ran for {at}, out of step with {times[0]}"
            )
        return [times[0] + step * every for step in range(max(steps)) if step not in steps]

    def _starts(self, task: str) -> Counter[float]:
        return Counter(run.scheduled_at for run in self.of(task))

    def by_pod(self) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.pod].append(run)
        return dict(found)

    def summary(self, tasks: Sequence[str] = ()) -> str:
        starts = Counter(run.task for run in self.runs if not tasks or run.task in tasks)
        return f"started {dict(starts)}"
