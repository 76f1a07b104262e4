"""Prints a list once, or watches it: as a table, or as JSON."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from pyncette.cli.output import (
    Table,
    lines_of,
    print_json,
    print_json_line,
    print_line,
    print_screen,
    print_table,
)
from pyncette.core.printable import one_line
from pyncette.errors import StoreUnavailableError

WATCH_SECONDS: Final = 2.0
"""Time between two reads of a list that is watched."""

WATCH_SHARE: Final = 10
"""Reads take at most one part in this many of the time, so that a long list does not keep the backend busy."""


class Item(NamedTuple):
    """One line of a list."""

    name: str
    """What identifies it in the list."""
    document: Any
    """The value that is printed as JSON."""
    cells: Sequence[str]


class Listing(NamedTuple):
    """A list, and what to know about it."""

    columns: Table
    """The columns, without rows."""
    items: Sequence[Item]
    notes: Sequence[str] = ()
    """Sentences for stderr, such as that there are more."""
    details: Table | None = None
    """What is shown of the single item, instead of a list."""
    latest_first: bool = False

    def as_json(self) -> Any:
        documents = [item.document for item in self.items]
        return documents if self.details is None else documents[0]

    def as_table(self) -> Table:
        if self.details is not None:
            return self.details
        return self.columns._replace(rows=[item.cells for item in self.items])


Read = Callable[[], Awaitable[Listing]]


def show(listing: Listing, output: str) -> None:
    """Print *listing* once, its notes on stderr."""
    if output == "json":
        print_json(listing.as_json())
    else:
        print_table(listing.as_table())
    for note in listing.notes:
        print_line(f"pyncette: {note}", err=True)


async def watch(read: Read, output: str) -> None:
    """
    Print a list again and again, until the command is interrupted. Raises what *read* raises at the first time.

    On a terminal, the table is drawn again. Elsewhere, and as JSON, an item is printed at first and whenever it changes, on
    one line each. While the backend is unavailable, reads are repeated.
    """
    watching = _Screen() if output != "json" and sys.stdout.isatty() else _Changes(output)
    watching.show(await read())
    while True:
        began = time.monotonic()
        try:
            watching.show(await read())
        except StoreUnavailableError as error:
            print_line(f"pyncette: warning: {one_line(str(error))}; retrying", err=True)
        took = time.monotonic() - began
        await asyncio.sleep(max(WATCH_SECONDS, WATCH_SHARE * took))


class _Screen:
    """A terminal, which shows the whole list."""

    def show(self, listing: Listing) -> None:
        size = shutil.get_terminal_size()
        lines = [*lines_of(listing.as_table(), size.columns), *map(one_line, listing.notes)]
        hidden = len(lines) - (size.lines - 1)
        if hidden > 0:
            lines[size.lines - 2 :] = [f"and {hidden + 1} more lines"]
        print_screen(lines)


class _Changes:
    """A pipe or a file, which gets each change."""

    def __init__(self, output: str) -> None:
        self._is_json = output == "json"
        self._shown: dict[str, Any] = {}
        self._notes: Sequence[str] = ()

    def show(self, listing: Listing) -> None:
        items = reversed(listing.items) if listing.latest_first else listing.items
        changed = [item for item in items if self._shown.get(item.name) != item.document]
        if self._is_json:
            for item in changed:
                print_json_line(item.document)
        elif changed or not self._shown:
            self._print_table(listing, changed)
        for note in listing.notes:
            if note not in self._notes:
                print_line(f"pyncette: {note}", err=True)
        self._shown = {item.name: item.document for item in listing.items}
        self._notes = listing.notes

    def _print_table(self, listing: Listing, changed: Sequence[Item]) -> None:
        if listing.details is not None:
            print_table(listing.details)
        else:
            print_table(
                listing.columns._replace(rows=[item.cells for item in changed]), header=not self._shown
            )
