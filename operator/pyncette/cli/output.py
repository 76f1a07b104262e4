"""Prints what commands found: columns for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click
from rich.cells import cell_len, set_cell_size

GAP: Final = 2
"""Spaces between two columns."""

CELLS_MIN: Final = 10
"""What a column keeps that makes room for others: less says nothing."""


class Table(NamedTuple):
    """Columns for people."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    yielding: Sequence[str] = ()
    """The columns that are narrowed where there is too little room, the first one first."""
    expendable: Sequence[str] = ()
    """The columns that are left out where that is not enough, the first one first."""


def print_json(value: Any) -> None:
    """Print *value* as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(table: Table) -> None:
    """
    Print the rows of *table* under their names, a line each, in columns as wide as they need.

    A terminal gets as much as its width has room for. Anywhere else nothing is cut, so it can be searched.
    """
    names, rows, yielding, expendable = table
    lines = [tuple(names), *(tuple(map(_one_line, row)) for row in rows)]
    widths = natural_widths(lines)
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        widths = fitted(widths, room, [*map(names.index, yielding)], [*map(names.index, expendable)])
    click.secho(_line(lines[0], widths), bold=True)
    for line in lines[1:]:
        click.echo(_line(line, widths))


def natural_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return what each column of *rows* needs, in cells of a terminal."""
    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def fitted(
    widths: Sequence[int], room: int, yielding: Sequence[int], expendable: Sequence[int] = ()
) -> list[int]:
    """
    Return *widths* that with their gaps take no more than *room*, as far as that can be; 0 leaves a column out.

    Columns at the places *yielding* are narrowed, one after another; before that, as many of those at the places
    *expendable* are left out as it takes for that to be enough.
    """
    fits = list(widths)
    for place in expendable:
        least = [min(width, CELLS_MIN) if at in yielding else width for at, width in enumerate(fits)]
        if _taken(least) > room:
            fits[place] = 0
    for place in yielding:
        fits[place] -= max(0, min(_taken(fits) - room, fits[place] - CELLS_MIN))
    return fits


def shortened(cell: str, width: int) -> str:
    """Return *cell* in *width* cells of a terminal, with a sign where something is cut."""
    return cell if cell_len(cell) <= width else f"{set_cell_size(cell, width - 1).rstrip()}…"


def _taken(widths: Sequence[int]) -> int:
    return sum(width + GAP for width in widths if width) - GAP


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = [
        set_cell_size(shortened(cell, width), width)
        for cell, width in zip(cells, widths, strict=True)
        if width
    ]
    return (" " * GAP).join(shown).rstrip()


def _one_line(cell: str) -> str:
    return " ".join(cell.split())
