"""Schedules, removes and lists instances of templates, by rules that the ledger applies."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec

from pyncette.app.instance_edits import Edit
from pyncette.app.modes import datetime_of
from pyncette.app.options import check_instance_name
from pyncette.app.results import ContinuationToken, InstanceResult, ListTasksResponse, TaskState
from pyncette.app.results import Lease as Holder
from pyncette.app.tasks import Kind, Task
from pyncette.app.templates import Templates, template_key
from pyncette.clock import Instant
from pyncette.coordination.partition_counts import Mismatch, guarded_by_count
from pyncette.coordination.permit_records import permit_partition, remove_permits
from pyncette.core import edits
from pyncette.core.edits import Locked
from pyncette.core.policies import next_due
from pyncette.core.record import Change, Key, Partition, Record, replace
from pyncette.core.schedule import Once, check_ahead
from pyncette.core.spec import Policies, Spec
from pyncette.errors import ConfigurationError, StoreError, TaskLockedException
from pyncette.ledger.ledger import Ledger, Rule, Ruling, withdrawal
from pyncette.store.base import ANSWER_RECORDS_MAX

BATCHES_IN_FLIGHT: Final = 4
"""Batches of `schedule_many` that are written at the same time. More would only wait in the backend."""

_Text: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^\0]*$")]

Place: TypeAlias = tuple[_Text, Annotated[int, msgspec.Meta(ge=0)], _Text, _Text]
"""What a continuation token holds: a task, a partition, an instance and an occurrence. Clients of a web program send it."""

_T = TypeVar("_T")


class InstanceRequest(NamedTuple):
    """An instance that is wanted, checked and ready to be stored."""

    name: str
    key: Key
    spec: Spec
    policies: Policies
    """Its own, or else the common ones."""
    common: Policies
    """Those of its template."""


Entry: TypeAlias = "InstanceRequest | InstanceResult"
"""One item of a batch: a request to write, or the result of an invalid item."""


class Instances:
    """The instances of one realm."""

    def __init__(self, ledger: Ledger, templates: Templates, realm: str, page_size: int) -> None:
        self._ledger = ledger
        self._templates = templates
        self._realm = realm
        self._page_size = page_size

    async def schedule(self, task: Task, name: str, options: Mapping[str, Any], edit: Edit) -> Task:
        """
        Create or update an instance.

        Raises TaskLockedException if it runs, unless forced to overwrite it; ConfigurationError if the partition count differs.
        """
        _require_template(task)
        request = self._request(task, name, options)
        over = refusal_if_over(request.spec, request.policies, await self._ledger.now())
        if over is not None:
            raise over
        template = template_key(self._realm, task.name)
        rules = guarded_by_count(template, task.partition_count, {request.key: _scheduling(request, edit)})
        answers = await self._ledger.apply(rules)
        instance = task._instance(name, request.spec, request.policies)
        _refuse(instance, answers[request.key])
        return instance

    async def unschedule(self, task: Task, name: str | None) -> None:
        """Remove an instance, or the record of a task with a schedule of its own, if it exists."""
        task, key = self._find(task, name)
        await self._ledger.apply({key: withdrawal(self._templates.common(task).policies)})
        if task._kind is Kind.STATIC and task._policies.max_concurrent:
            permits = permit_partition(self._realm, task.name, task.name)
            await remove_permits(self._ledger.store, permits, task.name, await self._ledger.now())

    async def state(self, task: Task, name: str | None) -> TaskState | None:
        """Return the state of an instance, or of a task with a schedule of its own; None if it does not exist."""
        _require_task(task)
        if name is not None and task._kind is not Kind.TEMPLATE:
            if task.parent_task is not None:
                raise ValueError(
                    f"Cannot provide instance_name with already-instantiated dynamic task; {task} is an instance itself"
                )
            raise ValueError(f"instance_name provided but task is not dynamic; {task} has no instances")
        task, key = self._find(task, name)
        (record,) = await self._ledger.store.load([key])
        if record is None:
            return None
        # Without a lease the time does not matter, so it is not read.
        now = 0 if record.lease is None else await self._ledger.now()
        return _state(task, record, now, self._templates.common(task).policies)

    def schedule_many(
        self, task: Task, items: Iterable[_Item] | AsyncIterable[_Item], edit: Edit
    ) -> AsyncIterator[InstanceResult]:
        """Create or update instances, given as pairs of name and options. Raises ConfigurationError like `schedule`."""
        _require_template(task)
        self._templates.require_served(task)

        def prepared(item: _Item) -> Entry:
            name, options = item
            try:
                return self._request(task, name, options)
            except Exception as error:  # noqa: BLE001 - one bad item hurts itself only; a selector may raise anything
                return InstanceResult(name, None, error)

        async def write(batch: Sequence[InstanceRequest]) -> list[InstanceResult]:
            return await self._schedule_batch(task, batch, edit)

        return self._streamed(items, prepared, write)

    def unschedule_many(
        self, task: Task, names: Iterable[str] | AsyncIterable[str]
    ) -> AsyncIterator[InstanceResult]:
        """Remove instances by their names."""
        _require_template(task)
        self._templates.require_served(task)

        def prepared(name: str) -> Entry:
            try:
                common = self._templates.common(task).policies
                return InstanceRequest(name, self._key(task, name), _NOTHING, common, common)
            except Exception as error:  # noqa: BLE001 - as above
                return InstanceResult(name, None, error)

        async def write(batch: Sequence[InstanceRequest]) -> list[InstanceResult]:
            answers = await self._apply_each({request.key: withdrawal(request.policies) for request in batch})
            return [InstanceResult(request.name, None, _error(answers[request.key])) for request in batch]

        return self._streamed(names, prepared, write)

    async def page(
        self, task: Task, limit: int | None, token: ContinuationToken | None, prefix: str = ""
    ) -> ListTasksResponse:
        """Return at most *limit* instances whose names begin with *prefix*, and the token of the next page."""
        _require_task(task)
        if task._kind is not Kind.TEMPLATE:
            raise ValueError(f"Cannot list instances of non-dynamic task; {task} has none")
        self._templates.require_served(task)
        limit = self._page_size if limit is None else limit
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if prefix:
            check_instance_name(prefix)
        number, after = (0, None) if token is None else self._position(task, token, prefix)
        now, common = await self._ledger.now(), self._templates.common(task).policies
        states: list[TaskState] = []
        while number < task.partition_count:
            partition = Partition(self._realm, task.name, number)
            wanted = min(limit - len(states), ANSWER_RECORDS_MAX)
            records = await self._scan(partition, task, after, wanted, prefix)
            if not records:
                number, after = number + 1, None
                continue
            after = records[-1].key
            states += [_state(task, record, now, common) for record in records if _is_instance(record.key)]
            if len(states) == limit:
                return ListTasksResponse(states, _token(after))
        return ListTasksResponse(states, None)

    async def _scan(
        self, partition: Partition, task: Task, after: Key | None, limit: int, prefix: str
    ) -> list[Record]:
        """Return the next records of instances whose names begin with *prefix*; none at the end of the partition."""
        store = self._ledger.store
        if after is None and prefix:
            after = Key(partition, task.name, prefix)
            # A scan begins after its key, and that may be the name of an instance.
            (named,) = await store.load([after])
            if named is not None:
                return [named]
        records = await store.scan(partition, task.name, after, limit)
        return [record for record in records if record.key.instance.startswith(prefix)]

    def _request(self, task: Task, name: str, options: Mapping[str, Any]) -> InstanceRequest:
        self._templates.require_served(task)
        common = self._templates.common(task)
        spec = task._spec_of(name, options, common.args, common.policies)
        partition = Partition(self._realm, task.name, task.partition_of(name))
        key = Key(partition, task.name, name)
        return InstanceRequest(name, key, spec, spec.policies or common.policies, common.policies)

    def _key(self, task: Task, name: str) -> Key:
        check_instance_name(name)
        self._templates.require_served(task)
        return Key(Partition(self._realm, task.name, task.partition_of(name)), task.name, name)

    def _find(self, task: Task, name: str | None) -> tuple[Task, Key]:
        """Return the task and the key of a record: of an instance, by template and name or by itself, or of a static task."""
        _require_task(task)
        if task.parent_task is not None:
            task, name = task.parent_task, task.name
        if task._kind is Kind.STATIC and name is None:
            return task, Key(Partition(self._realm, task.name), task.name)
        _require_template(task)
        if name is None:
            raise ValueError(f"instance name must be provided: {task} is a dynamic task")
        return task, self._key(task, name)

    def _position(self, task: Task, token: ContinuationToken, prefix: str) -> tuple[int, Key]:
        try:
            place: Place = msgspec.json.decode(base64.urlsafe_b64decode(token), type=Place)
        except (ValueError, TypeError) as error:
            raise ValueError("not a continuation token of list_tasks") from error
        name, number, instance, occurrence = place
        if name != task.name:
            raise ValueError(f"the continuation token is of the task {name}, not of {task.name}")
        if not instance.startswith(prefix):
            raise ValueError(f"the continuation token is of a list without the prefix {prefix!r}")
        return number, Key(Partition(self._realm, task.name, number), name, instance, occurrence)

    async def _schedule_batch(
        self, task: Task, batch: Sequence[InstanceRequest], edit: Edit
    ) -> list[InstanceResult]:
        """Create new instances in one round trip. Only existing ones are read first."""
        try:
            now = await self._ledger.now()
            await self._templates.refresh()
            self._templates.require_served(task)
        except (ConfigurationError, StoreError) as error:
            return [InstanceResult(request.name, None, error) for request in batch]
        records, answers = [], dict[Key, Any]()
        for request in batch:
            record = edits.created(request.key, request.spec, request.policies, now)
            # perf: a record that is due at some time needs no further check
            over = refusal_if_over(record.spec, request.policies, now) if record.due_at is None else None
            if over is None:
                records.append(record)
            else:
                answers[request.key] = over
        try:
            created = await self._ledger.create(records)
        except StoreError as error:
            return [InstanceResult(request.name, None, answers.get(request.key, error)) for request in batch]
        known = {record.key for record, ok in zip(records, created, strict=True) if not ok}
        if known:
            rules = {request.key: _scheduling(request, edit) for request in batch if request.key in known}
            answers |= await self._apply_each(rules)
        return [_scheduled(task, request, answers.get(request.key)) for request in batch]

    async def _apply_each(self, rules: Mapping[Key, Rule]) -> dict[Key, Any]:
        """Apply *rules* together, each once. The answer of a rule that may not have been written is the error."""
        answers = dict[Key, Any]()
        if rules:
            try:
                await self._ledger.apply(rules, answers)
            except StoreError as error:
                return dict.fromkeys(rules, error) | answers
        return answers

    async def _streamed(
        self,
        items: Iterable[_T] | AsyncIterable[_T],
        prepared: Callable[[_T], Entry],
        write: Callable[[Sequence[InstanceRequest]], Awaitable[list[InstanceResult]]],
    ) -> AsyncIterator[InstanceResult]:
        """Write *items* in batches, a few at once, and yield their results in the order of the items."""
        size = self._ledger.store.capabilities.swap_batch_max
        writing: deque[_Batch] = deque()
        try:
            async for chunk in _chunks(items, size):
                for entries in _without_repeats([prepared(item) for item in chunk]):
                    batch = _Batch(entries)
                    # A repeated name: its earlier item must be written first.
                    again = not all(batch.names.isdisjoint(other.names) for other in writing)
                    while writing and (again or len(writing) == BATCHES_IN_FLIGHT):
                        for result in await writing.popleft().results():
                            yield result
                    batch.start(write)
                    writing.append(batch)
            while writing:
                for result in await writing.popleft().results():
                    yield result
        finally:
            await _abandon(writing)


_Item: TypeAlias = tuple[str, Mapping[str, Any]]

_NOTHING: Final = Spec()


class _Batch:
    """Items with different names, which are written together."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.names = {entry.name for entry in entries}
        self.writing: asyncio.Future[list[InstanceResult]] | None = None
        self._entries = entries

    def start(self, write: Callable[[Sequence[InstanceRequest]], Awaitable[list[InstanceResult]]]) -> None:
        wanted = [entry for entry in self._entries if isinstance(entry, InstanceRequest)]
        self.writing = asyncio.ensure_future(write(wanted))

    async def results(self) -> list[InstanceResult]:
        assert self.writing is not None
        written = await self.writing
        if len(written) == len(self._entries):
            return written
        remaining = iter(written)
        return [next(remaining) if isinstance(entry, InstanceRequest) else entry for entry in self._entries]


def _without_repeats(entries: list[Entry]) -> list[list[Entry]]:
    """Split *entries* where a name is repeated."""
    if len({entry.name for entry in entries}) == len(entries):
        return [entries]
    cut: list[list[Entry]] = [[]]
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            cut.append([])
            names.clear()
        cut[-1].append(entry)
        names.add(entry.name)
    return cut


async def _abandon(batches: Iterable[_Batch]) -> None:
    """Cancel *batches* whose results are no longer read. They may or may not have been written."""
    writings = [batch.writing for batch in batches if batch.writing is not None]
    for writing in writings:
        writing.cancel()
    await asyncio.gather(*writings, return_exceptions=True)


async def _chunks(items: Iterable[_T] | AsyncIterable[_T], size: int) -> AsyncIterator[list[_T]]:
    """Yield *items* in chunks of *size*."""
    if not isinstance(items, AsyncIterable):
        source = iter(items)
        while chunk := list(islice(source, size)):
            yield chunk
        return
    chunk = []
    async for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def declaration(key: Key, spec: Spec, policies: Policies) -> Rule:
    """Return the rule for a declared task: create or edit its record, unless it is up to date."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None:
            return Ruling(Change(None, edits.created(key, spec, policies, now)), spec)
        if record.spec == spec and record.lease_length == policies.lease:
            return Ruling(None, spec)
        return Ruling(Change(record, edits.edited(record, spec, policies, now)), spec)

    return rule


def first_declaration(key: Key, spec: Spec, policies: Policies) -> Rule:
    """Return the rule for a template: keep its first declaration, or that of its resource. Its answer is the spec in effect."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is not None and (record.state.owner is not None or record.spec.partitions is not None):
            return Ruling(None, record.spec)
        return declaration(key, spec, policies)(record, now)

    return rule


def _scheduling(request: InstanceRequest, edit: Edit) -> Rule:
    spec, policies, common = request.spec, request.policies, request.common

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None:
            return Ruling(Change(None, edits.created(request.key, spec, policies, now)))
        if edit is Edit.OVERWRITE:
            after = edits.overwritten(record, spec, policies, now, common=common)
            return Ruling(Change(record, after, edits.withdrawal_rows(record, common, now)))
        rescheduled = edits.rescheduled(
            record, spec, policies, now, keep_sooner=edit is Edit.KEEP_SOONER, common=common
        )
        if isinstance(rescheduled, Locked):
            return Ruling(None, rescheduled)
        if _is_unchanged(record, rescheduled, now):
            return Ruling(None)
        return Ruling(Change(record, rescheduled))

    return rule


def _is_unchanged(before: Record, after: Record, now: Instant) -> bool:
    """
    Return True if *after* runs the same at the same times as *before*, so that it need not be written.

    So processes that all ensure the same instance only read it, and do not write it in turns. Before its due time there
    are no late times, which an edit would withdraw.
    """
    if before.due_at is None or before.due_at <= now:
        return False
    return replace(after, version=before.version, schedule_since=before.schedule_since) == before


def refusal_if_over(spec: Spec, policies: Policies, now: Instant) -> ValueError | None:
    """Return an error if the schedule of a new *spec* has ended: its years are over, or its window is. Else None."""
    try:
        check_ahead(spec.schedule, now)
    except ValueError as error:
        return error
    has_window = policies.not_before is not None or policies.not_after is not None
    if not has_window or isinstance(
        spec.schedule, Once
    ):  # a one-off outside of its window is refused when it is read
        return None
    if next_due(spec.schedule, policies, now, now) is not None:
        return None
    return ValueError(
        "No further time of the schedule lies within not_before and not_after: write a later not_after, "
        "or remove the instance with unschedule_task"
    )


def _scheduled(task: Task, request: InstanceRequest, answer: Any) -> InstanceResult:
    instance = task._instance(request.name, request.spec, request.policies)
    if answer is None:
        return InstanceResult(request.name, instance, None)
    return InstanceResult(
        request.name, None, _locked(instance, answer) if isinstance(answer, Locked) else answer
    )


def _refuse(instance: Task, answer: Any) -> None:
    if isinstance(answer, Mismatch):
        raise answer.error
    if isinstance(answer, Locked):
        raise _locked(instance, answer)


def _locked(instance: Task, locked: Locked) -> TaskLockedException:
    return TaskLockedException(instance, datetime_of(locked.until))


def _error(answer: Any) -> Exception | None:
    return answer if isinstance(answer, Exception) else None


def _state(task: Task, record: Record, now: Instant, common: Policies) -> TaskState:
    lease = record.lease if record.is_leased(now) else None
    stored = task._of_record(record, common)
    in_progress = record.attempt or record.state.started is not None
    due = None if stored.suspend and not in_progress else record.due_at
    return TaskState(
        task=stored,
        scheduled_at=None if due is None else datetime_of(due, record.spec.schedule),
        locked_until=None if lease is None else datetime_of(lease.expires_at),
        locked_by=None if lease is None else Holder(lease.holder),
    )


def _is_instance(key: Key) -> bool:
    """Return True for an instance; False for the record of a template and for side runs."""
    return key.instance != "" and not key.occurrence


def _require_task(task: Any) -> None:
    if not isinstance(task, Task):
        message = (
            f"{task!r} is not a task: pass the function that @app.dynamic_task() or @app.task() decorates"
        )
        raise ValueError(message)  # noqa: TRY004 - as for other arguments


def _require_template(task: Task) -> None:
    _require_task(task)
    if task._kind is not Kind.TEMPLATE:
        raise ValueError(f"Cannot instantiate a non-dynamic task; {task} has no instances")


def _token(after: Key) -> ContinuationToken:
    place = json.dumps([after.task, after.partition.number, after.instance, after.occurrence])
    return ContinuationToken(base64.urlsafe_b64encode(place.encode()).decode())
