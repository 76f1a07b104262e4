"""Detects backends that share one database, and databases that are copies of another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, TypeVar

from pyncette.coordination.identity import Proof, identity_of
from pyncette.errors import StoreError, StoreUnavailableError
from pyncette.store.base import Store
from pyncette.store.cancellation import leaks_as_errors

logger = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 10.0
"""Time limit for a response. A backend that takes longer is unavailable."""

T = TypeVar("T")


async def answered(call: Awaitable[T]) -> T:
    """Return the result of *call*. Raises StoreUnavailableError after `ANSWER_SECONDS`, and StoreError."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await call
    except TimeoutError:
        raise StoreUnavailableError(f"no response within {ANSWER_SECONDS:g} seconds") from None


async def _is_seen(proof: Proof, other: Store) -> bool:
    """Return whether *other* reads the *proof*. Raises any error, but no CancelledError for a fault of *other*."""
    with leaks_as_errors():
        return await answered(proof.is_seen_by(other))


class Databases:
    """
    The databases behind the backends, as far as these were opened.

    Two backends share a database if a value that was written through one was read through the other. Nothing else proves
    it: tenants write the rows, and may write the identity of another team's database into their own. A backend is ready
    only after it was compared with all others that are open. So no task is written before that is decided, and the order
    of opening has no influence.

    *on_unavailable* is called with another backend that failed in a comparison, and with the error. *on_change* is called
    with each backend whose store name changed, or that became a copy or ceased to be one.
    """

    def __init__(
        self, on_unavailable: Callable[[str, Exception], None], on_change: Callable[[str], None]
    ) -> None:
        self._on_unavailable = on_unavailable
        self._on_change = on_change
        self._stores: dict[str, Store] = {}
        """By backend: the connection, while it is open and responds."""
        self._ranks: dict[str, int] = {}
        """By backend: the order of the first opening."""
        self._identities: dict[str, bytes] = {}
        """By backend: the identity that its database claimed last."""
        self._compared: dict[frozenset[str], bool] = {}
        """By pair of backends: whether they shared a database in the last comparison."""
        self._store_names: dict[str, str] = {}
        self._copies: set[str] = set()
        """Backends whose databases claim the identity of a different database."""

    def store_name(self, name: str) -> str:
        """Return the name of the first opened backend that shares the database of the backend *name*."""
        return self._store_names.get(name, name)

    def is_copy(self, name: str) -> bool:
        """Return whether the backend *name* and another one have different databases with one identity, so that one is a copy."""
        return name in self._copies

    def disconnected(self, name: str) -> None:
        """Record that the backend *name* is unavailable."""
        self._stores.pop(name, None)

    async def check(self, name: str, store: Store) -> None:
        """Raise StoreError unless *store* still has the identity with which the backend *name* was compared."""
        if await answered(identity_of(store)) != self._identities.get(name):
            raise StoreUnavailableError(
                "the connection leads to another database, or the identity of the database was changed"
            )

    async def compare(self, name: str, store: Store, *, fresh: bool, again: bool) -> None:
        """
        Compare *store*, the connection of the backend *name*, with all other open backends. Raises StoreError if it fails.

        A *fresh* connection may lead to another database than the one before, so earlier results are dropped. A comparison
        that is made *again*, of a backend that is ready, is limited to backends that share its database or claim to.
        """
        self._identities[name] = await answered(identity_of(store))
        self._ranks.setdefault(name, len(self._ranks))
        self._stores[name] = store
        found: dict[frozenset[str], bool | None] = dict.fromkeys(self._pairs(name) if fresh else ())
        others = {
            other: connection
            for other, connection in self._stores.items()
            if other != name and not (again and self._is_unlike(name, other))
        }
        if others:
            proof = Proof(store)
            await answered(proof.write())
            found |= await self._comparisons(name, proof, others)
            with contextlib.suppress(StoreError):
                await answered(proof.remove())
        self._update(found)
        if self._stores.get(name) is not store:
            raise StoreUnavailableError("no response while another backend was compared with it")

    async def _comparisons(
        self, name: str, proof: Proof, others: Mapping[str, Store]
    ) -> dict[frozenset[str], bool | None]:
        """Return whether each of *others* reads the *proof* of the backend *name*. Leave out those that fail."""
        answers = await asyncio.gather(
            *(_is_seen(proof, store) for store in others.values()), return_exceptions=True
        )
        found: dict[frozenset[str], bool | None] = {}
        for (other, store), answer in zip(others.items(), answers, strict=True):
            if isinstance(answer, bool):
                found[frozenset({name, other})] = answer
            elif not isinstance(answer, Exception):
                raise answer
            elif self._stores.get(other) is store:
                # It is compared with all others before it is ready again.
                self._on_unavailable(other, answer)
        return found

    def _is_unlike(self, name: str, other: str) -> bool:
        """Return whether two backends neither share a database nor claim to."""
        shared = self._compared.get(frozenset({name, other}), False)
        return not shared and self._identities.get(name) != self._identities.get(other)

    def _pairs(self, name: str) -> Iterator[frozenset[str]]:
        return (pair for pair in self._compared if name in pair)

    def _sharing(self, name: str) -> set[str]:
        """Return the backends that share the database of the backend *name*, itself included."""
        found, new = {name}, [name]
        while new:
            one = new.pop()
            others = {other for pair in self._pairs(one) if self._compared[pair] for other in pair} - found
            found |= others
            new += others
        return found

    def _update(self, found: Mapping[frozenset[str], bool | None]) -> None:
        """Apply the results of a comparison; None: the earlier result for that pair is dropped."""
        before = {name: (self.store_name(name), self.is_copy(name)) for name in self._ranks}
        self._compared |= {pair: shared for pair, shared in found.items() if shared is not None}
        for pair in [pair for pair, shared in found.items() if shared is None]:
            self._compared.pop(pair, None)
        self._store_names = {name: min(self._sharing(name), key=self._ranks.__getitem__) for name in before}
        self._copies = {name for name in before if self._has_copy(name)}
        for name, (store_name, was_copy) in before.items():
            if self.store_name(name) != store_name:
                self._log_store_name(name)
            if self.is_copy(name) and not was_copy:
                self._log_copy(name)
            if (self.store_name(name), self.is_copy(name)) != (store_name, was_copy):
                self._on_change(name)

    def _has_copy(self, name: str) -> bool:
        return any(
            not self._compared[pair] and len({self._identities[other] for other in pair}) == 1
            for pair in self._pairs(name)
        )

    def _log_store_name(self, name: str) -> None:
        store_name = self.store_name(name)
        if store_name == name:
            logger.info("backend has a database of its own", extra={"backend": name})
        else:
            logger.info("two backends share one database", extra={"backend": name, "same_as": store_name})

    def _log_copy(self, name: str) -> None:
        same_identity = sorted(
            other
            for other in self._copies - self._sharing(name)
            if self._identities[other] == self._identities[name]
        )
        logger.warning(
            "the database of a backend is a copy of another one, or was copied; both are used separately: "
            "run `pyncette migrate --new-identity` on the copy",
            extra={"backend": name, "same_identity_as": ", ".join(same_identity)},
        )
