"""Writes tables of Markdown, and puts what was measured into a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

NAMES = {
    "postgres": "PostgreSQL",
    "redis": "Redis",
    "mariadb": "MariaDB",
    "mysql": "MySQL",
    "dynamodb": "DynamoDB Local",
    "sqlite": "SQLite",
}
"""Backends as tables and figures call them, in their order."""

BEGIN = "<!-- measured: begin (make bench) -->"
END = "<!-- measured: end -->"


def put_into(page: Path, text: str, begin: str = BEGIN) -> None:
    """Replace what stands between the mark *begin* of *page* and the next end."""
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n\n{text}\n{END}{after}")


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Return a Markdown table whose first two columns are words, and the rest figures."""
    yield f"| {' | '.join(head)} |"
    yield "|---|---|" + "---:|" * (len(head) - 2)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
