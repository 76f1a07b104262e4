"""An account of every run, as the handlers of images/accounted have written it down on a volume."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self


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

    def missing(self, task: str, every: float, since: float = 0, until: float = float("inf")) -> list[float]:
        """Times *every* so many seconds, between the first and the last run of *task*, for which it did not run."""
        times = [at for at in self.times(task) if since <= at <= until]
        assert len(times) > 1, f"{task} ran {len(times)} times, of which nothing can be told"
        there = {round(at, 3) for at in times}
        steps = round((times[-1] - times[0]) / every)
        return [at for step in range(steps + 1) if (at := round(times[0] + step * every, 3)) not in there]

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
