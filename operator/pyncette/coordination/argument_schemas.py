"""Publishes the JSON schemas of the arguments of handlers, so that manifests can be checked where no handler is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from pyncette.clock import Instant
from pyncette.coordination.members import Member
from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, Record, inert_record, replace
from pyncette.core.spec import Spec
from pyncette.ledger.ledger import Rule, Ruling
from pyncette.store.base import ANSWER_RECORDS_MAX, ARGS_BYTES_MAX, Store

logger = logging.getLogger(__name__)

ARGUMENTS_REALM: Final = f"{RESERVED_REALMS}arguments"
"""The schemas of a realm are the partition of this realm with the realm's name as its handler."""

TASK: Final = "arguments"
"""The task of each schema's record: metrics of the backend have it as a label, which must not grow with the handlers."""

SCHEMAS_MAX: Final = 500
"""Handlers of a pool whose arguments are checked, as many as one request loads: a database may hold any number."""


def schema_key(realm: str, handler: str) -> Key:
    """Return the key of the schema of a handler."""
    return Key(Partition(ARGUMENTS_REALM, realm), TASK, handler)


def publication(realm: str, handler: str, schema: dict[str, Any] | None) -> Rule:
    """
    Return the rule that stores the *schema* of a handler, or removes it: without one, it takes any arguments.

    During a rolling deployment, the process that started last wins, as for declarations. A schema that is too large for a
    record is not published.
    """
    key, args = schema_key(realm, handler), None if schema is None else msgspec.json.encode(schema)
    if args is not None and len(args) > ARGS_BYTES_MAX:
        logger.warning(
            "the JSON schema of the arguments of %s is too large to be published: %d bytes",
            handler,
            len(args),
        )
        args = None

    def rule(record: Record | None, now: Instant) -> Ruling:
        if args is None:
            return Ruling(None if record is None else Change(record, None))
        spec = Spec(args=msgspec.Raw(args))
        if record is None:
            return Ruling(Change(None, inert_record(key, spec, now)))
        if record.spec == spec:
            return Ruling(None)
        return Ruling(Change(record, replace(record, spec=spec, version=record.version + 1)))

    return rule


async def published_schemas(store: Store, realm: str, handlers: Iterable[str]) -> dict[str, bytes]:
    """Return the published schemas of *handlers* as JSON, by handler. Raises StoreError."""
    keys = [schema_key(realm, handler) for handler in handlers]
    found: dict[str, bytes] = {}
    for at in range(0, len(keys), ANSWER_RECORDS_MAX):
        chunk = keys[at : at + ANSWER_RECORDS_MAX]
        for key, record in zip(chunk, await store.load(chunk), strict=True):
            if record is not None:
                found[key.instance] = bytes(record.spec.args)
    return found


async def schemas_in_use(
    store: Store, realm: str, workers: Sequence[Member], partitions: Sequence[Partition]
) -> dict[str, bytes]:
    """Return the published schemas of the handlers that tasks name and *workers* have, by handler. Raises StoreError."""
    registered = {handler for worker in workers for handler in worker.handlers}
    named = {partition.handler for partition in partitions}
    return await published_schemas(store, realm, sorted(registered & named)[:SCHEMAS_MAX])
