"""Makes up from a seed what a history is about: tasks and their policies, workers, faults and edits."""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Final, NamedTuple

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import Key, Partition
from pyncette.core.schedule import Cron, Interval, Once, Schedule
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies, Retry, Spec

from .calendar import CRONS
from .journal import EPOCH
from .loop import SECOND
from .network import Weather
from .servers import Modes

REALM: Final = "simulation"


class Task(NamedTuple):
    """A handler, and the schedules that call it."""

    name: str
    policies: Policies
    """Of the template; those of a schedule of its own stand in its spec, too."""
    partitions: tuple[Partition, ...]
    instances: tuple[Key, ...]
    is_template: bool
    limit: int | None
    is_shared: bool
    """Whether workers share its partitions out."""

    def edit(self, schedule: Schedule, policies: Policies | None, args: int) -> Spec:
        own = None if self.is_template else policies or self.policies
        return Spec(schedule, msgspec.Raw(b'{"n":%d}' % args), own)


class WorkerPlan(NamedTuple):
    slots: int
    batch_size: int
    ahead: Duration
    """How long before it is due it claims what is due."""
    skew: Duration
    """How wrong the clock of its machine is."""
    drift: int
    """By how many millionths its monotonic clock runs too fast."""


class Kind(Enum):
    """How a process that edits comes by the time."""

    OPERATOR = "operator"
    """It asks now and then, as one does that watches."""
    APP = "app"
    """It has asked once, when it began, and does nothing but schedule: a web server, say."""


class EditorPlan(NamedTuple):
    kind: Kind
    skew: Duration
    """How wrong the clock of its machine is."""
    drift: int
    misled: Duration
    """By how much it learns the backend's time wrong."""


class Scenario(NamedTuple):
    """All that is decided before a history begins."""

    tasks: tuple[Task, ...]
    workers: tuple[WorkerPlan, ...]
    editors: tuple[EditorPlan, ...]
    modes: Modes
    notifies: bool
    poll_interval: Duration
    weather: Weather
    faults_end: int
    """When faults and edits stop, and the history is to come to rest."""
    faults: frozenset[str]
    shortest_lease: Duration
    longest_lease: Duration


FAULTS: Final = (
    "crash",
    "freeze",
    "suspend",
    "drain",
    "step",
    "outage",
    "weather",
    "losses",
    "edits",
    "handlers",
)


def scenario(random: Random) -> Scenario:
    faults = frozenset(fault for fault in FAULTS if random.random() < 0.6)
    lease = random.choice((2, 4, 8, 15)) * SECOND
    tasks = tuple(_task(random, number, lease) for number in range(random.randint(1, 3)))
    leases = [task.policies.lease for task in tasks]
    workers = tuple(_worker(random) for _ in range(random.choice((2, 2, 3, 4))))
    return Scenario(
        tasks=tasks,
        workers=workers,
        editors=tuple(_editor(random) for _ in range(random.choice((1, 1, 2)))),
        modes=_modes(random),
        notifies=random.random() < 0.6,
        poll_interval=random.choice((3, 10)) * SECOND,
        weather=_weather(random)
        if "weather" in faults
        else Weather(round_trip=random.choice((200, 5_000, 50_000))),
        faults_end=random.choice((60, 120, 200)) * SECOND,
        faults=faults,
        shortest_lease=min(leases),
        longest_lease=max(leases),
    )


def schedule(random: Random, now: Instant) -> Schedule:
    kind = random.random()
    if kind < 0.5:
        return Interval(random.choice((3, 5, 8, 13, 20, 40)) * SECOND)
    if kind < 0.8:
        return Cron(random.choice(list(CRONS)))
    return Once(now + random.randint(-20, 60) * SECOND)


def policies(random: Random, lease: Duration, *, is_template: bool) -> Policies:
    """Those of the Python API, or any that a resource can ask for."""
    kept = {"keep_finished": not is_template, "keep_successful": 0 if is_template else 3}
    kept["max_concurrent"] = random.choice((0, 0, 1, 2, 3))
    lease = random.choice((lease, lease, 2 * lease))
    if random.random() < 0.4:
        return _of_the_api(random, lease, **kept)
    mode = Mode.AT_MOST_ONCE if random.random() < 0.3 else Mode.AT_LEAST_ONCE
    not_before = EPOCH + random.randint(0, 60) * SECOND if random.random() < 0.1 else None
    return Policies(
        mode=mode,
        overlap=random.choice((Overlap.FORBID, Overlap.FORBID, Overlap.ALLOW, Overlap.REPLACE)),
        missed=random.choice((Missed.ALL, Missed.LATEST, Missed.LATEST, Missed.SKIP)),
        max_catch_up=random.choice((1, 2, 3, 100)),
        starting_deadline=random.choice((None, None, 5 * SECOND, 20 * SECOND)),
        active_deadline=random.choice((None, None, 3 * SECOND, 20 * SECOND)),
        retry=Retry(
            max_attempts=random.choice((0, 1, 2, 3, 5)),
            initial=random.choice((1, 3)) * SECOND,
            maximum=random.choice((3, 10)) * SECOND,
            jitter=random.random() < 0.5,
        ),
        exhausted=random.choice(
            (Exhaustion.CONTINUE, Exhaustion.CONTINUE, Exhaustion.SUSPEND, Exhaustion.DEAD_LETTER)
        ),
        jitter=random.choice((0, 0, 2, 6)) * SECOND,
        not_before=not_before,
        not_after=EPOCH + random.randint(60, 200) * SECOND if random.random() < 0.1 else None,
        lease=lease,
        heartbeat=random.choice((Heartbeat.AUTOMATIC, Heartbeat.AUTOMATIC, Heartbeat.COOPERATIVE)),
        keep_failed=2,
        **kept,
    )


def _of_the_api(random: Random, lease: Duration, **kept: int) -> Policies:
    at_most_once = random.random() < 0.25
    retry = random.choice(
        (
            Retry(max_attempts=0, wait_for_lease=True),
            Retry(max_attempts=0, initial=SECOND, maximum=SECOND, jitter=False),
            Retry(max_attempts=1, count_takeovers=False),
        )
    )
    return Policies(
        mode=Mode.AT_MOST_ONCE if at_most_once else Mode.AT_LEAST_ONCE,
        overlap=Overlap.ALLOW if at_most_once else Overlap.FORBID,
        missed=random.choice((Missed.ALL, Missed.FAST_FORWARD)),
        max_catch_up=0,
        retry=Retry(max_attempts=0, wait_for_lease=True) if at_most_once else retry,
        lease=lease,
        heartbeat=Heartbeat.AUTOMATIC if at_most_once else random.choice(list(Heartbeat)),
        keep_failed=2,
        **kept,
    )


def _task(random: Random, number: int, lease: Duration) -> Task:
    name = f"task{number}"
    is_template = random.random() < 0.5
    partitions = tuple(
        Partition(REALM, name, at) for at in range(random.choice((1, 1, 2)) if is_template else 1)
    )
    names = tuple("abc"[: random.randint(1, 3)]) if is_template else ("",)
    instances = tuple(
        Key(partitions[at % len(partitions)], name, instance) for at, instance in enumerate(names)
    )
    return Task(
        name,
        policies(random, lease, is_template=is_template),
        partitions,
        instances,
        is_template,
        random.choice((None, None, 1, 2)),
        len(partitions) > 1 and random.random() < 0.5,
    )


def _worker(random: Random) -> WorkerPlan:
    return WorkerPlan(
        slots=random.choice((1, 2, 5, 20)),
        batch_size=random.choice((1, 3, 20)),
        ahead=random.choice((0, 40_000, 2 * SECOND)),
        skew=random.randint(-90, 90) * SECOND,
        drift=random.randint(-200, 200),
    )


def _editor(random: Random) -> EditorPlan:
    """An editor whose machine is up to a quarter of an hour off, and some that learn the time of the backend badly."""
    misled = random.choice((-2_000, -400, -100, -20, 20, 100, 400, 2_000)) * 1_000
    return EditorPlan(
        kind=random.choice(list(Kind)),
        skew=random.choice((-900, -90, 0, 90, 900)) * SECOND,
        drift=random.randint(-200, 200),
        misled=misled if random.random() < 0.3 else 0,
    )


def _modes(random: Random) -> Modes:
    return Modes(
        skips_locked=random.random() < 0.3,
        reads_committed=random.random() < 0.3,
        loads_one_by_one=random.random() < 0.3,
        forgets=random.random() < 0.1,
    )


def _weather(random: Random) -> Weather:
    def share(most: float) -> float:
        return random.random() * most if random.random() < 0.5 else 0.0

    return Weather(
        lost_request=share(0.2),
        lost_reply=share(0.2),
        slow=share(0.4),
        late=share(0.1),
        lost_notification=share(1.0),
        round_trip=random.choice((200, 5_000, 50_000, 500_000)),
    )
