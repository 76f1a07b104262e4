"""What the reference page says of schedules is what they do."""

import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pyncette.clock import SECOND
from pyncette.core.misreadings import ScheduleWarning, misreadings
from pyncette.core.schedule import Cron, check, resolve_zone, upcoming
from pyncette.core.schedule_warnings import warnings_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "schedules.md"


def rows(column: str) -> list[dict[str, str]]:
    """The rows of all tables of the page that have this column, by the names of their columns."""
    return [row for row in _all_rows() if column in row]


def _all_rows() -> Iterator[dict[str, str]]:
    header: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not header or not cells:
            header = cells
        elif not set(line) <= set("|-"):
            yield dict(zip(header, cells, strict=True))


def cron_of(row: dict[str, str]) -> Cron:
    return Cron(
        row["expression"].strip("`"), row.get("zone", "").strip("`") or "UTC", row.get("seed", "").strip("`")
    )


def instant(text: str, schedule: Cron) -> int:
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=resolve_zone(schedule.zone))
    return int(moment.astimezone(UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    "row", rows("then due"), ids=lambda row: f"{row['expression']} {row.get('seed', '')}"
)
def test_an_example_is_due_as_the_page_says(row):
    schedule = cron_of(row)
    expected = [instant(text, schedule) for text in row["then due"].split(", ")]

    found = upcoming(schedule, instant(row["after"], schedule), len(expected), 0)

    shown = [str(datetime.fromtimestamp(at // SECOND, resolve_zone(schedule.zone))) for at in found]
    assert found == expected, shown


@pytest.mark.parametrize("row", rows("refused, saying"), ids=lambda row: row["expression"])
def test_what_the_page_says_is_refused_is_refused_with_that_reason(row):
    with pytest.raises(ValueError) as refused:
        check(cron_of(row))

    assert row["refused, saying"].strip("`") in str(refused.value)


@pytest.mark.parametrize("row", rows("warning"), ids=lambda row: row["expression"])
def test_what_the_page_warns_of_is_warned_of_with_these_words(row):
    schedule = cron_of(row)

    found = warnings_of(schedule, instant(row.get("after", "2026-07-02"), schedule))

    said = {warning.reason: warning.message for warning in found}
    assert row["saying"].strip("`") in said[row["warning"].strip("`")]


def test_what_the_page_says_leaves_no_doubt_has_no_warning():
    text = re.search(r"There is no warning where (.*?)\.\n\n", PAGE.read_text(), re.DOTALL)[1]
    clear = re.findall(r"`(.*?)`", text)

    assert len(clear) > 4
    assert [expression for expression in clear if misreadings(expression)] == []


def test_the_page_has_an_example_of_each_warning():
    reasons = re.findall(r"`(\w+)`", inspect.getsource(ScheduleWarning))

    assert {row["warning"].strip("`") for row in rows("warning")} == set(reasons)


def test_the_page_has_examples():
    assert len(rows("then due")) > 40
    assert len(rows("refused, saying")) > 5
