"""Explores every history of one combination: depth first, and from each state once."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.record import Key, Record
from pyncette.core.runs import NEVER, RETURNED, Ended, Ending, HeldRun, replaced_at, replacement_check_at
from pyncette.core.spec import Mode, Overlap
from pyncette.ledger.ledger import Ledger
from pyncette.store.memory import MemoryBackend, MemoryStore

from .calls import MODEL, UNANSWERED, Call, Calls, Done, Request, Step
from .combination import BASE, LEASE, PARTITION, PERIOD, Combination, Edit
from .oracle import BrokenError, Edited, Judged, Time, judge_edit, judge_end, judge_start, judge_write
from .values import TICK, LeaseId, Node, Ref, Values, ranks

ALMOST: Final[Duration] = SECOND
"""So long before the end of its lease a late worker may go on."""

RENEWED_AFTER: Final[Duration] = LEASE // 2
"""A lease is looked at each sixth, and renewed at the first look after its first third."""

LOOK: Final[Duration] = LEASE // 6

RENEWALS_MAX: Final = 1
"""A handler ends before it would be renewed once more: it has met the occurrence after its own by then."""

ENDS: Final = {
    "returns": RETURNED,
    "raises": Ended(Ending.RAISED, "it raised"),
    "refuses": Ended(Ending.REFUSED, "it refused"),
}

REPLACED: Final = Ended(Ending.REPLACED, "the next one is due")


class Run(NamedTuple):
    """A handler that runs."""

    held: Node
    lease_until: Instant
    look_at: Instant
    """When its lease is looked at next."""
    ask_at: Instant
    """When it is asked whether the next occurrence takes its place."""
    renewals: int = 0


class Worker(NamedTuple):
    """A worker, with the one batch that it has claimed."""

    offset: Duration
    runs: tuple[Run, ...] = ()
    call: Step | None = None
    late: str = ""
    """What does not go on: its "request", its "reply", or the "process"."""
    since: Instant = 0
    """When it may go on."""
    answer: Node | None = None
    """The reply that is late."""
    resumed: bool = False
    """It has stood still until now, and has not had a look at its leases yet."""


class Editor(NamedTuple):
    """The editor, and how far its call has got."""

    call: Step | None = None
    over: bool = False
    late: bool = False
    since: Instant = 0


class Memory(NamedTuple):
    """What the oracle remembers."""

    started: frozenset[Time] = frozenset()
    completed: frozenset[Time] = frozenset()
    edited: Edited | None = None
    cut: bool = False
    """A worker died, or stood still, or was cut off for a while."""


class Sent(NamedTuple):
    """A request whose sender has given up, and that is still carried out."""

    request: Node
    at: Instant
    """When it was sent; it is carried out then, or a lease's length later."""
    until: Instant
    edits: bool = False
    ruled_at: Instant = 0


class State(NamedTuple):
    """All that a history has come to."""

    store: tuple[Node, ...]
    workers: tuple[Worker, Worker]
    editor: Editor
    sent: tuple[Sent, ...]
    now: Instant
    faults: int
    memory: Memory


class Applied(NamedTuple):
    """What a request has done to the store."""

    store: tuple[Node, ...]
    answer: Node
    judged: Judged


class Trace(NamedTuple):
    """How a state was come to."""

    label: tuple[Any, ...]
    before: Trace | None


class Found(NamedTuple):
    """What a search has come to."""

    states: int
    steps: int
    broken: str | None
    """The promise that was broken, with the history that broke it."""
    complete: bool


Next = tuple[tuple[Any, ...], State]


class Search:
    """All histories of one *combination* with at most *faults* faults."""

    def __init__(
        self,
        combination: Combination,
        faults: int = 2,
        *,
        ledger: type[Ledger] = Ledger,
        model: dict[str, Any] | None = None,
        looks_for_ends: bool = True,
    ) -> None:
        self.combination = combination
        self._looks_for_ends = looks_for_ends
        self._values = Values()
        self._calls = Calls(self._values, ledger, {**MODEL, **(model or {})})
        self._applied: dict[tuple[tuple[Node, ...], Node], Applied] = {}
        self._stores: dict[tuple[Node, ...], tuple[Node, ...]] = {}
        self._rule = combination.rule()
        self._last = combination.last
        self._calm = self._last + LEASE
        """From then on nothing fails, and all that is due is done."""
        self._none = self._values.node(UNANSWERED)
        self._at_most_once = combination.mode is Mode.AT_MOST_ONCE
        self._overlaps = combination.overlap is Overlap.ALLOW
        self._ends = {
            name: ended
            for name, ended in ENDS.items()
            if name != ("raises" if self._at_most_once else "refuses")
        }
        store = tuple(map(self._values.node, combination.initial()))
        self._stores[store] = store
        first, second = combination.clocks.value
        editor = Editor(over=combination.edit is Edit.NONE)
        self._first = State(
            store,
            (Worker(first), Worker(second)),
            editor,
            (),
            BASE + PERIOD // 2,
            faults,
            Memory(),
        )

    def explore(self, states_max: int | None = None) -> Found:
        """Explore all, or until *states_max* states were seen."""
        with self._calls.driven():
            return self._explored(states_max)

    def _explored(self, states_max: int | None) -> Found:
        # Who has fewer faults left can do nothing that who has more cannot: a state is seen again only with more of them.
        seen = {self._identity(self._first): self._first.faults}
        stack: list[tuple[State, Trace | None]] = [(self._first, None)]
        steps = 0
        while stack:
            state, trace = stack.pop()
            try:
                found = []
                for label, following in self._after(state):
                    steps += 1
                    found.append((label, self._forgetful(following)))
            except BrokenError as error:
                return Found(len(seen), steps, self._told(error, state, trace), complete=False)
            found.sort(key=_faults_left)
            for label, following in found:
                identity = self._identity(following)
                if seen.get(identity, -1) < following.faults:
                    seen[identity] = following.faults
                    stack.append((following, Trace(label, trace)))
            if states_max is not None and len(seen) >= states_max:
                return Found(len(seen), steps, None, complete=False)
        return Found(len(seen), steps, None, complete=True)

    def _forgetful(self, state: State) -> State:
        """Return *state* without what can make no difference any more."""
        if state.sent:
            sent = tuple(sent for sent in state.sent if not self._is_in_vain(state.store, sent))
            state = state._replace(sent=sent)
        memory = state.memory
        if not self._at_most_once and (memory.cut or (memory.started and self._is_edited(state))):
            started = frozenset[Time]() if self._is_edited(state) else memory.started
            state = state._replace(memory=memory._replace(started=started, cut=False))
        return state

    @staticmethod
    def _is_edited(state: State) -> bool:
        return state.editor.over and not any(sent.edits for sent in state.sent)

    @staticmethod
    def _is_in_vain(store: tuple[Node, ...], sent: Sent) -> bool:
        """Say whether a late write has lost its race already: versions only grow, and no lease is given twice."""
        request: Request = sent.request.value
        if request.verb == "claim":
            return False
        stored = _records(store)
        if request.verb == "renew":
            leases = {record.lease.id for record in stored.values() if record.lease is not None}
            return all(renewal.lease_id not in leases for renewal in request.args[0])
        return all(
            change.before is not None
            and (record := stored.get(change.before.key)) is not None
            and record.version > change.before.version
            for change in request.args[0]
        )

    # --- Identity ------------------------------------------------------------------------------------------------

    def _identity(self, state: State) -> int:
        refs: list[Ref] = []
        shapes: list[Any] = []
        for node in state.store:
            shapes.append(node.shape)
            refs += node.refs
        first, second = ((self._shape_of(worker), worker) for worker in state.workers)
        # Two workers are as good as each other. (Where their shapes are equal, so may their versions not be: both
        # orders are then states of their own, which costs time, and nothing else.)
        for shape, worker in (first, second) if first[0] <= second[0] else (second, first):
            shapes.append(shape)
            for run in worker.runs:
                refs += run.held.refs
            if worker.call is not None:
                refs += worker.call.refs
            if worker.answer is not None:
                refs += worker.answer.refs
        editor = state.editor
        shapes.append(
            (editor.call.shape if editor.call is not None else -1, editor.over, editor.late, editor.since)
        )
        if editor.call is not None:
            refs += editor.call.refs
        for sent in state.sent:
            shapes.append((sent.request.shape, *sent[1:]))
            refs += sent.request.refs
        return hash((tuple(shapes), ranks(refs), state.now, state.memory))

    @staticmethod
    def _shape_of(worker: Worker) -> tuple[Any, ...]:
        return (
            worker.offset,
            worker.call.shape if worker.call is not None else -1,
            worker.late,
            worker.since,
            worker.resumed,
            worker.answer.shape if worker.answer is not None else -1,
            tuple((run.held.shape, *run[1:]) for run in worker.runs),
        )

    # --- What may happen -----------------------------------------------------------------------------------------

    def _after(self, state: State) -> Iterator[Next]:
        """Yield all that may happen next, and what comes of it. Raises BrokenError."""
        urgent = False
        for following, is_urgent in chain(
            self._of_worker(state, 0), self._of_worker(state, 1), self._of_editor(state)
        ):
            urgent = urgent or is_urgent
            yield following
        for sent in dict.fromkeys(state.sent):
            if state.now == sent.at or state.now >= sent.until:
                yield self._sent(state, sent)
        if urgent:
            return
        at = self._next_instant(state)
        if at is None:
            judge_end(_records(state.store))
        else:
            yield ("time", at), self._at(state, at)

    def _of_worker(self, state: State, who: int) -> Iterator[tuple[Next, bool]]:
        """Yield what a worker may do, and whether that cannot wait."""
        worker = state.workers[who]
        calm = state.now >= self._calm
        if worker.late and (calm or state.now >= worker.since):
            yield self._resumed(state, who), True
        if worker.late == "process":
            return
        if worker.call is not None and not worker.late:
            for following in self._carried_out(state, who, worker.call):
                yield following, True
        elif worker.runs:
            yield from self._of_runs(state, who, calm=calm)
        elif worker.call is None and self._has_work(state, worker):
            for following in self._carried_out(state, who, self._claiming(state, worker)):
                yield following, calm

    def _of_editor(self, state: State) -> Iterator[tuple[Next, bool]]:
        """Yield what the editor may do, and whether that cannot wait."""
        editor = state.editor
        calm = state.now >= self._calm
        if editor.late:
            if calm or state.now >= editor.since:
                on_time = state._replace(editor=editor._replace(late=False, since=0))
                yield (("the editor goes on",), on_time), True
        elif editor.call is not None:
            for following in self._edits_on(state, editor.call):
                yield following, True
        elif not editor.over and not calm:
            for following in self._edits(state):
                yield following, False

    def _carried_out(self, state: State, who: int, step: Step) -> Iterator[Next]:
        """Yield what may become of a request of a worker."""
        request = step.node
        assert request is not None
        worker = state.workers[who]
        applied = self._apply(state.store, request)
        done = self._judged(state, applied)
        verb = request.value.verb
        following = self._delivered(done, who, step, applied.answer)
        yield (who, verb), following
        if not state.faults or state.now >= self._calm:
            return
        state = state._replace(faults=state.faults - 1)
        done = done._replace(faults=state.faults)
        cut = _cut(done)
        claims, reads = verb == "claim", verb == "load"
        # A worker that has nothing more to do is as good as one that is dead, or that hears of it later.
        goes_on = following.workers[who] != Worker(worker.offset)
        until = state.now + LEASE
        if not reads:
            yield (who, verb, "reply lost"), self._delivered(done, who, step, self._none)
            sent = Sent(request, state.now, until)
            late = state._replace(sent=(*state.sent, sent))
            yield (who, verb, "request late, given up"), self._delivered(late, who, step, self._none)
            if goes_on:
                since = until - (ALMOST if claims else 0)
                slow = worker._replace(call=step, late="reply", since=since, answer=applied.answer)
                yield (who, verb, "reply late"), _put(cut, who, slow)
            if goes_on and not claims:  # a claim whose worker dies is one whose reply is lost
                yield (who, verb, "crash after"), _put(cut, who, Worker(worker.offset))
        slow = worker._replace(call=step, late="request", since=until)
        yield (who, verb, "request late"), _put(_cut(state), who, slow)
        if not claims:  # else it is as if it had not been made
            yield (who, verb, "request lost"), self._delivered(state, who, step, self._none)
            yield (who, verb, "crash before"), _put(_cut(state), who, Worker(worker.offset))

    def _resumed(self, state: State, who: int) -> Next:
        worker = state.workers[who]
        on_time = worker._replace(late="", since=0, answer=None, resumed=worker.late == "process")
        state = _put(state, who, on_time)
        if worker.late == "reply":
            assert worker.call is not None
            assert worker.answer is not None
            return (who, "its reply is there"), self._delivered(state, who, worker.call, worker.answer)
        return (who, f"its {worker.late} goes on"), state

    def _of_runs(self, state: State, who: int, *, calm: bool) -> Iterator[tuple[Next, bool]]:
        """Yield what may become of the runs of a worker, and whether that cannot wait."""
        worker = state.workers[who]
        now = state.now
        for place, run in enumerate(worker.runs):
            must_end = calm
            rest = worker.runs[:place] + worker.runs[place + 1 :]
            without = _put(state, who, worker._replace(runs=rest))
            if now >= run.lease_until and (self._looks_for_ends or now >= run.look_at):
                yield ((who, "lease used up, cancelled"), without), True
            if worker.call is not None:
                continue
            held: HeldRun = run.held.value
            if now >= run.ask_at - worker.offset:
                call = Call("reload", (held,), worker.offset, now)
                yield (
                    (
                        (who, "asks for its successor"),
                        _put(state, who, worker._replace(call=self._calls.begun(call))),
                    ),
                    True,
                )
            elif now >= run.look_at and now < run.lease_until and run.renewals >= RENEWALS_MAX:
                must_end = True
            elif now >= run.look_at and now < run.lease_until:
                call = Call("renew", (held,), worker.offset, now)
                yield ((who, "renews"), _put(state, who, worker._replace(call=self._calls.begun(call)))), True
            for name, ended in self._ends.items():
                if not calm or name == "returns":
                    yield ((who, name, held.scheduled_at), self._ended(without, who, run, ended)), must_end
        if state.faults and not calm and worker.call is None:
            poorer = _cut(state)._replace(faults=state.faults - 1)
            yield ((who, "crash"), _put(poorer, who, Worker(worker.offset))), False
            yield (
                (
                    (who, "freezes"),
                    _put(poorer, who, worker._replace(late="process", since=state.now + LEASE)),
                ),
                False,
            )

    def _ended(self, state: State, who: int, run: Run, ended: Ended) -> State:
        """Have a run end, which is in the worker no more."""
        worker = state.workers[who]
        step = self._calls.begun(Call("settle", (run.held.value, ended), worker.offset, state.now))
        if isinstance(step.effect, Done):
            return state
        return _put(state, who, worker._replace(call=step))

    def _delivered(self, state: State, who: int, step: Step, answer: Node) -> State:
        """Have a worker go on with a reply, up to its next request."""
        step = self._calls.after(step, answer, state.now)
        worker = state.workers[who]
        if not isinstance(step.effect, Done):
            return _put(state, who, worker._replace(call=step))
        result, call = step.effect.result, step.call
        worker = worker._replace(call=None)
        state = _put(state, who, worker)
        if call.kind == "work":
            for ready in result:
                state = self._called(state, who, ready.held, ready.lease_until)
            return state
        if call.kind == "settle":
            return state
        return self._looked_after(state, who, call, result)

    def _looked_after(self, state: State, who: int, call: Call, result: Any) -> State:
        """Have a run go on once its lease was renewed, or its record loaded."""
        worker = state.workers[who]
        key = call.args[0].record.key
        run = next((run for run in worker.runs if run.held.value.record.key == key), None)
        if run is None:
            return state
        rest = tuple(other for other in worker.runs if other is not run)
        without = _put(state, who, worker._replace(runs=rest))
        if call.kind == "renew":
            if result is False:
                return without
            if result is None:
                run = run._replace(look_at=state.now)  # it is asked again soon
            else:
                end = call.at + LEASE
                look_at = max(end - RENEWED_AFTER, state.now + LOOK)
                run = run._replace(lease_until=end, look_at=look_at, renewals=run.renewals + 1)
        else:
            if result is None:
                return without
            now = state.now + worker.offset
            run = run._replace(held=self._values.node(result), ask_at=self._asked_at(result, now))
            if replaced_at(result) <= now:
                return self._ended(without, who, run, REPLACED)
        return _put(state, who, worker._replace(runs=(*rest, run)))

    def _called(self, state: State, who: int, held: HeldRun, lease_until: Instant) -> State:
        """Call a handler."""
        worker, memory, now = state.workers[who], state.memory, state.now
        time = (held.record.key.task, held.scheduled_at)
        judge_start(time, self.combination.mode, memory.started, memory.completed, memory.edited)
        other = state.workers[1 - who]
        if not self._overlaps and other.late != "process" and not other.resumed:
            for run in other.runs:
                self._judge_overlap(state, held.record.key, run, other.offset - worker.offset)
        look_at = max(lease_until - RENEWED_AFTER, now + LOOK)
        run = Run(self._values.node(held), lease_until, look_at, self._asked_at(held, held.scheduled_at))
        state = _put(state, who, worker._replace(runs=(*worker.runs, run)))
        return state._replace(memory=memory._replace(started=memory.started | {time}))

    def _judge_overlap(self, state: State, key: Key, run: Run, skew: Duration) -> None:
        if run.held.value.record.key != key or self.combination.edit in {Edit.FORCED, Edit.STOPPED}:
            return
        if state.now > run.lease_until or (not skew and state.now < run.lease_until):
            raise BrokenError(f"two live workers are in the handler of {key}")

    def _asked_at(self, held: HeldRun, after: Instant) -> Instant:
        if held.policies.overlap is not Overlap.REPLACE:
            return NEVER
        return replacement_check_at(held, after)

    # --- The editor, and what is on its way ----------------------------------------------------------------------

    def _edits(self, state: State) -> Iterator[Next]:
        for offset in self.combination.editors_offsets(state.now):
            call = Call("edit", (self.combination.keys[0], self._rule), offset, state.now)
            step = self._calls.begun(call)
            assert step.node is not None
            applied = self._apply(state.store, step.node)
            following = self._calls.after(step, applied.answer, state.now)
            if isinstance(following.effect, Done):
                yield ("edit without effect", offset), state._replace(editor=Editor(over=True))
            else:
                yield ("edit", offset), state._replace(editor=Editor(following))

    def _edits_on(self, state: State, step: Step) -> Iterator[Next]:
        """Yield what may become of a request of the editor."""
        request = step.node
        assert request is not None
        ruled_at = step.reply.at + step.call.offset if step.reply is not None else 0
        done, applied = self._edited(state, request, ruled_at)
        following = self._calls.after(step, applied.answer, state.now)
        over = isinstance(following.effect, Done)
        yield (
            ("editor", request.value.verb),
            done._replace(editor=Editor(None if over else following, over=over)),
        )
        if request.value.verb == "load" or not state.faults or state.now >= self._calm:
            return
        poorer = state._replace(faults=state.faults - 1)
        sent = Sent(request, state.now, state.now + LEASE, edits=True, ruled_at=ruled_at)
        yield (
            ("editor", "request late, given up"),
            poorer._replace(editor=Editor(over=True), sent=(*state.sent, sent)),
        )
        yield (
            ("editor", "request late"),
            poorer._replace(editor=state.editor._replace(late=True, since=state.now + LEASE)),
        )

    def _edited(self, state: State, request: Node, ruled_at: Instant) -> tuple[State, Applied]:
        applied = self._apply(state.store, request, edits=True)
        if applied.store is state.store:
            return state, applied
        memory = state.memory
        edited = judge_edit(
            _records(state.store), _records(applied.store), ruled_at, self.combination, memory.started
        )
        return state._replace(store=applied.store, memory=memory._replace(edited=edited)), applied

    def _sent(self, state: State, sent: Sent) -> Next:
        rest = list(state.sent)
        rest.remove(sent)
        state = state._replace(sent=tuple(rest))
        label = ("late", sent.request.value.verb)
        if sent.edits:
            return label, self._edited(state, sent.request, sent.ruled_at)[0]
        return label, self._judged(state, self._apply(state.store, sent.request))

    # --- Time ----------------------------------------------------------------------------------------------------

    def _at(self, state: State, at: Instant) -> State:
        for worker in state.workers:
            for run in worker.runs:
                if worker.late != "process" and at > run.lease_until:
                    raise BrokenError(f"a run goes on after its lease was used up at {run.lease_until}")
        for who, worker in enumerate(state.workers):
            if worker.resumed:
                state = _put(state, who, worker._replace(resumed=False))
        sent = tuple(sent for sent in state.sent if sent.until > state.now)
        return state._replace(now=at, sent=sent)

    def _next_instant(self, state: State) -> Instant | None:
        """Return the next instant at which something may happen that cannot happen now."""
        now = state.now
        offsets = {worker.offset for worker in state.workers}
        found: list[Instant] = []
        for node in state.store:
            record: Record = node.value
            at = _claimable_at(record)
            if at is not None and self._is_in_scope(record):
                found += [at - offset for offset in offsets]
        if state.editor.late:
            found.append(state.editor.since)
        found += [sent.until for sent in state.sent]
        for worker in state.workers:
            if worker.late:
                found.append(worker.since)
            if worker.late != "process":
                for run in worker.runs:
                    found += [run.lease_until, run.look_at, run.ask_at - worker.offset]
            else:
                found += [run.lease_until for run in worker.runs]
        if found or any(worker.late for worker in state.workers) or state.editor.late:
            found.append(self._calm)
        return min((at for at in found if now < at < NEVER // 2), default=None)

    def _is_in_scope(self, record: Record) -> bool:
        """Say whether a record is still of interest: the occurrences after the last one are not."""
        if record.due_at is not None and record.due_at <= self._last:
            return True
        return record.state.started is not None or record.attempt > 0 or bool(record.key.occurrence)

    def _has_work(self, state: State, worker: Worker) -> bool:
        now = state.now + worker.offset
        if (now - BASE) % TICK and state.now < self._calm:
            return False
        for node in state.store:
            at = _claimable_at(node.value)
            if at is not None and at <= now and self._is_in_scope(node.value):
                return True
        return False

    def _claiming(self, state: State, worker: Worker) -> Step:
        used = {ref[2] for ref in self._refs(state) if ref[0] == "lease"}
        lease = next(id_ for id_ in LEASES if id_ not in used)
        args = (PARTITION, self.combination.records, lease)
        return self._calls.begun(Call("work", args, worker.offset, state.now))

    @staticmethod
    def _refs(state: State) -> Iterator[Ref]:
        for node in state.store:
            yield from node.refs
        for worker in state.workers:
            for run in worker.runs:
                yield from run.held.refs
            if worker.call is not None:
                yield from worker.call.refs
            if worker.answer is not None:
                yield from worker.answer.refs
        for sent in state.sent:
            yield from sent.request.refs
        if state.editor.call is not None:
            yield from state.editor.call.refs

    # --- The store -----------------------------------------------------------------------------------------------

    def _apply(self, store: tuple[Node, ...], request: Node, *, edits: bool = False) -> Applied:
        """Carry out *request* on the store in memory, which is made anew of its records."""
        applied = self._applied.get((store, request))
        if applied is None:
            value: Request = request.value
            memory = MemoryStore(MemoryBackend(lambda: 0))
            shelf = memory.backend.shelf(PARTITION)
            for node in store:
                shelf.put(node.value)
            answer = _ran(getattr(memory, value.verb)(*value.args))
            if value.verb == "load":
                after = store
            else:
                node_of = self._values.node
                after = tuple(node_of(record) for _, record in sorted(shelf.records.items()))
                after = self._stores.setdefault(after, after)
            judged = Judged()
            if not edits and after is not store:
                judged = judge_write(_records(store), _records(after))
            applied = Applied(after, self._values.node(answer), judged)
            self._applied[store, request] = applied
        return applied

    def _judged(self, state: State, applied: Applied) -> State:
        """Return *state* after a worker's write."""
        if applied.store is state.store:
            return state
        state = state._replace(store=applied.store)
        judged = applied.judged
        if judged.completed:
            memory = state.memory
            for time in judged.lost:
                if time not in memory.started and not memory.cut:
                    raise BrokenError(f"{time} is lost, although no worker died and no handler was called")
            again = [time for time in judged.completed if time in memory.completed]
            if again:
                raise BrokenError(f"{again} have a second outcome")
            completed = memory.completed.union(judged.completed)
            state = state._replace(memory=memory._replace(completed=completed))
        return state

    # --- Telling -------------------------------------------------------------------------------------------------

    def _told(self, error: BrokenError, state: State, trace: Trace | None) -> str:
        lines = []
        while trace is not None:
            lines.append(" ".join(_readable(part) for part in trace.label))
            trace = trace.before
        stored = [_described(node.value) for node in state.store]
        return "\n".join([f"{self.combination}: {_readable(str(error))}", *lines[::-1], *stored])


LEASES: Final = [LeaseId(f"lease-{number}") for number in range(100)]


def _faults_left(found: Next) -> int:
    return found[1].faults


def _ran(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the store in memory waits for nothing")


def _records(store: tuple[Node, ...]) -> dict[Key, Record]:
    return {node.value.key: node.value for node in store}


def _claimable_at(record: Record) -> Instant | None:
    at = record.claimable_at
    if at is None or record.lease is None:
        return at
    return max(at, record.lease.expires_at)


def _put(state: State, who: int, worker: Worker) -> State:
    other = state.workers[1 - who]
    return state._replace(workers=(worker, other) if who == 0 else (other, worker))


def _cut(state: State) -> State:
    memory = state.memory
    return state if memory.cut else state._replace(memory=memory._replace(cut=True))


def _readable(part: Any) -> str:
    if isinstance(part, int) and part >= BASE:
        return f"+{(part - BASE) / SECOND:g} s"
    if isinstance(part, str):
        words = []
        for word in part.split():
            bare = word.strip("(),:")
            at = int(bare) if bare.isdigit() else 0
            words.append(word.replace(bare, f"+{(at - BASE) / SECOND:g} s") if at >= BASE else word)
        return " ".join(words)
    if isinstance(part, int) and abs(part) >= SECOND // 2:
        return f"{part / SECOND:+g} s"
    return str(part)


def _described(record: Record) -> str:
    lease = (
        "none" if record.lease is None else f"{record.lease.id} until {_readable(record.lease.expires_at)}"
    )
    counts = record.state.summary.counts
    counted = ", ".join(
        f"{name} {number}" for name in counts.__struct_fields__ if (number := getattr(counts, name))
    )
    return (
        f"  {record.key.task}@{record.key.occurrence} v{record.version} due {_readable(record.due_at)}"
        f" claimable {_readable(record.claimable_at)} attempt {record.attempt} lease {lease}"
        f" started {record.state.started} counted: {counted}"
    )
