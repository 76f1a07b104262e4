"""What is edited and run in a fault-injection account: instances of each kind, their schedules, and the edits of them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

A_SECOND: Final = 1_000_000
"""In microseconds, as are all times of the account's oracle."""

SECONDS_OF_A_MINUTE: Final = 60

ATTEMPTS: Final = 3
"""Of what fails; then it is a dead letter."""


class Kind(NamedTuple):
    """What is promised of the occurrences of a task."""

    task: str
    is_mirrored: bool = False
    """Its instances are as the operator writes them for resources, with policies of their own."""
    at_most_once: bool = False
    may_overlap: bool = False
    renews_itself: bool = True
    """Its worker renews the leases; False: its handler says when."""
    limit: int = 0
    """Of runs at once on all workers together; 0 sets none."""
    failing: float = 0
    """The share of attempts that raise."""


KINDS: Final = {
    kind.task: kind
    for kind in (
        Kind("at_least_once", renews_itself=False),
        Kind("renewed"),
        Kind("limited", limit=3),
        Kind("at_most_once", at_most_once=True, may_overlap=True),
        Kind("mirrored_at_least_once", is_mirrored=True, failing=0.3),
        Kind("mirrored_at_most_once", is_mirrored=True, at_most_once=True),
    )
}


class Seconds(NamedTuple):
    """The schedule that names the same *seconds* of each minute, in UTC."""

    seconds: tuple[int, ...]

    @classmethod
    def every(cls, step: int, offset: int = 0) -> "Seconds":
        return cls(tuple(range(offset % step, SECONDS_OF_A_MINUTE, step)))

    @property
    def cron(self) -> str:
        return f"* * * * * {','.join(map(str, self.seconds))}"

    def __str__(self) -> str:
        return f"each {SECONDS_OF_A_MINUTE // len(self.seconds)} s from :{self.seconds[0]:02}"

    def names(self, at: int) -> bool:
        second, rest = divmod(at, A_SECOND)
        return rest == 0 and second % SECONDS_OF_A_MINUTE in self.seconds

    def between(self, after: int, before: int) -> Iterator[int]:
        """Yield the times after *after* and before *before*, one by one."""
        for second in range(after // A_SECOND + 1, -(-before // A_SECOND)):
            if second % SECONDS_OF_A_MINUTE in self.seconds and after < second * A_SECOND < before:
                yield second * A_SECOND


class Once(NamedTuple):
    """A single time."""

    at: int

    def names(self, at: int) -> bool:
        return at == self.at

    def between(self, after: int, before: int) -> Iterator[int]:
        if after < self.at < before:
            yield self.at


Times = Seconds | Once


class Subject(NamedTuple):
    """One instance of one kind."""

    kind: Kind
    name: str


@dataclass
class Edit:
    """One edit of a subject from outside, with the true times between which it was carried out."""

    number: int
    subject: Subject
    operation: str
    """create, schedule, force, remove; edit, suspend, resume (mirrored); run, redrive."""
    times: Times | None
    """The schedule that counts from then on; None: nothing is due."""
    editor: str
    seconds: float = 0
    """How long runs take from then on."""
    before: int = 0
    after: int = 0
    known: bool = True
    """Whether it is known what became of it."""
    made: bool = True
    """Whether it was made, if that is known."""
    error: str = ""

    @property
    def moves(self) -> bool:
        """Whether it says when the subject is due."""
        return self.operation not in {"run", "redrive"}

    def __str__(self) -> str:
        outcome = ("made" if self.made else "refused") if self.known else "not known"
        return (
            f"edit {self.number} {self.operation} by {self.editor}: {self.times}, "
            f"between {clock(self.before)} and {clock(self.after)}, {outcome}{self.error and f' ({self.error})'}"
        )


def clock(at: int) -> str:
    """Return *at* as minute, second and millisecond: what matters of a time in an account of some minutes."""
    return f"{at // A_SECOND // 60 % 60:02}:{at / A_SECOND % 60:06.3f}"


@dataclass
class Wanted:
    """What the conductor has last asked of a subject."""

    exists: bool = False
    suspended: bool = False
    times: Seconds = field(default_factory=lambda: Seconds(()))
    seconds: float = 0
    generation: int = 0
    busy_until: float = 0
    """When the next edit may be made, by the conductor's monotonic clock."""
    editing: bool = False
    unsure: bool = False
    """The last edit is not known to have been made."""


@dataclass
class Drawn:
    """Draws schedules and edits from a seed."""

    chance: random.Random
    steps: tuple[int, ...] = (1, 1, 2, 2, 3, 5, 10)
    used: set[int] = field(default_factory=set)

    def schedule(self, kind: Kind) -> tuple[Seconds, float]:
        """Return a schedule, and how long its runs take: less than the time between two, or a lease may pass over them."""
        if not kind.at_most_once and kind.renews_itself and self.chance.random() < 0.25:
            return Seconds.every(15, self.chance.randrange(15)), self.chance.uniform(3.5, 6)
        step = self.chance.choice(self.steps)
        share = 0.35 if kind.limit or kind.failing else 0.5
        seconds = self.chance.choice((0, 0, self.chance.uniform(0, share * step)))
        return Seconds.every(step, self.chance.randrange(step)), min(seconds, 2.5)

    def operation(self, kind: Kind, wanted: Wanted) -> str:
        if wanted.unsure and not kind.is_mirrored:
            return "force"  # whether it is there or not
        if not wanted.exists:
            return "create"
        if not kind.is_mirrored:
            return self.chance.choices(("schedule", "force", "remove"), (6, 2, 1))[0]
        if wanted.unsure:
            return "edit"
        if wanted.suspended:
            return "resume"
        return self.chance.choices(("edit", "toggle", "run", "redrive"), (4, 4, 1, 1))[0]

    def options(self, kind: Kind, seconds: float) -> dict[str, Any]:
        options: dict[str, Any] = {"seconds": round(seconds, 3)}
        if kind.failing:
            options["failing"] = kind.failing
        return options
