"""Numbers the parameters of a statement by name, so that the statement and its values cannot disagree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Array(NamedTuple):
    """The way in which the values of a column become one parameter."""

    sql: str
    """The expression of the array, with `{}` for the parameter."""
    encode: Callable[[Sequence[Any]], Any]
    """Turns the values into what the driver takes."""


Columns = Mapping[str, Array]


class Parameters:
    """
    The parameters of one statement: *tables* of named columns, each column one array, and then *scalars*.

    The order in which they are declared gives each its number, in the statement and among the values alike.
    """

    def __init__(self, scalars: Sequence[str] = (), **tables: Columns) -> None:
        self._tables = tables
        self._scalars = scalars
        numbers = itertools.count(1)
        self._arrays = {
            name: {column: array.sql.format(f"${next(numbers)}") for column, array in columns.items()}
            for name, columns in tables.items()
        }
        self._numbers = {scalar: f"${next(numbers)}" for scalar in scalars}

    def __getitem__(self, scalar: str) -> str:
        """Return the parameter *scalar*, such as `$7`."""
        return self._numbers[scalar]

    def unnest(self, table: str, columns: Iterable[str] = (), *, alias: str = "u", position: str = "") -> str:
        """
        Return a table expression of *columns* of *table*, which are all unless some are named.

        With *position* a column of that name numbers the rows from 1.
        """
        arrays = self._arrays[table]
        chosen = tuple(columns) or tuple(arrays)
        values = ", ".join(arrays[column] for column in chosen)
        names = ", ".join((*chosen, position) if position else chosen)
        return f"unnest({values}){' WITH ORDINALITY' if position else ''} AS {alias}({names})"

    def values(self, scalars: Sequence[Any] = (), **tables: Mapping[str, Sequence[Any]]) -> tuple[Any, ...]:
        """Return the values of all parameters in order: the columns of each table by name, then *scalars*."""
        assert len(scalars) == len(self._scalars)
        values = []
        for name, columns in self._tables.items():
            given = tables[name]
            assert given.keys() == columns.keys()
            values += [array.encode(given[column]) for column, array in columns.items()]
        return *values, *scalars
