"""Draws what `pyncette dev` shows: a table that stays with the latest lines below it, or plain lines one after another."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, NamedTuple, Protocol, Self, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.rule import Rule
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pyncette.cli.dev.state import Line, Picture, Row, row_of
from pyncette.cli.output import GAP, fitted, natural_widths, shortened
from pyncette.cli.survey import Phase, View
from pyncette.core.printable import one_line, printable
from pyncette.core.runs import NEVER

LINES_MAX: Final = 1000
"""Lines kept for the part of the screen below the table: more than any screen has."""

LINES_LEFT: Final = 10
"""Lines that stay in the terminal below the last table, once it is all over."""

NEWS_MAX: Final = 100
"""New tasks that have a line each; more are counted."""

REMARKS_MAX: Final = 8
"""Problems and notes on the screen; the first ones have to be fixed first anyway."""

LINES_MIN: Final = 8
"""Lines on the screen that the table leaves to what handlers say."""

NARROW: Final = 110
"""Columns below which a terminal has no room for everything."""

COLOURS: Final = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}


class Column(NamedTuple):
    """A column of the table of tasks."""

    title: str
    cell: Callable[[Row], str]
    only_wide: bool = False
    justify: Literal["left", "right"] = "left"
    style: Callable[[Row], str] = lambda _: ""


COLUMNS: Final = (
    Column("TASK", lambda row: row.task),
    Column("SCHEDULE", lambda row: row.schedule, only_wide=True),
    Column("NEXT", lambda row: row.next),
    Column("LAST", lambda row: row.last, style=lambda row: "green" if row.healthy else "red"),
    Column("LATE", lambda row: row.late, only_wide=True, justify="right"),
    Column("RUNNING", lambda row: row.running, justify="right"),
    Column("SO FAR", lambda row: row.counts),
)

YIELDING: Final = ("SO FAR", "SCHEDULE", "LAST", "NEXT", "TASK")
"""The columns that are narrowed where there is too little room, the first one first: without its name a row says nothing."""


class Screen(Protocol):
    """Where the person looks."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def line(self, line: Line) -> None:
        """Show one more line."""
        ...

    def draw(self, picture: Picture) -> None:
        """Show how everything stands now."""
        ...


class PlainScreen:
    """One line after another, each once: for files, pipes, and terminals that are not one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._said: dict[str, str] = {}
        self._before: Picture | None = None
        self._broken: BrokenPipeError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def line(self, line: Line) -> None:
        level = "" if line.level == "INFO" else f"{line.level} "
        self._print(f"{line.at:%H:%M:%S} {level}{line.text}")

    def draw(self, picture: Picture) -> None:
        """
        Print what is new: progress alone has its own lines already.

        Raises BrokenPipeError once the reader has gone.
        """
        if self._broken is not None:
            raise self._broken
        before = self._before or Picture(picture.now, "", "")
        if picture.title != before.title:
            self._print(f"{picture.title}; {picture.status}")
        for problem in picture.problems:
            if problem not in before.problems:
                self._print(f"problem: {problem}")
        for problem in before.problems:
            if problem not in picture.problems:
                self._print(f"fixed: {problem}")
        for note in picture.notes:
            if note not in before.notes:
                self._print(f"note: {note}")
        self._print_tasks(picture)
        self._before = picture

    def _print_tasks(self, picture: Picture) -> None:
        said = {view.name: _declared(view) for view in picture.views}
        news = [view for view in picture.views if self._said.get(view.name) != said[view.name]]
        for view in news[:NEWS_MAX]:
            row = row_of(view, picture.now)
            self._print(f"task: {view.name}: {', '.join(filter(None, (row.schedule, _plainly(view, row))))}")
        if len(news) > NEWS_MAX:
            self._print(f"and {len(news) - NEWS_MAX} more tasks, which `pyncette tasks` lists")
        self._said = said

    def _print(self, text: str) -> None:
        try:
            # One write a line: handlers and others may write to the same place.
            self._stream.write(f"{printable(text)}\n")
            self._stream.flush()
        except BrokenPipeError as error:
            self._broken = error


def _declared(view: View) -> str:
    """Return what is printed again when it changes: the desired state, not the progress."""
    phase = view.phase
    going = {Phase.SCHEDULED, Phase.RUNNING, Phase.RETRYING}
    return f"{view.schedule} {Phase.SCHEDULED if phase in going else phase}"


def _plainly(view: View, row: Row) -> str:
    is_next = view.next_at is not None and view.retry_at is None and not row.next.startswith("due")
    return f"next {row.next}" if is_next else row.next


class LiveScreen:
    """The whole terminal: the table on top, problems, and the latest lines in the rest."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._lines: deque[Line] = deque(maxlen=LINES_MAX)
        self._picture: Picture | None = None
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._picture is not None:  # the screen is gone with all that was on it: leave what it came to
            self._console.print(table_of(self._picture, self._console.width))
            for line in list(self._lines)[-LINES_LEFT:]:
                self._console.print(_styled(line), soft_wrap=True)

    def line(self, line: Line) -> None:
        self._lines.append(line)
        if not self._live.is_started:  # what takes long before there is anything to draw has to be seen, too
            self._console.print(_styled(line), soft_wrap=True)

    def draw(self, picture: Picture) -> None:
        self._picture = picture
        self._live.update(_Whole(picture, self._lines), refresh=True)


class _Whole:
    """A picture and the lines that fit below it."""

    def __init__(self, picture: Picture, lines: deque[Line]) -> None:
        self._picture = picture
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        head = head_of(self._picture, options.max_width, options.size.height)
        top = console.render_lines(head, options.update(height=None), pad=False)
        room = max(0, options.size.height - len(top) - 1)
        below = self._fill(console, options, room)
        for line in [*top[: options.size.height - 1], *below]:
            yield from line
            yield Segment.line()

    def _fill(self, console: Console, options: ConsoleOptions, room: int) -> list[list[Segment]]:
        shown: list[list[Segment]] = []
        for line in reversed(self._lines):
            if len(shown) >= room:
                break
            shown = console.render_lines(_styled(line), options.update(height=None), pad=False) + shown
        return shown[-room:] if room else []

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


def head_of(picture: Picture, width: int, height: int) -> Group:
    """Return everything above the lines, for a terminal of this size."""
    remarks = [_text(f"problem: {problem}", "red") for problem in picture.problems]
    remarks += [_text(f"note: {note}", "yellow") for note in picture.notes]
    if len(remarks) > REMARKS_MAX:
        remarks[REMARKS_MAX:] = [Text(f"and {len(remarks) - REMARKS_MAX} more", style="yellow")]
    # What stands there beside the rows: title, status, two empty lines or rules, the names of the columns, "and … more".
    rows_max = max(1, height - len(remarks) - LINES_MIN - 6)
    left_out = len(picture.views) - rows_max
    if left_out > 0:
        picture = picture._replace(views=tuple(sorted(picture.views, key=_urgency)[:rows_max]))
        remarks.insert(0, Text(f"and {left_out} more, which `pyncette tasks` lists", style="dim"))
    return Group(
        _text(picture.title, "bold"),
        _text(picture.status, "dim"),
        Text(),
        table_of(picture, width),
        *remarks,
        Rule(style="dim"),
    )


def _urgency(view: View) -> tuple[bool, bool, int]:
    """Sort what runs first, then what fails, then by the next time."""
    return not view.running, not view.summary.consecutive_failures, view.next_at or NEVER


def table_of(picture: Picture, width: int) -> Table:
    """Return the table of tasks; a narrow terminal gets what matters most."""
    shown = COLUMNS if width >= NARROW else [column for column in COLUMNS if not column.only_wide]
    rows = [row_of(view, picture.now) for view in picture.views]
    cells = [
        [column.title for column in shown],
        *([one_line(column.cell(row)) for column in shown] for row in rows),
    ]
    titles = [column.title for column in shown]
    yielding = [titles.index(title) for title in YIELDING if title in titles]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", expand=False)
    widths = fitted(natural_widths(cells), width, yielding)
    for column, fits in zip(shown, widths, strict=True):
        table.add_column(column.title, width=fits, justify=column.justify, no_wrap=True, overflow="ellipsis")
    for row, texts in zip(rows, cells[1:], strict=True):
        styles = [column.style(row) for column in shown]
        table.add_row(
            *(
                Text(shortened(text, width), style=style)
                for text, width, style in zip(texts, widths, styles, strict=True)
            )
        )
    return table


def _text(text: str, style: str) -> Text:
    return Text(printable(text), style=style)


def _styled(line: Line) -> Text:
    text = Text(f"{line.at:%H:%M:%S} ", style="dim", no_wrap=False, overflow="fold")
    text.append(printable(line.text), style=COLOURS.get(line.level, "default not dim"))
    return text
