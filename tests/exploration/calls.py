"""What workers and the editor do between two requests to the store: the real ledger and the real rules, driven by hand."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, cast
from unittest.mock import patch

from pyncette.clock import STALE_AFTER, Clock, Duration, Instant
from pyncette.core import rules
from pyncette.core.record import Change, Key, Partition, Record
from pyncette.core.runs import UNSTARTED, Completion, Ended, HeldRun
from pyncette.core.spec import Policies
from pyncette.errors import StoreError, StoreUnavailableError
from pyncette.ledger import backend_time, races, starts
from pyncette.ledger.ledger import Ledger, Rule
from pyncette.ledger.starts import PendingStart
from pyncette.store.base import Capabilities, Claimed, Renewal, Renewed
from pyncette.store.memory import CAPABILITIES
from pyncette.worker.occurrence import START_SHARE

from .values import Node, Ref, Values

UNANSWERED: Final = "unanswered"
"""The reply to a request that was lost, or whose reply was."""

HOLDER: Final = "worker"
"""Of all leases: nothing depends on who holds one, but for what people are told."""


class Request(NamedTuple):
    """One request to the store."""

    verb: str
    args: tuple[Any, ...]

    @property
    def only_reads(self) -> bool:
        return self.verb == "load"


class Done(NamedTuple):
    """What a call has come to."""

    result: Any


class Call(NamedTuple):
    """Something to be done, by which an actor can be made anew."""

    kind: str
    args: tuple[Any, ...]
    offset: Duration
    """How far the clock of the actor is ahead."""
    at: Instant
    """When it began."""


class Reply(NamedTuple):
    """A reply of the store, and when it was there."""

    answer: Node
    at: Instant


class Step:
    """A call with the replies so far: an actor is nothing else, and is made anew by giving it the same replies again."""

    __slots__ = ("_after", "before", "call", "effect", "node", "refs", "reply", "shape", "unanswered")

    def __init__(
        self, call: Call, before: Step | None, reply: Reply | None, effect: Request | Done, values: Values
    ) -> None:
        self.call = call
        self.before = before
        self.reply = reply
        self.effect = effect
        """What it asks of the store, or what it has come to."""
        self.node = values.node(effect) if isinstance(effect, Request) else None
        self.unanswered: bool = reply is not None and (
            reply.answer.value == UNANSWERED or (before is not None and before.unanswered)
        )
        self._after: dict[tuple[Node, Instant], Step] = {}
        if before is None:
            node = values.node(call)
            self.shape = node.shape
            self.refs: tuple[Ref, ...] = node.refs
        else:
            assert reply is not None
            self.shape = values.shape((before.shape, reply.answer.shape, reply.at))
            self.refs = before.refs + reply.answer.refs

    @property
    def replies(self) -> list[Reply]:
        replies: list[Reply] = []
        step: Step | None = self
        while step is not None and step.reply is not None:
            replies.append(step.reply)
            step = step.before
        return replies[::-1]


class Calls:
    """All calls that a search has met, as far as each has got."""

    def __init__(self, values: Values, ledger: type[Ledger], model: Mapping[str, Callable[..., Any]]) -> None:
        self._values = values
        self._ledger = ledger
        self._model = model
        self._roots: dict[Node, Step] = {}

    def begun(self, call: Call) -> Step:
        """Return *call* before its first reply."""
        node = self._values.node(call)
        step = self._roots.get(node)
        if step is None:
            step = Step(call, None, None, self._played(call, []), self._values)
            self._roots[node] = step
        return step

    def after(self, step: Step, answer: Node, at: Instant) -> Step:
        """Return the call of *step* once it has got *answer* at *at*."""
        following = step._after.get((answer, at))
        if following is None:
            reply = Reply(answer, at)
            effect = self._played(step.call, [*step.replies, reply])
            following = Step(step.call, step, reply, effect, self._values)
            following = step._after[answer, at] = self._anew(following, at)
        return following

    def _anew(self, step: Step, at: Instant) -> Step:
        """
        Return the same call, begun *at*, if it stands where that does: a race was lost, and what it knew is of no use.

        It then asks for what it asked for first. Only a call that once got no answer may remember that.
        """
        if step.node is None or step.call.kind not in {"settle", "edit"} or step.unanswered:
            return step
        fresh = self.begun(step.call._replace(at=at))
        return fresh if fresh.node is step.node else step

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Let the ledger run without a loop: its pauses take no time, since what may happen in them is explored anyway."""
        with ExitStack() as stack:
            for module in (backend_time, races, starts):
                stack.enter_context(patch.object(module, "asyncio", _WithoutLoop))
            yield

    def _played(self, call: Call, replies: Sequence[Reply]) -> Request | Done:
        clock = _Clock(call.offset, call.at)
        ledger = self._ledger(cast(Any, _Asking()), cast(Clock, clock))
        coroutine: Coroutine[Request, Any, Any] = self._model[call.kind](ledger, clock, *call.args)
        try:
            effect = coroutine.send(None)
            for answer, at in replies:
                clock.at = at
                if answer.value == UNANSWERED:
                    effect = coroutine.throw(StoreUnavailableError("no answer"))
                else:
                    effect = coroutine.send(answer.value)
        except StopIteration as stop:
            return Done(stop.value)
        finally:
            coroutine.close()
        return effect


class _Clock:
    """The time of an actor: that of the last reply, by a clock of its own."""

    def __init__(self, offset: Duration, at: Instant) -> None:
        self._offset = offset
        self.at = at

    def now(self) -> Instant:
        return self.at + self._offset

    expired_at = now

    def is_stale(self, after: Duration = STALE_AFTER) -> bool:
        """Whether the store is to be asked for its time: never, since the offset says how wrong this clock is."""
        return False

    def latest_after(self, delay: Duration) -> Instant:
        return self.now() + delay

    def monotonic(self) -> Duration:
        return self.at


class _WithoutLoop:
    """What the ledger asks of asyncio."""

    @staticmethod
    async def sleep(_: float) -> None:
        """Go on at once."""

    @classmethod
    def get_running_loop(cls) -> type[_WithoutLoop]:
        return cls

    @staticmethod
    def time() -> float:
        return 0.0


class _Ask:
    def __init__(self, request: Request) -> None:
        self._request = request

    def __await__(self) -> Generator[Request, Any, Any]:
        return (yield self._request)


class _Asking:
    """A store whose requests are effects, for the search to carry out."""

    capabilities: Capabilities = CAPABILITIES._replace(notifies=False)

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        if not keys:
            return []
        return cast("list[Record | None]", await _Ask(Request("load", (tuple(keys),))))

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        return cast("list[bool]", await _Ask(Request("swap", (tuple(changes),))))

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        args = (dict(limits), lease_id, holder, now, expired_at, ahead)
        return cast(Claimed, await _Ask(Request("claim", args)))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        return cast(Renewed, await _Ask(Request("renew", (tuple(renewals), now))))


# --- The worker, without its timers ----------------------------------------------------------------------------------


class Ready(NamedTuple):
    """An occurrence whose handler is called now."""

    held: HeldRun
    lease_until: Duration


async def work(
    ledger: Ledger, clock: _Clock, partition: Partition, limit: int, lease_id: str
) -> tuple[Ready, ...]:
    """Claim, and start what was claimed, as `worker/poller.py`, `worker/dispatch.py` and `worker/run.py` do."""
    now, asked_at = clock.now(), clock.monotonic()
    try:
        claimed = await ledger.store.claim({partition: limit}, lease_id, HOLDER, now, clock.expired_at())
    except StoreError:
        return ()
    ready: list[Ready] = []
    unwritten: list[PendingStart] = []
    for record in claimed.records:
        policies = cast(Policies, record.spec.policies)
        plan = rules.begin(record, policies, max(now, cast(Instant, record.claimable_at)))
        lease_until = asked_at + record.lease_length
        if plan.move is not None:
            unwritten.append(PendingStart(plan, policies, lease_until))
        elif plan.run is not None:
            ready.append(Ready(plan.run, lease_until))
    ready += await started(ledger, clock, unwritten)
    return tuple([one for one in [await with_lease(ledger, clock, one) for one in ready] if one is not None])


async def started(ledger: Ledger, _: _Clock, unwritten: Sequence[PendingStart]) -> list[Ready]:
    """Write what has to stand before a run."""
    ready: list[Ready] = []
    async for decided in ledger.start(unwritten):
        ready += [Ready(held, unwritten[at].lease_until) for at, held in decided.items() if held is not None]
    return ready


async def with_lease(ledger: Ledger, clock: _Clock, ready: Ready) -> Ready | None:
    """Renew a lease of which little is left, as `worker/occurrence.py` does, or release the run unstarted."""
    held, lease_until = ready
    short = held.record.lease_length // START_SHARE
    if lease_until - clock.monotonic() >= short:
        return ready
    if clock.monotonic() < lease_until:
        asked_at = clock.monotonic()
        is_held = await renew(ledger, clock, held)
        if is_held is False:
            return None
        if is_held:
            lease_until = max(lease_until, asked_at + held.policies.lease)
            if lease_until - clock.monotonic() >= short:
                return Ready(held, lease_until)
    await settle(ledger, clock, held, UNSTARTED)
    return None


async def settle(ledger: Ledger, clock: _Clock, held: HeldRun, ended: Ended) -> None:
    """Write what became of a run, as `worker/run.py` and `worker/completions.py` do."""
    completion: bool | Completion = rules.settle(held, ended, clock.now())
    again = False
    while isinstance(completion, Completion) and completion.change is not None:
        try:
            (completion,) = await ledger.settle([completion], again=again)
        except StoreUnavailableError:
            again = True


async def renew(ledger: Ledger, clock: _Clock, held: HeldRun) -> bool | None:
    """Renew a lease, and say whether it is still held; None if there was no answer."""
    record = held.record
    assert record.lease is not None
    renewal = Renewal(record.key, record.lease.id, held.policies.lease)
    try:
        renewed = await ledger.store.renew([renewal], clock.now())
    except StoreError:
        return None
    return renewed.held[0]


async def reload(ledger: Ledger, _: _Clock, held: HeldRun) -> HeldRun | None:
    """Learn how the record of a run stands now, as `worker/service.py` does."""
    try:
        return await ledger.reloaded(held)
    except StoreError:
        return held


async def edit(ledger: Ledger, _: _Clock, key: Key, rule: Rule) -> Any:
    """Apply *rule* once."""
    try:
        return (await ledger.apply({key: rule}))[key]
    except StoreError:
        return None


MODEL: Final[Mapping[str, Callable[..., Any]]] = {
    "work": work,
    "settle": settle,
    "renew": renew,
    "reload": reload,
    "edit": edit,
}
