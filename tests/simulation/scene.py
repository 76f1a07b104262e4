"""What all who judge a history see of it: the records as they are, what claims were for, and what happened to the clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core.policies import jitter_of
from pyncette.core.record import Key, Record
from pyncette.core.spec import Mode, Overlap, Policies
from pyncette.store.memory import MemoryBackend

from .calendar import choice, first_time
from .journal import Journal
from .loop import SimulatedLoop

DEAD_LETTER: Final = "dead-"
ON_DEMAND: Final = "run-"

Identity = tuple[Any, ...]
"""What tells one occurrence from all others, whatever record it lives in."""


class BrokenPromiseError(AssertionError):
    """Something happened that must never happen."""


class Choice(NamedTuple):
    """What a claim is to run, and how many occurrences it drops on the way."""

    run: Instant | None
    dropped: int
    times: tuple[Instant, ...] = ()
    """All that it found to be due."""


class Scene:
    """
    What was seen so far. *policies_of* finds those of a record that has none of its own.

    Of the code that is judged it takes values (records, changes) and the hash behind the jitter. What is due and what is
    chosen it works out anew, the slow and simple way.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        backend: MemoryBackend,
        journal: Journal,
        policies_of: Callable[[Record], Policies],
    ) -> None:
        self.loop = loop
        self.backend = backend
        self.journal = journal
        self.policies_of = policies_of
        self.records: dict[Key, Record] = {}
        """Each record as the last write that was seen has left it."""
        self.chosen: dict[tuple[Key, int], Choice] = {}
        """What each claim, told by its fence, is to run."""
        self.asked: defaultdict[Identity, int] = defaultdict(int)
        """How often the time of a one-off was asked for again: each time is an occurrence of its own."""
        self.nth_of: dict[Key, tuple[int, int]] = {}
        """For what lives beside a schedule: which of these it is, and in which life of the schedule."""
        self.lives: defaultdict[tuple[Key, int], int] = defaultdict(int)
        """How often a schedule was created at the same time, by clocks that stand still or edits that arrive late."""
        self.claimed_in: dict[tuple[Key, str], int] = {}
        """In which life of its schedule each lease was given."""
        self.created: defaultdict[Key, int] = defaultdict(int)
        """How often a record was created, of those that live beside a schedule."""
        self.redrives: defaultdict[Key, int] = defaultdict(int)
        self.steps: list[tuple[int, Duration]] = []
        """When the backend's clock has stepped, and by how much."""
        self.is_lost = False
        """Whether a failover has lost writes that were acknowledged: of what was, nobody can say what is to be."""
        self.undisturbed = False
        self.always_answered = False
        """No request or reply gets lost."""
        """Whether all answers come in time, and the backend's clock goes right."""

    def went_back_since(self, at: int) -> bool:
        """Say whether the backend's clock has gone back since *at*, by the loop's time."""
        return any(by < 0 and at <= stepped_at for stepped_at, by in self.steps)

    def stored(self, key: Key) -> Record | None:
        """What is stored for *key* at this very instant."""
        return self.backend.shelf(key.partition).records.get(key)

    def broken(self, sentence: str) -> None:
        """A promise was broken: the history ends here."""
        if self.is_lost:
            return
        self.journal.add(self.loop.world, "BROKEN", sentence)
        self.loop.failures.append(BrokenPromiseError(sentence))

    def identity(self, record: Record, scheduled_at: Instant) -> Identity:
        """What tells the occurrence of *record* that is due at *scheduled_at* from all others."""
        key = record.key
        if is_letter(key):
            return (key, self.created[key], self.redrives[key])
        if key.occurrence.startswith(ON_DEMAND):
            return (key, self.created[key])
        time = (parent_of(key), record.state.created_version, scheduled_at)
        if key.occurrence:
            return (*time, *self.nth_of.get(key, (0, 0)))
        life = self.lives[time[:2]]
        if record.lease is not None:  # what was claimed in an earlier life is not of this one
            life = self.claimed_in.get((key, record.lease.id), life)
        return (*time, self.asked[time], life)

    def asked_again(self, record: Record, at: Instant) -> None:
        """The time of a one-off is asked for, whether it has run or not."""
        self.asked[record.key, record.state.created_version, at] += 1

    def choose(self, record: Record) -> Choice:
        """What a claim of *record* is to run."""
        policies, started, due = self.policies_of(record), record.state.started, record.due_at
        if started is not None:
            dropped = sum(gap.count for gap in started.dropped)
            return Choice(None if started.at_most_once else started.scheduled_at, dropped)
        if due is None or record.began_at is None or record.spec.schedule is None:
            return Choice(None, 0)
        if record.key.occurrence:
            return Choice(due, 0)
        first = record.attempt == 1 or is_written_first(policies)
        if first and is_outside(policies, due):
            return Choice(None, 0)
        at = record.began_at - jitter_of(record.key, policies)
        run, dropped = choice(record.spec.schedule, policies, record.schedule_since, due, at)
        return Choice(run, len(dropped), (*dropped, *(() if run is None else (run,))))

    def in_progress(self, record: Record) -> Choice | None:
        """What of *record* is in progress: a handler may have been called for it, and it has no outcome yet."""
        started = record.state.started
        if started is not None:
            return Choice(started.scheduled_at, sum(gap.count for gap in started.dropped))
        policies = self.policies_of(record)
        beside = policies.overlap is Overlap.ALLOW and not record.key.occurrence
        if not record.attempt or beside or policies.mode is Mode.AT_MOST_ONCE:
            return None
        chosen = self.chosen.get((record.key, record.fence))
        return chosen if chosen is not None and chosen.run is not None else None

    def moved_on_from(self, record: Record) -> Choice | None:
        """What of *record* needs an outcome if that is removed: it is in progress, or its schedule has moved on from it."""
        begun, key = self.in_progress(record), record.key
        waits = key.occurrence and not is_letter(key) and not key.occurrence.startswith(ON_DEMAND)
        return Choice(record.due_at, 0) if begun is None and waits else begun

    def is_a_time(self, record: Record, due: Instant) -> None:
        """Check that *due* is a time of the schedule of *record*."""
        policies = self.policies_of(record)
        if first_time(record.spec.schedule, policies, record.schedule_since, due - 1) != due:
            self.broken(f"{record.key} is to run at {due}, which is no time of its schedule")


class Lens:
    """Whoever looks at a scene in one respect."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def broken(self, sentence: str) -> None:
        self.scene.broken(sentence)


def is_letter(key: Key) -> bool:
    return key.occurrence.startswith(DEAD_LETTER)


def is_outside(policies: Policies, due: Instant) -> bool:
    """Say whether *due* lies outside of the window."""
    before = policies.not_before is not None and due < policies.not_before
    return before or (policies.not_after is not None and due > policies.not_after)


def is_written_first(policies: Policies) -> bool:
    """Say whether something is written between a claim and its run, so that a claim alone has started nothing."""
    return policies.mode is Mode.AT_MOST_ONCE or policies.overlap is Overlap.ALLOW


def parent_of(key: Key) -> Key:
    """The key of the schedule that *key* lives beside."""
    return key._replace(occurrence="")
