"""What is due in these tests: how many of which kind, when, and so which occurrences the account has to show."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyncette.app.context import runtime_of
from pyncette.app.options import encode_args
from pyncette.clock import SECOND, Instant, SystemClock
from pyncette.core import edits
from pyncette.core.record import Key, Partition, Record
from pyncette.core.schedule import Once
from pyncette.core.spec import Mode, Overlap, Policies, Spec
from pyncette.store.base import Store
from tests.processes import accounted
from tests.processes.account import Occurrence
from tests.processes.accounted import LEASE, instant_of

AN_HOUR = timedelta(hours=1)

AT_MOST_ONCE = frozenset({"at_most_once", "mirrored_at_most_once"})
"""The tasks of which nothing may run twice. Nothing of any other may be left out."""

FAR_AWAY = instant_of(datetime(2099, 1, 1, tzinfo=UTC))
"""Nothing that is due later matters to a test."""

SHORT_SECONDS = 0.005
LONG_SECONDS = 4.0
"""Longer than a lease: whoever holds one of these has to renew it, and is in mid-run whenever it is disturbed."""


@dataclass
class Population:
    """Instances to be scheduled, and what is expected to run of them."""

    dynamic: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """Task, instance and options."""
    mirrored: list[tuple[str, str, Mapping[str, Any], int]] = field(default_factory=list)
    """Handler, resource, arguments, and when it is due."""
    expected: set[Occurrence] = field(default_factory=set)

    def add_once(self, task: str, name: str, at: datetime, **options: Any) -> Occurrence:
        """Add a one-off of a dynamic task, and return its only occurrence."""
        occurrence = Occurrence(task, name, instant_of(at))
        self.dynamic.append((task, name, {"execute_at": at, **options}))
        self.expected.add(occurrence)
        return occurrence

    def add_cron(self, task: str, name: str, times: Sequence[datetime], **options: Any) -> None:
        """Add an instance that is due at *times*, all of one minute, and then in a far year, which keeps its record."""
        first = times[0]
        seconds = ",".join(str(time.second) for time in times)
        cron = f"{first.minute} {first.hour} {first.day} {first.month} * {seconds} {first.year},2099"
        self.dynamic.append((task, name, {"schedule": cron, **options}))
        self.expected |= {Occurrence(task, name, instant_of(time)) for time in times}

    def add_endless(self, task: str, name: str, cron: str) -> None:
        """Add what has no last occurrence, and so none that is expected."""
        self.dynamic.append((task, name, {"schedule": cron}))

    def add_mirrored(self, task: str, name: str, at: datetime, **args: Any) -> None:
        """Add what the controller would put in for a resource with a handler of *task*."""
        self.mirrored.append((task, name, args, instant_of(at)))
        self.expected.add(Occurrence(task, name, instant_of(at)))

    def of(self, *tasks: str) -> set[Occurrence]:
        return {occurrence for occurrence in self.expected if occurrence.task in tasks}

    def together_with(self, other: "Population") -> "Population":
        return Population(
            [*self.dynamic, *other.dynamic],
            [*self.mirrored, *other.mirrored],
            self.expected | other.expected,
        )

    @property
    def at_least_once(self) -> set[Occurrence]:
        return {occurrence for occurrence in self.expected if occurrence.task not in AT_MOST_ONCE}

    @property
    def partitions(self) -> list[Partition]:
        return [Partition("", task) for task in sorted({occurrence.task for occurrence in self.expected})]


class _AnHourSlow(SystemClock):
    """So that a schedule begins to count an hour ago, and what was due since then is due now."""

    def now(self) -> Instant:
        return super().now() - AN_HOUR // timedelta(microseconds=1)


def an_hour_ago() -> datetime:
    """When everything here was scheduled, to the minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - AN_HOUR


def due_within_the_last_hour(count: int, *, long: int = 0, seed: int = 1) -> Population:
    """
    *count* instances, half of them at least once and half at most once, all due by now; *long* of each half take long.

    Of each half, six in ten are one-offs, which are gone when they are over, and three are crons, which stay and count for
    themselves; a few of these have three occurrences in the last hour, the others one. The rest is as resources are, with
    policies and a history of its own; or it is dynamic, with leases that the worker renews.
    """
    chance = random.Random(seed)
    begin = an_hour_ago() + timedelta(minutes=5)
    population = Population()
    half = count // 2
    for task in ("at_least_once", "at_most_once"):
        takes_long = set(chance.sample(range(half), long))
        for number in range(half):
            args = {"seconds": LONG_SECONDS if number in takes_long else SHORT_SECONDS}
            at = begin + timedelta(seconds=chance.randrange(50 * 60))
            _add(population, task, number, at, args)
    chance.shuffle(population.dynamic)
    return population


def held_until(file: Path, count: int) -> Population:
    """*count* one-offs at least once and as many at most once, all due by now, whose runs do not end before there is *file*."""
    population = Population()
    for task in ("at_least_once", "at_most_once"):
        for number in range(count):
            population.add_once(task, f"held-{number}", an_hour_ago() + timedelta(minutes=5), until=str(file))
    return population


def _add(population: Population, task: str, number: int, at: datetime, args: dict[str, Any]) -> None:
    name = f"{task}-{number:06}"
    kind = number % 10
    if kind < 6:
        population.add_once(task, name, at, **args)
    elif kind < 9:
        thrice = number % 50 == 6 and args["seconds"] == SHORT_SECONDS
        population.add_cron(
            task, name, [at.replace(second=second) for second in (0, 20, 40)] if thrice else [at], **args
        )
    elif number % 20 == 9:
        population.add_mirrored(f"mirrored_{task}", name, at, **args)
    else:
        population.add_once("renewed" if task == "at_least_once" else task, name, at, **args)


async def schedule(population: Population, store: Callable[[], Store]) -> None:
    """Have it all scheduled an hour ago, through the API that users have; and put in what the controller would."""
    async with accounted.app.create(new_store=store, clock=_AnHourSlow()) as context:
        for task in accounted.app.tasks.values():
            items = [(name, options) for of, name, options in population.dynamic if of == task.name]
            if not items:
                continue
            async for result in context.schedule_many(task, items):
                assert result.error is None, result
        await runtime_of(context).ledger.create([_mirrored(*item) for item in population.mirrored])


def _mirrored(handler: str, resource: str, args: Mapping[str, Any], at: int) -> Record:
    mode = Mode.AT_MOST_ONCE if handler in AT_MOST_ONCE else Mode.AT_LEAST_ONCE
    policies = Policies(
        mode=mode,
        overlap=Overlap.FORBID,
        lease=LEASE // timedelta(microseconds=1),
        keep_finished=True,
        keep_successful=3,
        keep_failed=10,
    )
    key = Key(Partition("", handler), resource)
    return edits.created(key, Spec(Once(at), encode_args(args), policies), policies, at - SECOND)
