"""Values with an identity: equal ones are one node, which knows its shape, its versions, fences and leases apart."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.record import Key, Lease, Record, Summary
from pyncette.core.schedule import Cron
from pyncette.core.spec import Policies, Spec

LOW_VERSIONS: Final = 10**12
"""Records that a history begins with have versions and fences below this: they grow by one, and no clock reaches them."""

TICK: Final[Duration] = 5 * SECOND
"""All that is due, or expires, without a fault is so at a multiple of this, by the clock of somebody."""

ATOMS: Final = frozenset({int, str, bool, type(None), Key})

FIELDS: Final = tuple(
    name
    for name in Record.__struct_fields__
    if name not in {"version", "fence", "schedule_since", "began_at", "locator"}
)

Ref = tuple[str, Any, Any]
"""A version, a fence or a lease: what it is of, and its number. Only its rank among its like counts."""


class LeaseId(str):
    """The id of a lease: only whether two are equal counts."""

    __slots__ = ()


class Node:
    """A value that is equal to no other node's, so that it is compared and hashed by identity."""

    __slots__ = ("refs", "shape", "value")

    def __init__(self, value: Any, shape: int, refs: tuple[Ref, ...]) -> None:
        self.value = value
        self.shape = shape
        """Equal for values that differ in nothing but their `refs`, and in what is only told to people."""
        self.refs = refs


class Values:
    """All values that a search has met."""

    def __init__(self) -> None:
        self._nodes: dict[Any, Node] = {}
        self._by_id: dict[int, tuple[Any, Node]] = {}
        self._constants: dict[int, tuple[Any, int]] = {}
        self._shapes: dict[Any, int] = {}

    def node(self, value: Any) -> Node:
        """Return the one node of *value*."""
        known = self._by_id.get(id(value))
        if known is not None and known[0] is value:
            return known[1]
        whole = self._whole(value)
        node = self._nodes.get(whole)
        if node is None:
            refs: list[Ref] = []
            shape = self.shape(self._shape(value, refs))
            node = self._nodes[whole] = Node(value, shape, tuple(refs))
            self._by_id[id(value)] = (value, node)
        return node

    def shape(self, shape: Any) -> int:
        """Return a number for *shape*, which is equal for equal ones."""
        return self._shapes.setdefault(shape, len(self._shapes))

    def _whole(self, value: Any) -> Any:
        """Return what is equal for equal values, and can be hashed."""
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is Record:
            known = self._by_id.get(id(value))
            if known is not None and known[0] is value:
                return known[1]
        elif kind is Spec or kind is Policies:
            return self._constant(value)
        whole = self._whole
        if isinstance(value, (tuple, list)):
            return (kind, *map(whole, value))
        if isinstance(value, msgspec.Struct):
            return (kind, *map(whole, astuple(value)))
        if isinstance(value, Enum):
            return value.name
        if isinstance(value, msgspec.Raw):
            return bytes(value)
        if isinstance(value, dict):
            return tuple((key, whole(item)) for key, item in value.items())
        return value

    def _shape(self, value: Any, refs: list[Ref]) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is Record:
            return self._shape_of_record(value, refs)
        if kind is Summary:
            # It is told to people, and is the sum of what each write has changed, which is judged write by write.
            return None
        if kind is Spec or kind is Policies:
            return self._constant(value)
        if kind is Lease:
            refs.append(("lease", None, value.id))
            return "lease", value.expires_at
        if kind is LeaseId:
            refs.append(("lease", None, value))
            return "lease id"
        if isinstance(value, (tuple, list)):
            return (kind, *[self._shape(item, refs) for item in value])
        if isinstance(value, msgspec.Struct):
            return (kind, *[self._shape(item, refs) for item in astuple(value)])
        return self._whole(value)

    def _shape_of_record(self, record: Record, refs: list[Ref]) -> Any:
        for name, number in (("version", record.version), ("fence", record.fence)):
            if number < LOW_VERSIONS:
                refs.append((name, record.key, number))
        fields = [self._shape(getattr(record, name), refs) for name in FIELDS]
        since = record.schedule_since
        if isinstance(record.spec.schedule, Cron):
            # All times of expressions are whole ticks, and are only asked whether they are later than this.
            since //= TICK
        return (
            since,
            None if record.began_at is None else _between_ticks(record.began_at),
            record.version if record.version >= LOW_VERSIONS else None,
            record.fence if record.fence >= LOW_VERSIONS else None,
            *fields,
        )

    def _constant(self, value: Spec | Policies) -> int:
        """Return a number that is equal for equal ones: there are few, and they are large."""
        known = self._constants.get(id(value))
        if known is None or known[0] is not value:
            number = self.shape(("constant", type(value), *map(self._whole, astuple(value))))
            known = self._constants[id(value)] = (value, number)
        return known[1]


def _between_ticks(at: Instant) -> tuple[int, bool]:
    """Return *at* as far as an order among ticks goes: it is one, or lies somewhere between two."""
    return at // TICK, at % TICK == 0


def ranks(refs: list[Ref]) -> tuple[int, ...]:
    """Return *refs* with each version and fence as its rank among those of its record, and each lease as its first place."""
    leases: dict[Any, int] = {}
    numbers: dict[tuple[str, Any], set[int]] = {}
    for kind, of, number in refs:
        if kind == "lease":
            leases.setdefault(number, len(leases))
        else:
            numbers.setdefault((kind, of), set()).add(number)
    places = {
        series: {number: place for place, number in enumerate(sorted(found))}
        for series, found in numbers.items()
    }
    return tuple(leases[number] if kind == "lease" else places[kind, of][number] for kind, of, number in refs)
