"""Knows what counts for the instances of a template: what its decorator says, or the resource that names its handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from pyncette.core.record import Key, Partition, Record, replace
from pyncette.core.spec import Policies
from pyncette.errors import StoreError
from pyncette.ledger import Ledger
from pyncette.model import arguments_of
from pyncette.options import encode_args
from pyncette.task import Kind, Task

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
"""
How late an edit of a resource may count for the instances of its template, on a backend that is asked again and again
anyway. A look is one read, of a few records by their keys.
"""

QUIET_LOOK_SECONDS: Final = 20.0
"""The same where a worker with nothing to do is to cost next to nothing: where others notify, or no resource rules a template."""


class Common(NamedTuple):
    """What the instances of a template have in common."""

    policies: Policies
    """Of those that have none of their own."""
    args: msgspec.Raw | None
    """Those of new instances that do not say otherwise; None: as the decorator has them."""


class Templates:
    """The templates among *tasks*, in one realm, as they were when they were last read."""

    def __init__(self, ledger: Ledger, realm: str, tasks: Iterable[Task]) -> None:
        self._ledger = ledger
        self._by_key = {template_key(realm, task.name): task for task in tasks if task.kind is Kind.TEMPLATE}
        self._of_resources: dict[str, Common] = {}
        """By the name of the template; a resource's fields win over the decorator's options."""

    def common(self, task: Task) -> Common:
        """Return what counts for the instances of *task*, or for records of it that have no policies of their own."""
        return self._of_resources.get(task.name) or Common(task.policies, None)

    async def read(self) -> None:
        """Read the records of the templates. Raises StoreError, and then what was known before still counts."""
        if not self._by_key:
            return
        records = await self._ledger.store.load(list(self._by_key))
        self._of_resources = {
            task.name: _common(task, record)
            for task, record in zip(self._by_key.values(), records, strict=True)
            if record is not None and _is_of_a_resource(record)
        }

    async def watch(self) -> None:
        """Read them again and again, in real time: it is others who change them."""
        while self._by_key:
            await asyncio.sleep(self._pause())
            try:
                await self.read()
            except StoreError as error:
                logger.debug("templates were not read", extra={"error": str(error)})

    def _pause(self) -> float:
        asks_anyway = bool(self._of_resources) and not self._ledger.store.capabilities.notifies
        return LOOK_SECONDS if asks_anyway else QUIET_LOOK_SECONDS


def template_key(realm: str, handler: str) -> Key:
    """Return where the record of a template is: one handler belongs to one template, whatever its resource is called."""
    return Key(Partition(realm, handler), handler)


def _is_of_a_resource(record: Record) -> bool:
    # A resource with a schedule of its own may have the name of a template; what that says is for its own runs.
    return record.state.owner is not None and record.spec.partitions is not None


def _common(task: Task, record: Record) -> Common:
    policies = record.spec.policies or task.policies
    if record.state.withdrawn_at is not None:  # the resource is gone: instances stay, and none of them runs
        policies = replace(policies, suspend=True)
    return Common(policies, _args(task, record))


def _args(task: Task, record: Record) -> msgspec.Raw | None:
    try:
        return encode_args({**task.extra_args, **arguments_of(record.spec.args)})
    except (TypeError, ValueError) as error:  # a row that nobody of ours wrote
        logger.warning(
            "the arguments of a template cannot be read", extra={"task": task.name, "error": str(error)}
        )
        return None
