"""A backend, what is due on it, and the workers that run it: what each of these tests is played on."""

import asyncio
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from pyncette.store.backend import read_backend
from tests.processes.account import Account, Occurrence, Run, lines_written
from tests.processes.outcomes import Stored, disagreements, stored
from tests.processes.population import Population, schedule
from tests.processes.workers import WorkerProcess

LOOK_SECONDS = 0.05
"""How often a condition is looked at, at most; one that takes long to look at, more seldom."""

LOOKING_SHARE = 4
"""Of the time of a wait, at most one part in so many goes into looking: the processors are the workers' own."""

ALL_RUN_SECONDS = 180
"""Until everything has run, on a machine that is busy with other things."""


class Scene:
    """
    One backend, one population, any number of workers, and one account.

    What the test itself does to the backend does not go through what may stand between it and the workers.
    """

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder = folder
        self.backend = backend
        self.population = Population()
        self.workers: list[WorkerProcess] = []
        self._began_at = time.monotonic()

    def some(self, instances: int) -> int:
        """Return how many of *instances* there can be: DynamoDB Local does in a second a tenth of what the others do."""
        return instances // 10 if self.backend.startswith("dynamodb:") else instances

    # --- Doing ---------------------------------------------------------------------------------------------------

    def schedule(self, population: Population) -> None:
        """Have *population* scheduled, an hour ago."""
        asyncio.run(schedule(population, read_backend(self.backend).new_store))
        self.population = population

    def schedule_more(self, population: Population) -> None:
        """Have *population* scheduled, too."""
        before = self.population
        self.schedule(population)
        self.population = before.together_with(population)

    def start(self, *options: str, through: str | None = None) -> WorkerProcess:
        """Start a worker, on the backend itself or *through* another URL."""
        name = f"worker-{len(self.workers) + 1}"
        worker = WorkerProcess(name, self.folder, through or self.backend, *options)
        self.workers.append(worker)
        return worker

    def start_two(self, *options: str, through: str | None = None) -> tuple[WorkerProcess, WorkerProcess]:
        """Start two workers, and return once both are ready."""
        both = (self.start(*options, through=through), self.start(*options, through=through))
        self.wait_until_ready(*both)
        return both

    def end(self) -> None:
        """Leave no process behind."""
        for worker in self.workers:
            if worker.is_alive:
                worker.kill()

    # --- Waiting -------------------------------------------------------------------------------------------------

    def wait_until(self, what: str, holds: Callable[[], object], seconds: float = 60) -> None:
        """
        Return as soon as *what* is so, as *holds* says.

        Fails after *seconds*, with the last words of all workers, or as soon as one has ended by itself.
        """
        end = time.monotonic() + seconds
        while True:
            looked_at = time.monotonic()
            if holds():
                # pytest shows it if the test fails.
                print(f"{time.monotonic() - self._began_at:.1f} s: {what}")
                return
            looking = time.monotonic() - looked_at
            for worker in self.workers:
                worker.check()
            if time.monotonic() > end:
                words = "\n".join(worker.last_words() for worker in self.workers)
                raise AssertionError(f"not within {seconds:g} s: {what}\n{words}")
            time.sleep(max(LOOK_SECONDS, (LOOKING_SHARE - 1) * looking))

    def wait_until_ready(self, *workers: WorkerProcess) -> None:
        for worker in workers:
            self.wait_until(f"{worker.name} is ready", lambda worker=worker: worker.is_ready)

    def wait_until_unready(self, *workers: WorkerProcess) -> None:
        for worker in workers:
            self.wait_until(f"{worker.name} is not ready", lambda worker=worker: not worker.is_ready)

    def wait_until_begun(self, share: float) -> None:
        """Wait until about *share* of all that is due has been started."""
        lines = 2 * share * len(self.population.expected)
        self.wait_until(
            f"{share:.0%} have begun", lambda: lines_written(self.folder) >= lines, ALL_RUN_SECONDS
        )

    def wait_until_over(self, occurrences: AbstractSet[Occurrence] | None = None) -> Stored:
        """Wait until nothing is left to be done for *occurrences* (else for all), and return all that is stored then."""
        occurrences = self.population.expected if occurrences is None else occurrences
        found = Stored({})

        def over() -> bool:
            nonlocal found
            found = self.stored()
            return not found.of(occurrences).unfinished

        try:
            self.wait_until(f"{len(occurrences)} occurrences are over", over, ALL_RUN_SECONDS)
        except AssertionError as error:
            left = [str(record) for record in found.of(occurrences).unfinished.values()]
            raise AssertionError(f"{len(left)} are not over, such as {left[:3]}\n{error}") from None
        return found

    # --- Seeing --------------------------------------------------------------------------------------------------

    def stored(self) -> Stored:
        return asyncio.run(stored(read_backend(self.backend).new_store, self.population.partitions))

    def account(self, *workers: WorkerProcess) -> Account:
        return Account.read(self.folder, *(worker.pid for worker in workers))

    def check(self, may_be_lost: Callable[[Run], bool] = lambda _: False) -> Stored:
        """
        Hold the account against what was due and what is stored, once all is over and every worker has ended.

        *may_be_lost* says of which runs that ended their process may have been unable to write that.
        """
        assert not any(worker.is_alive for worker in self.workers)
        account, found = self.account(), self.stored()
        broken = disagreements(self.population, account, found, may_be_lost)
        print(account.summary(), found.summary(), sep="\n")
        assert not broken, "\n".join(broken)
        return found


@contextmanager
def scene_on(folder: Path, backend: str) -> Iterator[Scene]:
    """A scene whose workers end with the context, however it ends."""
    scene = Scene(folder, backend)
    try:
        yield scene
    finally:
        scene.end()
