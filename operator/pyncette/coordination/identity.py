"""Identifies databases: by a record that copies share, and by a secret that only one database holds."""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from pyncette.core.record import RESERVED_REALMS, Change, Key, Partition, inert_record, replace
from pyncette.core.spec import Spec
from pyncette.errors import StoreUnavailableError
from pyncette.store.base import Store

IDENTITY_REALM: Final = f"{RESERVED_REALMS}backend"

_IDENTITY: Final = Key(Partition(IDENTITY_REALM, "identity"), "identity")
_PROOFS: Final = Partition(IDENTITY_REALM, "proof")


async def identity_of(store: Store) -> bytes:
    """
    Return the identity of the database of *store*. Write a new one if it has none. Raises StoreError.

    It proves nothing: a copy has the same identity, and any writer to the database can write any identity.
    """
    (record,) = await store.load([_IDENTITY])
    if record is None:
        await store.swap([Change(None, inert_record(_IDENTITY, _new_identity(), await store.now()))])
        (record,) = await store.load([_IDENTITY])
    if record is None:
        raise StoreUnavailableError("a record that was just written is missing")
    return bytes(record.spec.args)


async def renew_identity(store: Store) -> bool:
    """Give the database of *store* a new identity. Return False if it was changed meanwhile. Raises StoreError."""
    (record,) = await store.load([_IDENTITY])
    if record is None:
        after = inert_record(_IDENTITY, _new_identity(), await store.now())
    else:
        after = replace(record, spec=_new_identity(), version=record.version + 1)
    (made,) = await store.swap([Change(record, after)])
    return made


class Proof:
    """
    A secret value in the database of *store*. Another connection that reads it leads to the same database.

    A tenant of the other database can neither read nor guess the value. The key does not contain it, since the key is sent
    to the other database. If the operator dies before `remove`, the record stays.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = Key(_PROOFS, secrets.token_hex(16))
        self._nonce = msgspec.Raw(msgspec.json.encode(secrets.token_hex(16)))

    async def write(self) -> None:
        """Write the value. Raises StoreError."""
        record = inert_record(self._key, Spec(args=self._nonce), await self._store.now())
        (made,) = await self._store.swap([Change(None, record)])
        if not made:
            raise StoreUnavailableError("a record with a new name could not be written")

    async def is_seen_by(self, other: Store) -> bool:
        """Return whether *other* reads the value, so that both lead to one database. Raises StoreError."""
        (record,) = await other.load([self._key])
        return record is not None and secrets.compare_digest(bytes(record.spec.args), bytes(self._nonce))

    async def remove(self) -> None:
        """Remove the value. Raises StoreError."""
        (record,) = await self._store.load([self._key])
        if record is not None:
            await self._store.swap([Change(record, None)])


def _new_identity() -> Spec:
    return Spec(args=msgspec.Raw(msgspec.json.encode({"id": secrets.token_hex(16)})))
