"""Edits in mid-run, as an app or a controller does: creates, edits, stops, removes, asks for runs and redrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final

from pyncette.clock import Instant
from pyncette.core import edits
from pyncette.core.accounting import RemovedCounts
from pyncette.core.edits import Locked
from pyncette.core.record import Change, Key, Record, replace
from pyncette.core.spec import Policies, Spec
from pyncette.errors import ContentionError, StoreError
from pyncette.ledger.ledger import Rule, Ruling

from .loop import SECOND
from .oracle import INSTANTS, Edit, Kind
from .scenario import EditorPlan, Task, policies, schedule
from .scenario import Kind as EditorKind
from .scene import is_letter, parent_of
from .world import World

TRIES_MAX: Final = 4
"""After so many answers that did not come, an edit is given up."""


IN_MID_RUN: Final = 0.6
"""How many edits are of something that runs, if anything does."""


AT_AN_INSTANT: Final = 0.4
"""How many edits are made at the very instant of something else."""

OFF_BY: Final = (-20_000, -1_000, -1, 0, 0, 0, 1, 1_000, 20_000, 100_000)
"""By how much they miss it."""

WAITS_FOR_MOST: Final = 10 * SECOND
"""For how long an editor waits for an instant that may not come."""

IN_CALM_PAUSE: Final = 3 * SECOND

IN_CALM: Final = frozenset({"edit", "reschedule", "force", "resume"})
"""What is edited once faults are over, to see that it delays nothing."""


class Editor:
    """A process that edits random tasks; the *first* one declares them."""

    def __init__(self, world: World, name: str, plan: EditorPlan, *, first: bool) -> None:
        self._world = world
        self._name = name
        self._plan = plan
        self._first = first
        self._random = world.random
        self._names = count(1)
        self._args = count(1)

    def start(self) -> None:
        self.process = self._world.loop.spawn(self._name, self._main)

    async def _main(self) -> None:
        world, plan = self._world, self._plan
        self._member = world.open(self.process, plan.skew, plan.drift, plan.misled)
        await world.synchronise(self._member)
        if self._first:
            for task in world.scenario.tasks:
                for key in task.instances:
                    await self._declare(task, key)
        if "edits" not in world.scenario.faults:
            return
        pause = self._random.choice((2, 6, 20)) * SECOND
        while True:
            await world.sleep(self._random.random() * (IN_CALM_PAUSE if world.calm else pause))
            if self._random.random() < AT_AN_INSTANT:
                await self._wait_for_an_instant()
            if plan.kind is EditorKind.OPERATOR:
                await world.synchronise(self._member)
            await self._act()
            self._member.store.is_near = False

    async def _wait_for_an_instant(self) -> None:
        """Wait until something falls due, or until a claim, a start or a completion is carried out; then be quick."""
        world, random = self._world, self._random
        happens = random.choice(("due", "due", *INSTANTS))
        self._member.store.is_near = True
        if happens == "due":
            dues = [record.due_at for record in world.scene.records.values() if record.due_at is not None]
            ahead = [
                due - world.backend_now() for due in dues if 0 < due - world.backend_now() < WAITS_FOR_MOST
            ]
            if ahead:
                await world.sleep(max(0, random.choice(ahead) + random.choice(OFF_BY)))
            return
        happened = world.loop.create_future()
        timer = world.loop.call_later(
            WAITS_FOR_MOST / SECOND, lambda: happened.done() or happened.set_result(None)
        )
        world.oracle.awaited.append((happens, happened))
        await happened
        timer.cancel()
        if random.random() < 0.5:
            await world.sleep(max(0, random.choice(OFF_BY)))

    async def _act(self) -> None:
        random = self._random
        task, key = self._target()
        kinds: list[Callable[[Task, Key], Awaitable[None]]] = [
            self._declare,
            self._edit,
            self._edit,
            self._reschedule,
            self._resume,
            self._force,
            self._stop,
            self._remove,
            self._run_now,
            self._redrive,
            self._redrive,
        ]
        if self._world.calm:
            kinds = [kind for kind in kinds if kind.__name__.removeprefix("_") in IN_CALM]
        await random.choice(kinds)(task, key)

    def _target(self) -> tuple[Task, Key]:
        """Any instance; but mostly one that runs, since that is where an edit is awkward."""
        running = [parent_of(call.key) for call in self._world.oracle.calls.running()]
        if running and self._random.random() < IN_MID_RUN:
            key = self._random.choice(running)
            return next(task for task in self._world.scenario.tasks if task.name == key.task), key
        task = self._random.choice(self._world.scenario.tasks)
        return task, self._random.choice(task.instances)

    # --- What is edited ------------------------------------------------------------------------------------------

    async def _declare(self, task: Task, key: Key) -> None:
        """Create it, or bring back what was stopped; leave alone what is there."""
        spec = self._spec(task)
        wanted = spec.policies or task.policies

        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None:
                return self._creation(key, spec, wanted, now)
            if record.state.withdrawn_at is None and record.spec.schedule is not None:
                return Ruling(None)
            return self._ruled(Kind.EDIT, now, Change(record, edits.edited(record, spec, wanted, now)))

        await self._apply(key, rule)

    async def _edit(self, task: Task, key: Key) -> None:
        fresh = self._spec(task)
        keeps_schedule = self._random.random() < 0.4
        how = self._random.random()
        lease = self._random.choice((self._world.scenario.shortest_lease, self._world.scenario.longest_lease))
        other = policies(self._random, lease, is_template=task.is_template)
        other = replace(other, lease=lease)

        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None or record.spec.schedule is None:
                return Ruling(None)
            own = record.spec.policies
            if own is not None:
                own = replace(own, suspend=not own.suspend) if how < 0.4 else other if how < 0.7 else own
            schedule = record.spec.schedule if keeps_schedule else fresh.schedule
            spec = Spec(schedule, fresh.args, own)
            edited = edits.edited(record, spec, own or task.policies, now)
            return self._ruled(Kind.EDIT, now, Change(record, edited))

        await self._apply(key, rule)

    async def _reschedule(self, task: Task, key: Key) -> None:
        spec = self._spec(task)
        wanted = spec.policies or task.policies

        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None:
                return self._creation(key, spec, wanted, now)
            after = edits.rescheduled(record, spec, wanted, now)
            if isinstance(after, Locked):
                return Ruling(None)
            return self._ruled(Kind.RESCHEDULE, now, Change(record, after))

        await self._apply(key, rule)

    async def _force(self, task: Task, key: Key) -> None:
        spec = self._spec(task)
        wanted = spec.policies or task.policies

        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None:
                return self._creation(key, spec, wanted, now)
            before = record.spec.policies or task.policies
            rows = edits.withdrawal_rows(record, before, now)
            return self._ruled(
                Kind.FORCE, now, Change(record, edits.overwritten(record, spec, wanted, now), rows)
            )

        await self._apply(key, rule)

    async def _resume(self, task: Task, key: Key) -> None:
        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None:
                return Ruling(None)
            after = edits.resumed(record, record.spec.policies or task.policies, now)
            return Ruling(None) if after is record else self._ruled(Kind.RESUME, now, Change(record, after))

        await self._apply(key, rule)

    async def _stop(self, task: Task, key: Key) -> None:
        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None or record.state.withdrawn_at is not None:
                return Ruling(None)
            before = record.spec.policies or task.policies
            rows = edits.withdrawal_rows(record, before, now)
            return self._ruled(Kind.STOP, now, Change(record, edits.stopped(record, before, now), rows))

        await self._apply(key, rule)

    async def _remove(self, task: Task, key: Key) -> None:
        await self._apply(key, self._removal(task))

    def _removal(self, task: Task) -> Rule:
        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is None:
                return Ruling(None)
            removed_counts = edits.removed(record, record.spec.policies or task.policies, now)
            return self._ruled(Kind.REMOVE, now, Change(record, None), removed_counts)

        return rule

    async def _run_now(self, task: Task, key: Key) -> None:
        name = f"{self._name}n{next(self._names)}"
        found = await self._loaded(key)
        if found is None or found.spec.schedule is None:
            return
        parent = found

        def rule(record: Record | None, now: Instant) -> Ruling:
            if record is not None:
                return Ruling(None)
            run = edits.on_demand(parent, parent.spec.policies or task.policies, name, now)
            return self._ruled(Kind.ON_DEMAND, now, Change(None, run))

        # Once it has run it is gone, so whoever asks again is given another run.
        await self._apply(key._replace(occurrence=f"run-{name}"), rule, tries=1)

    async def _redrive(self, task: Task, key: Key) -> None:
        try:
            records = await self._member.store.scan(key.partition, task.name, None, 100)
        except StoreError:
            return
        letters = [record.key for record in records if is_letter(record.key)]
        if not letters:
            return
        if self._random.random() < 0.1:
            await self._apply(letters[0], self._removal(task))
            return

        def rule(record: Record | None, now: Instant) -> Ruling:
            after = None if record is None else edits.redriven(record, now)
            if record is None or after is record:
                return Ruling(None)
            return self._ruled(Kind.REDRIVE, now, Change(record, after))

        await self._apply(letters[0], rule)

    # --- How -----------------------------------------------------------------------------------------------------

    def _spec(self, task: Task) -> Spec:
        """Something to ask for: a schedule, and for a task with a schedule of its own perhaps other policies."""
        now = self._world.backend_now()  # to ask its own clock would be to go by it, whoever decides later
        return task.edit(schedule(self._random, now), None, next(self._args))

    def _creation(self, key: Key, spec: Spec, wanted: Policies, now: Instant) -> Ruling:
        return self._ruled(Kind.CREATE, now, Change(None, edits.created(key, spec, wanted, now)))

    def _ruled(
        self, kind: Kind, now: Instant, change: Change, removed_counts: RemovedCounts | None = None
    ) -> Ruling:
        self._world.oracle.edits(self.process, change, Edit(kind, now, removed_counts))
        return Ruling(change, None, removed_counts)

    async def _loaded(self, key: Key) -> Record | None:
        try:
            (record,) = await self._member.store.load([key])
        except StoreError:
            return None
        return record

    async def _apply(self, key: Key, rule: Rule, tries: int = TRIES_MAX) -> None:
        for _ in range(tries):
            try:
                await self._member.ledger.apply({key: rule})
                return
            except ContentionError as error:
                if self._world.scene.undisturbed:  # else there may have been time for few tries only
                    self._world.scene.broken(f"{self.process} could not edit {key}: {error}")
                return
            except StoreError:
                await self._world.sleep(self._random.random() * SECOND)
