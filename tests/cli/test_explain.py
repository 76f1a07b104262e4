"""`pyncette schedule explain` shows what a schedule means."""

import json

import pytest

from pyncette.cli.explain import explained
from pyncette.cli.failures import ExitCode, Failure
from tests.cli import called


def test_a_schedule_is_explained_in_a_terminal_and_to_a_program(tmp_path):
    command = (
        "schedule",
        "explain",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--after",
        "2026-03-28",
        "-n",
        2,
    )

    table = called(*command, cwd=tmp_path)
    code, document = called(*command, "--output", "json", cwd=tmp_path)

    message = (
        "the clocks of Europe/Berlin skip 2026-03-29 02:30, where it is due at 03:00: "
        "write a time outside of 02:00 to 03:00 to avoid that"
    )
    assert table[0] == 0
    assert table[1].splitlines() == [
        "NAME        VALUE",
        "expression  30 2 * * *",
        "time zone   Europe/Berlin",
        "in words    At 02:30",
        "next        Sat 2026-03-28 02:30:00 CET",
        "            Sun 2026-03-29 03:00:00 CEST",
        f"warning: {message}",
    ]
    assert code == 0
    assert json.loads(document) == {
        "expression": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "description": "At 02:30",
        "next": ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00"],
        "warnings": [{"reason": "SkippedTime", "message": message}],
    }


def test_an_expression_without_quotes_is_refused_with_what_to_write():
    code, output = called("schedule", "explain", "0", "9", "*", "*", "*")

    assert code == ExitCode.USAGE
    assert output == 'pyncette: put the expression in quotes, so that it is one argument: "0 9 * * *"\n'


@pytest.mark.parametrize(
    ("expression", "timezone", "after", "message"),
    [
        ("61 * * * *", "UTC", None, "[61 * * * *] is not acceptable, out of range; look at the minute, 61"),
        ("0 30 9 * * mon", "UTC", None, 'seconds come last here: write "30 9 * * mon"'),
        ("0 9 * * *", "Tokyo", None, "Invalid timezone specifier 'Tokyo'. Did you mean Asia/Tokyo?"),
        ("H 9 * * *", "UTC", None, "uses H, which needs the key of an instance to be hashed: pass it with --key"),
        ("0 9 * * *", "UTC", "noon", '--after: "noon" is not a time in ISO 8601: write 2030-01-31T09:00'),
    ],
)  # fmt: skip
def test_what_is_invalid_is_refused_with_the_way_out(expression, timezone, after, message):
    with pytest.raises(Failure) as refused:
        explained(expression, timezone, after, 5, "")

    assert refused.value.message.endswith(message)
    assert refused.value.exit_code == ExitCode.USAGE


def test_a_time_with_an_offset_is_that_instant():
    found = explained("0 9 * * *", "Asia/Tokyo", "2030-01-31T00:00:00Z", 1, "").as_json()

    assert found["next"] == ["2030-02-01T09:00:00+09:00"]


@pytest.mark.parametrize(
    "after", ["0001-01-01", "9999-12-31", "0001-01-01T00:00+14:00", "9999-12-31T23:59-12:00"]
)
def test_the_ends_of_time_are_no_error(after):
    assert explained("0 9 * * *", "Asia/Tokyo", after, 2, "").as_json()["warnings"] == []


def test_an_expression_whose_years_have_passed_has_no_next_time():
    found = explained("0 0 1 1 * 0 2020", "UTC", None, 5, "")

    assert found.as_json()["next"] == []
    assert ("next", "none: its years have passed") in found.as_table().rows


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("every 5 minutes", 300),
        ("@every 5m", 300),
        ("@every 1h30m", 5400),
        ("EVERY second", 1),
        ("every 3 hrs", 10_800),
        ("every hour", 3600),
        (" every  2 weeks ", 1_209_600),
    ],
)
def test_an_interval_is_refused_with_what_to_write_instead(expression, seconds):
    with pytest.raises(Failure) as refusal:
        explained(expression, "UTC", None, 5, "")

    assert refusal.value.message == (
        f"[{expression}] is an interval, not a cron expression: write intervalSeconds: {seconds} "
        f"instead of schedule, or in Python interval=timedelta(seconds={seconds})"
    )


@pytest.mark.parametrize("expression", ["every 0 s", "every 5 mice", "every", "every 5 months", "run daily"])
def test_what_is_no_interval_is_refused_by_its_fields(expression):
    with pytest.raises(Failure, match="a cron expression has 5"):
        explained(expression, "UTC", None, 5, "")
