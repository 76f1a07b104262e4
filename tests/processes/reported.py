"""Plays one fault-injection account from a seed, judges it, and reports its figures."""

import asyncio
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pyncette.core.record import Partition
from pyncette.store.backend import read_backend
from tests.processes.account import Account
from tests.processes.account_backends import account_backend
from tests.processes.conductor import Conductor, Played, faults_by_kind
from tests.processes.oracle import Judged, Oracle
from tests.processes.outcomes import stored
from tests.processes.subjects import KINDS

STORIES_MAX = 12
"""Told in full: the first ones lead to the cause."""

PLAYED = "played.pickle"

HEADINGS = (
    "backend", "date", "seed", "time", "starts", "occurrences", "expected, ran", "faults", "edits", "violations",
)  # fmt: skip


class Report(NamedTuple):
    """One account that was played and judged."""

    played: Played
    judged: Judged

    @property
    def summary(self) -> str:
        """The broken promises, with the stories of their occurrences, and how to play it again."""
        stories = self.judged.violations
        again = f"python -m tests.processes {self.played.backend.name} --seconds {self.played.seconds:g} --seed {self.played.seed}"
        more = [f"and {len(stories) - STORIES_MAX} more"] if len(stories) > STORIES_MAX else []
        return "\n".join(
            [*stories[:STORIES_MAX], *more, str(dict(self.judged.by_promise)), f"play it again: {again}"]
        )

    @property
    def row(self) -> Sequence[str]:
        """Its figures, below the HEADINGS."""
        played, judged = self.played, self.judged
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(faults_by_kind(played).items()))
        unknown = sum(not edit.known for edit in played.edits)
        notes = [f"{judged.lost} lost at most once"] if judged.lost else []
        notes += [f"{judged.withdrawn} late when edited"] if judged.withdrawn else []
        ran = f"{judged.expected:,}, {judged.ran:,}" + (f" ({', '.join(notes)})" if notes else "")
        broken = _times(judged.by_promise) or "0"
        if judged.at_failovers:
            broken += f" (lost at failovers: {_times(judged.at_failovers)})"
        return (
            played.backend.server, datetime.now(UTC).date().isoformat(), str(played.seed), f"{played.seconds:,.0f} s",
            f"{judged.starts:,}", f"{judged.occurrences:,}", ran, faults,
            f"{len(played.edits):,}, {unknown} of them of unknown result", broken,
        )  # fmt: skip


def _times(broken: Counter[str]) -> str:
    return ", ".join(f"{count} × {promise}" for promise, count in broken.items())


def play(name: str, seed: int, seconds: float, folder: Path) -> Report:
    """Play an account on the backend called *name*, with its files in *folder*, and judge it."""
    with account_backend(name, folder) as backend:
        played = asyncio.run(Conductor(backend, folder, seed, seconds).play())
        partitions = [Partition("", task) for task in KINDS]
        found = asyncio.run(stored(read_backend(backend.url).new_store, partitions))
    played.backend = replace(played.backend, end_sessions=None, lock=None, fail_over=None)
    counts = {task: found.counts(task) for task in KINDS}
    (folder / PLAYED).write_bytes(pickle.dumps((played, counts)))
    return judge(folder)


def judge(folder: Path) -> Report:
    """Judge the account that was played in *folder*: also once more, after a change of the oracle."""
    played, counts = pickle.loads((folder / PLAYED).read_bytes())
    judged = Oracle(played, Account.read(folder), counts).judge()
    (folder / "stories.txt").write_text("\n".join(judged.violations))
    (folder / "lost-at-failovers.txt").write_text("\n".join(judged.failover_stories))
    return Report(played, judged)


@contextmanager
def folder_of_its_own(keep: Path | None) -> Iterator[Path]:
    """*keep*, made if it is not there, or else a folder that is gone afterwards."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="pyncette-account-") as folder:
        yield Path(folder)


def table(*rows: Sequence[str], with_headings: bool = True) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *rows] if with_headings else rows
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
