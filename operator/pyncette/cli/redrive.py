"""Has tried again what was given up: dead letters, and what is suspended since the attempts of an occurrence were spent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from pyncette.cli.stored import backend_clock, the_record
from pyncette.cli.survey import PAGE
from pyncette.core.record import Key, Record
from pyncette.ledger.ledger import Ledger, Rule
from pyncette.mirror import requests
from pyncette.mirror.records import side_records
from pyncette.store.base import Store


class Again(NamedTuple):
    """What was done."""

    done: int
    """Dead letters, or suspensions, that there were."""
    suspended: bool
    """The task is suspended by its manifest as well, which no command ends."""


async def redrive(store: Store, realm: str, name: str, handler: str | None = None) -> Again:
    """
    Have the dead letters of the task or instance *name* tried again, for a template those of all its instances.

    With *handler* only those that it calls. What is being tried again already is left alone. Raises Failure if there is no such task.
    """
    return await _applied(store, realm, name, handler, requests.redriven)


async def resume(store: Store, realm: str, name: str, handler: str | None = None) -> Again:
    """
    End what suspended the task or instance *name* as attempts were spent, for a template that of all its instances.

    With *handler* only what it calls. The next occurrence is counted from now. Raises Failure if there is no such task.
    """
    return await _applied(store, realm, name, handler, requests.resumed)


async def _applied(store: Store, realm: str, name: str, handler: str | None, rule: Rule) -> Again:
    ledger = Ledger(store, await backend_clock(store))
    done = 0
    found = suspended = False
    async for page in _all_of(store, realm, name, handler):
        found = True
        suspended = suspended or any(_is_suspended(record) for record in page)
        done += await requests.apply_where(ledger, page, rule)
    if not found:
        await the_record(store, realm, name, handler)  # which says so
    return Again(done, suspended)


def _is_suspended(record: Record) -> bool:
    return not record.key.occurrence and record.spec.policies is not None and record.spec.policies.suspend


async def _all_of(store: Store, realm: str, name: str, handler: str | None) -> AsyncIterator[list[Record]]:
    """Yield, in pages, the task NAME with its instances, or the instance TASK/INSTANCE, and what lives beside them."""
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
