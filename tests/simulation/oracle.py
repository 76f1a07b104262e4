"""Watches each write when it is carried out and each call of a handler, and says which promise was broken."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core.accounting import RemovedCounts, is_shard
from pyncette.core.record import RESERVED_REALMS, Change, Key, Outcome, Partition, Record, replace
from pyncette.core.runs import Ending
from pyncette.core.schedule import Once
from pyncette.core.spec import Overlap
from pyncette.worker.occurrence import Occurrence

from .books import Books
from .calls import Call, Calls, How
from .leases import Leases
from .loop import Process
from .network import Request, Watcher
from .permits import PermitsInUse
from .scene import DEAD_LETTER, ON_DEMAND, Choice, Identity, Lens, Scene, is_letter, is_outside, parent_of


class Kind(Enum):
    """What an edit asks for."""

    CREATE = "create"
    EDIT = "edit"
    RESUME = "resume"
    RESCHEDULE = "reschedule"
    FORCE = "force"
    STOP = "stop"
    REMOVE = "remove"
    ON_DEMAND = "on demand"
    REDRIVE = "redrive"


ENDING: Final = frozenset({Kind.FORCE, Kind.STOP, Kind.REMOVE})
"""Edits that end a run in progress."""


class Edit(NamedTuple):
    """Why a change is asked for, and when it was ruled on."""

    kind: Kind
    now: Instant
    removed_counts: RemovedCounts | None


class Named(NamedTuple):
    """Since when what a schedule names counts, and the time that was kept of the one before."""

    since: Instant
    kept: Instant | None


INSTANTS: Final = ("claim", "start", "end")
"""What an edit may coincide with."""


class Oracle(Lens, Watcher):
    """Tells whoever has to know: who holds what, what runs, and what has which outcome."""

    def __init__(
        self,
        scene: Scene,
        slack: Callable[[Process, Process], Duration | None],
        error: Callable[[Process], Duration],
        failures: Callable[[Process], Sequence[int]],
    ) -> None:
        super().__init__(scene)
        self._error = error
        self.awaited: list[tuple[str, asyncio.Future[None]]] = []
        """Who waits for which of `INSTANTS` to come."""
        self.calls = Calls(scene, error)
        self.leases = Leases(scene, self.calls, slack)
        self.permits = PermitsInUse(scene, self.calls, slack)
        self.books = Books(scene, self.calls, failures)
        self._edits: dict[tuple[Process, Key, tuple[int | None, ...]], Edit] = {}
        """By process, key, and versions before and after: the edits under way."""
        self._intended: dict[tuple[Process, Key, int], RemovedCounts] = {}
        """What processes are to count for what they remove."""
        self.latest: Duration | None = None
        """How late a claim may be, once faults are over."""
        self._highest: dict[Key, int] = {}
        self._written_at: dict[Key, int] = {}
        self._named: dict[Key, Named] = {}
        self._created_at: dict[Key, int] = {}
        self._floors: dict[Key, Instant] = {}
        """The latest time of each schedule for which a handler was called, since it was created."""
        self._permit_freed_at: dict[str, int] = {}
        """When a run with a permit last ended, by its handler."""
        self._life_beside: dict[Key, int] = {}
        """In which life of its schedule a side run was created; a schedule that is created again may begin as the last."""
        self._counted_anew: Counter[Key] = Counter()
        """How often an edit or a resume has counted a schedule anew."""
        self._schedule_of: dict[Key, tuple[int, int, int]] = {}
        """The schedule that a side run at most once was created beside, unless that ended with it."""

    def carried_out(self, request: Request, answer: Any) -> None:
        if not self.scene.is_lost:
            self._judge(request, answer)
        elif request.verb in {"swap", "claim", "renew"}:
            self._look()

    def _judge(self, request: Request, answer: Any) -> None:
        process, verb, arguments, asked_at, _ = request
        if self._is_of_permits(verb, arguments):
            self.permits.requested(request)
            return
        if verb == "swap":
            self.scene.journal.add(process, "swap", arguments[0], answer)
            self._swapped(process, arguments[0], answer, asked_at)
        elif verb == "claim":
            if answer.records:
                self.scene.journal.add(process, "claim", answer.records)
            self.leases.given(request, arguments[1])
            for record in answer.records:
                self._claimed(request, record, until=arguments[3] + arguments[5])
            if answer.records:
                self._happens("claim")
        elif verb == "renew":
            self.scene.journal.add(process, "renew", arguments[0], answer.held)
            for renewal, held in zip(arguments[0], answer.held, strict=True):
                if not is_reserved(renewal.key.partition):
                    self.leases.renewed(request, renewal, held=held)

    def _is_of_permits(self, verb: str, arguments: tuple[Any, ...]) -> bool:
        """Say whether it is about permits alone: they are judged by what runs, and not by what is written of them."""
        if verb == "claim":
            return any(map(is_reserved, arguments[0]))
        return verb == "swap" and all(is_reserved(key_of(change).partition) for change in arguments[0])

    def loses_sight(self) -> None:
        """A failover has lost writes: from now on no occurrence is judged."""
        self.scene.is_lost = True
        self._look()

    def _look(self) -> None:
        """Take what is stored as it is."""
        shelves = self.scene.backend.shelves.items()
        stored = [shelf.records for partition, shelf in shelves if not is_reserved(partition)]
        self.scene.records = {key: record for records in stored for key, record in records.items()}

    def highest_version(self, key: Key) -> int:
        """The highest version that a record of *key* ever had."""
        return self._highest.get(key, 0)

    # --- Calls ---------------------------------------------------------------------------------------------------

    def called(self, process: Process, occurrence: Occurrence, now: Instant) -> Call:
        """A handler is called; *now* by the clock of its worker."""
        record, scheduled_at = occurrence.held.record, occurrence.held.scheduled_at
        if self.scene.is_lost:
            call = Call(process, occurrence, (), self.scene.loop.now)
            self.calls.runs(call)
            return call
        identity = self.scene.identity(record, scheduled_at)
        call = Call(process, occurrence, identity, self.scene.loop.now)
        self.scene.journal.add(process, "call", call.key, scheduled_at, call.attempt, call.lease_id)
        self.leases.run_beside(call, self.calls.of(call.key))
        ended = self.books.outcome_of(identity)
        if ended not in {None, Outcome.WITHDRAWN} and not self.leases.is_revoked(call):
            self.broken(f"{call.key} is started although it has {ended.value}")
        self.calls.began(call, now)
        self.permits.began(call)
        parent = self.scene.records.get(parent_of(call.key))
        own = not is_letter(call.key) and not call.key.occurrence.startswith(ON_DEMAND)
        lives = parent is not None and self._created_at.get(parent.key, 0) <= self.leases.asked_at(
            call.lease_id
        )
        if (
            own
            and lives
            and parent is not None
            and parent.state.created_version == record.state.created_version
        ):
            self._floors[parent.key] = max(scheduled_at, self._floors.get(parent.key, 0))
        self._happens("start")
        return call

    def ended(self, call: Call, how: How) -> None:
        """A handler has returned, raised, or was cancelled: whatever it made of that, but that it may finish in a drain."""
        ending = call.occurrence.ending
        if ending is not None and not (ending is Ending.DRAINED and how is How.RETURNED):
            how = How.CANCELLED
        self.scene.journal.add(call.process, how.value, call.key, call.lease_id)
        self.calls.ended(call, how)
        if call.occurrence.permit is not None:
            self._permit_freed_at[call.key.partition.handler] = self.scene.loop.now
        self._happens("end")

    def _happens(self, what: str) -> None:
        """Tell those who wait for it."""
        if self.awaited:
            for awaited, future in self.awaited:
                if awaited == what and not future.done():
                    future.set_result(None)
            self.awaited = [entry for entry in self.awaited if not entry[1].done()]

    def edits(self, process: Process, change: Change, edit: Edit) -> None:
        """A process is to ask for *change*."""
        off = edit.now - self.scene.backend.now()
        if abs(off) > self._error(process):
            self.broken(f"{process} decides about {key_of(change)} with a clock that is {off} µs off")
        place = (process, key_of(change), versions_of(change))
        # It may have been asked for before, and given up on, and be carried out after all.
        before = self._edits.get(place)
        self._edits[place] = edit if before is None else edit._replace(now=min(edit.now, before.now))

    def intends(self, process: Process, removed: Record, removed_counts: RemovedCounts) -> None:
        """A process is to remove a record, and to count what it leaves."""
        self._intended[process, removed.key, removed.version] = removed_counts

    # --- Claims --------------------------------------------------------------------------------------------------

    def _claimed(self, request: Request, record: Record, until: Instant) -> None:
        key, before = record.key, self.scene.records[record.key]
        if record.fence != before.fence + 1 or record.attempt != before.attempt + 1:
            self.broken(f"a claim of {key} has not counted up its fence and attempt")
        if before.claimable_at is None or before.claimable_at > until:
            self.broken(f"{key} is claimed before it is claimable")
        elif before.lease is None:
            self._check_lateness(key, before.claimable_at)
        if before.lease is not None:
            self.leases.taken_over(request, before, before.lease, self.calls.of(key))
        if not before.attempt and before.state.started is None and is_suspended(before):
            self.broken(f"{key} is claimed while it is suspended")
        self._check_growth(before, record, request.process, request.asked_at)
        self.calls.claimed(record)
        chosen = self.scene.chosen[key, record.fence] = self.scene.choose(record)
        self._check_named(key, chosen)
        assert record.lease is not None
        self.scene.claimed_in[key, record.lease.id] = self.scene.lives[key, record.state.created_version]
        self.scene.records[key] = record
        self.leases.stamped(request, record)

    def _check_named(self, key: Key, chosen: Choice) -> None:
        """Nothing that only the schedule of an edit names is due before that edit."""
        named = self._named.get(key)
        for time in () if named is None else chosen.times:
            if time <= named.since and time != named.kept:
                self.broken(f"{key} is due at {time}, which only the schedule of {named.since} names")

    def _check_lateness(self, key: Key, claimable_at: Instant) -> None:
        # An occurrence that needs a permit waits until one is free.
        since = max(self._written_at[key], self._permit_freed_at.get(key.partition.handler, 0))
        late = min(self.scene.backend.now() - claimable_at, self.scene.loop.now - since)
        if self.latest is not None and late > self.latest:
            self.broken(f"{key} is claimed {late} µs after it was claimable")

    # --- Writes --------------------------------------------------------------------------------------------------

    def _swapped(
        self, process: Process, changes: Sequence[Change], made: Sequence[bool], asked_at: int
    ) -> None:
        """A batch was written: groups of it whole or not at all, and what is removed is counted in its group."""
        groups: defaultdict[int, list[Change]] = defaultdict(list)
        for number, (change, ok) in enumerate(zip(changes, made, strict=True)):
            if change.group and ok != made[[other.group for other in changes].index(change.group)]:
                self.broken(f"{process} has written a part of what belongs together: {changes}")
            if ok:
                groups[change.group or -number - 1].append(change)
        for group in groups.values():
            leaving = [
                (change, removed_counts)
                for change in group
                if (removed_counts := self._removed_counts(process, change))
            ]
            removed = [removed_counts for _, removed_counts in leaving]
            homes = {home for removed_counts in removed for home in parents_of(removed_counts.of)}
            home = next(
                (change for change in group if change.after and home_of(change.after.key) in homes), None
            )
            if home is None and any(
                self._has_a_home(change.before, removed_counts) for change, removed_counts in leaving
            ):
                self.broken(f"{process} removes {removed[0].of}, and counts it nowhere")
            partners = self._partners(group)
            if any(self._is_meant_for_another(change) for change in group):
                self.loses_sight()
                return
            for change in group:
                counted = removed if change is home else ()
                self._written(process, change, counted, asked_at, partners.get(key_of(change)))
            self._check_beside(process, group)
        for change, ok in zip(changes, made, strict=True):
            if ok and change.before is None and is_letter(key_of(change)):
                self._check_letter(change.after)

    def _check_letter(self, letter: Record | None) -> None:
        """A dead letter is left of what was counted as dead-lettered, in the same write."""
        assert letter is not None
        failed = letter.key._replace(occurrence=letter.key.occurrence.removeprefix(DEAD_LETTER))
        if failed.occurrence.startswith(ON_DEMAND):
            identity: Identity = (failed, self.scene.created[failed])
        else:
            time = (parent_of(letter.key), letter.state.created_version, letter.due_at)
            nth = (self.scene.asked[time], self.scene.lives[time[:2]])
            identity = (*time, *self.scene.nth_of.get(failed, nth))
        outcome = self.books.outcome_of(identity)
        if outcome is not Outcome.DEAD_LETTERED:
            self.broken(f"{letter.key} is left of an occurrence that has {outcome and outcome.value}")

    def _removed_counts(self, process: Process, change: Change) -> RemovedCounts | None:
        """What *process* said that it would count for this removal."""
        if change.before is None or change.after is not None:
            return None
        return self._intended.get((process, change.before.key, change.before.version))

    def _has_a_home(self, removed: Record | None, removed_counts: RemovedCounts) -> bool:
        """Say whether there is somebody to count it: a template always is, or the schedule that it lived beside."""
        parent = self.scene.records.get(parent_of(removed_counts.of))
        if removed_counts.of.instance:
            return True
        if parent is None or removed is None or parent.state.created_version != removed.state.created_version:
            return False
        return (
            self._life_beside.get(removed.key) == self.scene.lives[parent.key, parent.state.created_version]
        )

    def _is_meant_for_another(self, change: Change) -> bool:
        """Say whether a late request changes a record that was created again with the version of an earlier one."""
        stored = self.scene.records.get(key_of(change))
        if stored is None or change.before is None or not self.calls.was_recreated(stored.key):
            return False
        return stored.version == change.before.version and stored.fence != change.before.fence

    def _partners(self, group: Sequence[Change]) -> dict[Key, Change]:
        """By key: the other change of a side run that starts with its schedule's consent, or becomes its schedule again."""
        changes = {key_of(change): change for change in group}
        partners: dict[Key, Change] = {}
        for key, change in changes.items():
            schedule = changes.get(parent_of(key))
            if schedule is None or schedule is change:
                continue
            if self._is_restart(change):
                partners[parent_of(key)] = change
            elif change.after is None and schedule.before is None:
                partners |= {key: schedule, parent_of(key): change}
        return partners

    def _is_restart(self, change: Change) -> bool:
        """Say whether it starts a side run that was released unstarted, at most once."""
        before, after = change.before, change.after
        return (
            before is not None
            and after is not None
            and before.state.started is None
            and after.state.started is not None
            and before.key in self._schedule_of
        )

    def _check_beside(self, process: Process, group: Sequence[Change]) -> None:
        """A side run that was released unstarted starts only while its schedule names it."""
        for change in group:
            key, after = key_of(change), change.after
            started = None if after is None else after.state.started
            if change.before is None and key.occurrence and started is not None:
                parent = self.scene.records.get(parent_of(key))
                if started.at_most_once and parent is not None:
                    self._schedule_of[key] = self._schedule_in(parent)
            elif self._is_restart(change) and not self._is_named(key):
                self.broken(f"{process} starts {key}, which its schedule names no longer")
            elif after is None:
                self._schedule_of.pop(key, None)

    def _is_named(self, key: Key) -> bool:
        """Say whether the schedule of the side run *key* is not suspended, and the same as when it was created."""
        parent, due = self.scene.records.get(parent_of(key)), self.scene.records[key].due_at
        if parent is None or is_suspended(parent) or self.scene.policies_of(parent).suspend:
            return False
        if due is not None and is_outside(self.scene.policies_of(parent), due):
            return False
        return self._schedule_in(parent) == self._schedule_of.get(key)

    def _schedule_in(self, parent: Record) -> tuple[int, int, int]:
        """What changes when a schedule is created again, or is counted anew by an edit."""
        created = parent.state.created_version
        return created, self.scene.lives[parent.key, created], self._counted_anew[parent.key]

    def _written(
        self,
        process: Process,
        change: Change,
        counted: Sequence[RemovedCounts],
        asked_at: int,
        partner: Change | None,
    ) -> None:
        key, records = key_of(change), self.scene.records
        before, after = records.get(key), self.scene.stored(key)
        if (before and before.version) != (change.before and change.before.version):
            self.broken(f"{process} changes {key} although it is not what it has seen")
        if (after and after.version) != (change.after and change.after.version):
            self.broken(f"what {process} writes of {key} is not what is stored")
        if after is not None:
            self._check_growth(before, after, process, asked_at)
        edit = self._edits.get((process, key, versions_of(change)))
        if after is not None and counted:
            self.books.counted(before, after, counted)
        elif before is None and after is not None:
            self._created(process, after, edit, partner)
        elif before is not None and edit is not None:
            self._edited(process, edit, before, after)
        elif before is not None and partner is None:
            self._settled(process, before, after)
        elif before is not None and after is not None and without_version(before) != without_version(after):
            self.broken(f"{process} starts a side run of {key}, and changes more than its version")
        if after is None:
            del records[key]
            self._intended.pop((process, key, before.version if before else 0), None)
        else:
            records[key] = after
            self.books.written_by(process, before, after)
        self.books.closed(after, key)

    def _check_growth(self, before: Record | None, after: Record, process: Process, asked_at: int) -> None:
        """
        Versions and fences grow, and only a renewal moves the end of a lease.

        What is created goes by the clock of its creator alone: it cannot know of what was removed since it looked, or was
        written by a clock that was ahead.
        """
        key, highest = after.key, self.highest_version(after.key)
        if after.version <= (highest if before is None else before.version):
            written_at = self._written_at[key]
            unaware = written_at >= asked_at or self.scene.went_back_since(written_at)
            since_asked = self.scene.loop.now - asked_at
            was_ahead = highest >= self.scene.backend.now() - since_asked - self._error(process)
            if before is not None or not (unaware or was_ahead):
                self.broken(f"the version of {key} does not grow")
            self.calls.recreated(after)
        self._highest[key] = max(highest, after.version)
        self._written_at[key] = self.scene.loop.now
        if before is None:
            return
        if after.fence < before.fence:
            self.broken(f"the fence of {key} goes back")
        same = after.lease is not None and before.lease is not None and after.lease.id == before.lease.id
        if same and after.lease != before.lease:
            self.broken(f"a write has moved the end of the lease of {key}, which only a renewal may")

    def _created(self, process: Process, after: Record, edit: Edit | None, partner: Change | None) -> None:
        key, started = after.key, after.state.started
        self.books.opened(after)
        if partner is not None and partner.before is not None and edit is None:
            self._check_restored(process, after, partner.before)
            return
        self._named.pop(key, None)
        self._floors.pop(key, None)
        self._created_at[key] = self.scene.loop.now
        if key.occurrence:
            self.scene.created[key] += 1
            self._life_beside[key] = self.scene.lives[parent_of(key), after.state.created_version]
        else:
            self.scene.lives[key, after.state.created_version] += 1
        if edit is not None:
            if edit.kind is Kind.CREATE:
                self.books.changed(None, after, ends=False)
                self._check_due(edit, None, after)
        elif after.spec.schedule is None:
            pass  # it only counts, and so far nothing: `closed` compares
        elif is_letter(key):
            pass  # `_check_letter` looks at it once all of its batch is written
        elif started is None or after.lease is None:
            self.broken(f"{process} creates {key} out of nothing")
        else:
            if self.calls.was_recreated(parent_of(key)):
                self.calls.recreated(after)
            time = (parent_of(key), after.state.created_version, started.scheduled_at)
            self.scene.nth_of[key] = (self.scene.asked[time], self.scene.lives[time[:2]])
            self.scene.chosen[key, after.fence] = Choice(started.scheduled_at, 0)
            self.books.put_beside(after, started.scheduled_at)
            self.leases.shared(after)
            parent = self.scene.records.get(parent_of(key))
            lease = None if parent is None else parent.lease
            if lease is None or lease.id != after.lease.id:
                self.broken(f"{process} creates {key} beside what it does not hold")

    def _check_restored(self, process: Process, after: Record, side_run: Record) -> None:
        """The last run of an instance was released before its handler was called: it is the instance again."""
        at = side_run.due_at if side_run.state.started is None else side_run.state.started.scheduled_at
        once = after.spec.schedule
        if (after.due_at, after.spec.args) != (at, side_run.spec.args) or self.calls.of_claim(side_run):
            self.broken(f"{process} restores {after.key} from {side_run.key}, which is another occurrence")
        if not isinstance(once, Once) or once.at != at or after.state.started or after.lease:
            self.broken(f"{process} restores {after.key} as something else than what was released")
        if side_run.key in self._schedule_of:
            self.broken(f"{process} restores {after.key}, whose schedule went on")
        self._created_at[after.key] = self.scene.loop.now

    def _settled(self, process: Process, before: Record, after: Record | None) -> None:
        """The holder of a lease, and nobody else, has written what became of its claim."""
        key = before.key
        if self.leases.holder(before.lease) is not process:
            self.broken(f"{process} changes {key}, whose lease is not its own")
        if after is None:
            removed_counts = self._intended.get((process, key, before.version))
            self.books.removed(before, removed_counts, by_edit=False)
            withdrawn = removed_counts and removed_counts.summary.last_outcome is Outcome.WITHDRAWN
            if withdrawn and self._is_named(key):
                self.broken(f"{process} withdraws {key}, which its schedule still names")
            return
        chosen = self.scene.chosen.get((key, before.fence))
        beside = chosen.run if chosen and self.scene.policies_of(before).overlap is Overlap.ALLOW else None
        # It counts from what it has put beside itself.
        since = {before.schedule_since, max(before.schedule_since, beside or 0)}
        if after.spec != before.spec or after.schedule_since not in since:
            self.broken(f"{process} edits {key}")
        if after.lease is not None and after.attempt == 0:
            self.broken(f"{key} is leased, but no attempt is under way")
        self._check_attempts(before, after)
        if key.occurrence:
            return
        self.books.settled(before, after)
        if after.due_at is not None and after.due_at > (before.due_at or after.due_at):
            self.scene.is_a_time(before, after.due_at)

    def _check_attempts(self, before: Record, after: Record) -> None:
        """A lease was given back after a call: the attempt counts, unless the worker drained."""
        call = self.calls.of_claim(before)
        if call is None or after.lease is not None or after.state.started is None:
            return
        if after.attempt != before.attempt - call.was_drained:
            self.broken(
                f"{before.key} has {after.attempt} attempts, after {before.attempt} and a call that {call.how}"
            )
        limit = self.scene.policies_of(before).retry.max_attempts
        if not call.was_drained and 0 < limit <= before.attempt:
            self.broken(
                f"{before.key} is to be tried again, but {before.attempt} of {limit} attempts are spent"
            )

    # --- Edits ---------------------------------------------------------------------------------------------------

    def _edited(self, process: Process, edit: Edit, before: Record, after: Record | None) -> None:
        key, begun = before.key, self.scene.in_progress(before)
        ends = edit.kind in ENDING
        if ends:
            self.leases.revoke(before)
        if after is None:
            self.books.removed(before, edit.removed_counts, by_edit=True)
            return
        self.books.changed(before, after, ends=ends)
        lease = before.lease and before.lease.id
        if ends and ((begun is not None and after.lease) or after.state.started or after.attempt):
            self.broken(f"{key} goes on after {edit.kind.value}")
        if not ends and begun is not None:
            if (after.lease and after.lease.id) != lease:
                self.broken(f"{edit.kind.value} takes the lease of {key}, which is in progress")
            if self._times_of(after) != self._times_of(before):
                self.books.edited(key)
        if before.spec.schedule != after.spec.schedule or (is_suspended(before) and not is_suspended(after)):
            self._counted_anew[key] += 1
        if edit.kind is Kind.FORCE:
            self.scene.lives[key, after.state.created_version] += 1
        if edit.kind is Kind.REDRIVE:
            self.scene.redrives[key] += 1
        self._check_due(edit, before, after)

    def _times_of(self, record: Record) -> tuple[object, ...]:
        """What says which times are occurrences."""
        policies = self.scene.policies_of(record)
        return record.spec.schedule, record.schedule_since, policies.not_before, policies.not_after

    def _check_due(self, edit: Edit, before: Record | None, after: Record) -> None:
        """What an edit makes due lies ahead of it, and of all that has started; the time of a one-off is taken as given."""
        due, key, schedule = after.due_at, after.key, after.spec.schedule
        if key.occurrence:
            return
        kept = before is not None and due == before.due_at
        if self._counts_anew(edit, before, after):
            self._named[key] = Named(edit.now, due if kept else None)
        if due is None:
            return
        if isinstance(schedule, Once):
            if before is None or before.spec.schedule != schedule or edit.kind is Kind.RESCHEDULE:
                self.scene.asked_again(after, due)
            self._named.pop(key, None)
            return
        if kept:
            return
        if due <= edit.now:
            self.broken(f"{edit.kind.value} of {key} has made {due} due, which had passed")
        started = self._floors.get(key, 0)
        if due <= started:
            self.broken(f"{edit.kind.value} of {key} has made {due} due, although {started} has started")
        self.scene.is_a_time(after, due)

    def _counts_anew(self, edit: Edit, before: Record | None, after: Record) -> bool:
        """Say whether a schedule counts from this edit on."""
        if before is None or edit.kind is Kind.FORCE:
            return True
        return before.spec.schedule != after.spec.schedule or (
            is_suspended(before) and not is_suspended(after)
        )


def is_suspended(record: Record) -> bool:
    """Say whether nothing of *record* may start."""
    own = record.spec.policies
    if record.state.withdrawn_at is not None:
        return True
    return not record.key.occurrence and (record.state.exhausted or (own is not None and own.suspend))


def is_reserved(partition: Partition) -> bool:
    """Say whether *partition* holds what workers tell each other, and no tasks."""
    return partition.realm.startswith(RESERVED_REALMS)


def key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key


def versions_of(change: Change) -> tuple[int | None, ...]:
    return (change.before and change.before.version, change.after and change.after.version)


def parents_of(key: Key) -> tuple[Key, ...]:
    """Where what lived under *key* may be counted."""
    return (parent_of(key), key._replace(instance="", occurrence=""))


def home_of(key: Key) -> Key:
    """Whose share of counts *key* is: its own, mostly."""
    return parent_of(key) if is_shard(key) else key


def without_version(record: Record) -> Record:
    """Return *record* without its version."""
    return replace(record, version=0, locator=None)
