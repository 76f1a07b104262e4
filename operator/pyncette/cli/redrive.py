"""Redrives dead letters, and resumes tasks that were suspended after their last attempt failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from pyncette.cli.stored import backend_clock, find_record
from pyncette.cli.survey import PAGE
from pyncette.core.record import Key, Record
from pyncette.ledger.ledger import Ledger, Rule
from pyncette.mirror import requests
from pyncette.store.base import Store
from pyncette.store.scanning import side_records


class Redriven(NamedTuple):
    """The result of a redrive or a resumption."""

    done: int
    """The number of dead letters that were redriven, or of suspensions that ended."""
    suspended: bool
    """The task is also suspended by its manifest, which no command ends."""


async def redrive(store: Store, realm: str, name: str, handler: str | None = None) -> Redriven:
    """
    Redrive the dead letters of the task or instance *name*; for a template, those of all its instances.

    With *handler*, only the tasks of that handler. Dead letters that are being redriven already are not affected. Raises
    Failure if there is no such task.
    """
    return await _applied(store, realm, name, handler, requests.redriven)


async def resume(store: Store, realm: str, name: str, handler: str | None = None) -> Redriven:
    """
    Resume the task or instance *name* if its last attempt suspended it; for a template, all its instances.

    With *handler*, only the tasks of that handler. The next occurrence is the first from now. Raises Failure if there is
    no such task.
    """
    return await _applied(store, realm, name, handler, requests.resumed)


async def _applied(store: Store, realm: str, name: str, handler: str | None, rule: Rule) -> Redriven:
    ledger = Ledger(store, await backend_clock(store))
    done = 0
    found = suspended = False
    async for page in _all_of(store, realm, name, handler):
        found = True
        suspended = suspended or any(_is_suspended(record) for record in page)
        done += await requests.apply_where(ledger, page, rule)
    if not found:
        await find_record(store, realm, name, handler)  # raises
    return Redriven(done, suspended)


def _is_suspended(record: Record) -> bool:
    return not record.key.occurrence and record.spec.policies is not None and record.spec.policies.suspend


async def _all_of(store: Store, realm: str, name: str, handler: str | None) -> AsyncIterator[list[Record]]:
    """Yield pages of the records of the task NAME and its instances, or of TASK/INSTANCE, with their side runs."""
    task, _, instance = name.partition("/")
    for partition in await store.partitions(realm):
        if handler not in {None, partition.handler}:
            continue
        after: Key | None = None
        while page := await store.scan(partition, name, after, PAGE):
            yield page
            after = page[-1].key
        if instance:
            key = Key(partition, task, instance)
            if home := [record for record in await store.load([key]) if record is not None]:
                yield home
            async for page in side_records(store, key):
                yield page
