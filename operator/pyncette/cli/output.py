"""Prints what commands found: columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print *value* as one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print *rows* under *names*, in columns as wide as they need; nothing is cut, so it can be searched."""
    lines = [tuple(map(_one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
    click.secho(_line(names, widths), bold=True)
    for line in lines:
        click.echo(_line(line, widths))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _one_line(cell: str) -> str:
    return " ".join(cell.split())
