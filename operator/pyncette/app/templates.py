"""
Keeps the options of templates: those of the decorator, or of the resource that names the handler.

It also keeps the templates that this process cannot serve, since their stored partition count differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from pyncette.app.options import arguments_of, encode_args
from pyncette.app.tasks import Kind, Task
from pyncette.coordination.partition_counts import Mismatch, settle_count, stray_partitions
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Key, Partition, Record, replace
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import ANSWER_RECORDS_MAX

logger = naming_logger(__name__)

READ_SECONDS: Final = 2.0
"""Time between reads of the templates on a backend that is polled anyway. A read loads a few records by key."""

IDLE_READ_SECONDS: Final = 20.0
"""The same on a backend with notifications, or if no template has a resource: an idle worker must cost almost nothing."""


STRAYS_SECONDS: Final = 3 * IDLE_READ_SECONDS
"""Time after a change of a partition count in which other processes may still place instances by the old count."""


class Common(NamedTuple):
    """The options that the instances of a template share."""

    policies: Policies
    """The policies of instances without policies of their own."""
    args: msgspec.Raw | None
    """Default arguments of new instances; None: those of the decorator."""


class Templates:
    """The templates among *tasks*, as this process, *holder*, last read them in one realm."""

    def __init__(self, ledger: Ledger, realm: str, tasks: Iterable[Task], holder: str = "") -> None:
        self._ledger = ledger
        self._realm = realm
        self._holder = holder
        self._by_key = {template_key(realm, task.name): task for task in tasks if task._kind is Kind.TEMPLATE}
        self._of_resources: dict[str, Common] = {}
        """By the name of the template. The fields of a resource override the options of the decorator."""
        self._mismatches: dict[str, Mismatch] = {}
        """By the name of the template: those that this process refuses to serve."""
        self._counts: dict[str, int] = {}
        """The partition counts of the templates that this process serves, as they were stored."""
        self._is_read = False
        self._read_at = -READ_SECONDS
        """The time of the last read, by the event loop."""
        self._unchecked: dict[str, float] = {}
        """Templates to check for instances in unpolled partitions, with the time of the check, by the event loop."""
        self.refusals_changed: Callable[[], None] | None = None
        """Called after a read that changed which templates are refused; set while this process runs tasks."""

    def common(self, task: Task) -> Common:
        """Return the shared options of the instances of *task*."""
        return self._of_resources.get(task.name) or Common(task._policies, None)

    @property
    def refused(self) -> tuple[str, ...]:
        """The templates that this process cannot serve, since their stored partition count differs."""
        return tuple(sorted(self._mismatches))

    def is_served(self, task: Task) -> bool:
        """Return True if this process can claim instances of *task*."""
        return task.name not in self._mismatches

    def require_served(self, task: Task) -> None:
        """Raise ConfigurationError if this process cannot serve *task*, since its stored partition count differs."""
        mismatch = self._mismatches.get(task.name)
        if mismatch is not None:
            raise mismatch.error

    async def refresh(self) -> None:
        """Read the templates, unless they were read within `READ_SECONDS`. Raises StoreError."""
        if _loop_time() >= self._read_at + READ_SECONDS:
            await self.read()

    async def read(self) -> None:
        """Read the records of the templates. Raises StoreError, and then keeps the previous state."""
        if not self._by_key:
            return
        read_at = _loop_time()
        keys = list(self._by_key)
        records = [
            record
            for at in range(0, len(keys), ANSWER_RECORDS_MAX)
            for record in await self._ledger.store.load(keys[at : at + ANSWER_RECORDS_MAX])
        ]
        await self._settle_counts(records)
        self._of_resources = {
            task.name: _common(task, record)
            for task, record in zip(self._by_key.values(), records, strict=True)
            if record is not None and _is_of_a_resource(record)
        }
        self._read_at = read_at

    async def watch(self) -> None:
        """Read the templates periodically, in real time, since other processes change them."""
        while self._by_key:
            await asyncio.sleep(self._pause())
            try:
                await self.read()
            except StoreError as error:
                logger.debug("could not read the templates", extra={"error": str(error)})

    async def _settle_counts(self, records: Iterable[Record | None]) -> None:
        """Find out which templates this process can serve, and log each change."""
        # A program that only schedules may change a count at its start. From then on, only workers may.
        may_change = not self._is_read or self.refusals_changed is not None
        found = dict[str, Mismatch]()
        for task, record in zip(self._by_key.values(), records, strict=True):
            stored = None if record is None else record.spec.partitions
            if record is None or stored is None:
                continue
            mismatch = await settle_count(
                self._ledger, self._realm, self._holder, task, record, may_change=may_change
            )
            if mismatch is not None:
                found[task.name] = mismatch
            elif self._counts.get(task.name) != stored or task.name in self._mismatches:
                is_new = stored == task.partition_count and not {task.name} & (
                    self._counts.keys() | self._mismatches.keys()
                )
                self._counts[task.name] = task.partition_count
                self._unchecked[task.name] = _loop_time() + (0.0 if is_new else STRAYS_SECONDS)
        self._is_read = True
        before, self._mismatches = self._mismatches, found
        for name, mismatch in found.items():
            if before.get(name) != mismatch:
                logger.warning("a handler is refused: %s", mismatch, extra={"task": name})
        for name in before.keys() - found.keys():
            logger.info("a handler is no longer refused", extra={"task": name})
        if before.keys() != found.keys() and self.refusals_changed is not None:
            self.refusals_changed()
        await self._check_for_strays()

    async def _check_for_strays(self) -> None:
        """Warn of instances in partitions that no worker polls: a process with the old count wrote them during a change."""
        now = _loop_time()
        unchecked = [
            task
            for task in self._by_key.values()
            if self._unchecked.get(task.name, _NEVER) <= now and self.is_served(task)
        ]
        if not unchecked:
            return
        store = self._ledger.store
        partitions = await store.partitions(self._realm)
        for task in unchecked:
            count = task.partition_count
            strays = await stray_partitions(store, partitions, task.name, count)
            self._unchecked.pop(task.name, None)
            if strays:
                logger.warning(
                    "instances do not run: they are stored in partitions beyond the %d of their task; "
                    "remove them, and schedule them again",
                    count,
                    extra={"task": task.name, "stray_partitions": strays},
                )

    def _pause(self) -> float:
        if self._mismatches:  # a refused template should be served as soon as possible
            return READ_SECONDS
        polls_anyway = bool(self._of_resources) and not self._ledger.store.capabilities.notifies
        return READ_SECONDS if polls_anyway else IDLE_READ_SECONDS


_NEVER: Final = float("inf")


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def template_key(realm: str, handler: str) -> Key:
    """Return the key of the record of a template. It has the name of the handler, whatever the name of its resource."""
    return Key(Partition(realm, handler), handler)


def _is_of_a_resource(record: Record) -> bool:
    # A resource with a schedule of its own may have the name of a template. Its fields are for its own runs.
    return record.state.owner is not None and record.spec.partitions is not None


def _common(task: Task, record: Record) -> Common:
    policies = record.spec.policies or task._policies
    if record.state.withdrawn_at is not None:  # the resource was deleted: its instances stay, but do not run
        policies = replace(policies, suspend=True)
    return Common(policies, _args(task, record))


def _args(task: Task, record: Record) -> msgspec.Raw | None:
    try:
        return encode_args({**task.extra_args, **arguments_of(record.spec.args)})
    except (TypeError, ValueError) as error:  # a row that Pyncette did not write
        logger.warning(
            "could not read the arguments of a template", extra={"task": task.name, "error": str(error)}
        )
        return None
