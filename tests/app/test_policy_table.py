"""The table of docs/reference/policies.md has all policies of manifests and of Python, and its rows mean the same in both."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, get_type_hints

import msgspec
import pytest
import yaml

from pyncette import ExecutionMode, Pyncette, Retry
from pyncette.app.policy_options import POLICIES
from pyncette.app.typed_options import RunOptions
from pyncette.mirror.conversion import to_spec
from pyncette.resources.task import RetryPolicy, TaskSpec
from tests.resources import task

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "policies.md").read_text()

NAMES = {
    "Retry": Retry,
    "ExecutionMode": ExecutionMode,
    "timedelta": timedelta,
    "datetime": datetime,
    "UTC": UTC,
}


class Row(NamedTuple):
    manifest: dict
    options: dict


def code_in(cell):
    return re.findall(r"`([^`]+)`", cell)


def rows():
    table = PAGE.partition("| in a manifest |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        manifest, python, _ = line.strip("|").split("|")
        options = eval(f"dict({', '.join(code_in(python))})", NAMES)
        yield Row(yaml.safe_load("\n".join(code_in(manifest))), options)


ROWS = list(rows())


async def a_handler(context):
    pass


def in_yaml(**fields):
    fields = {"schedule": "0 9 * * *", **fields}
    return to_spec(task(**fields)).policies


def in_python(**options):
    declared = Pyncette(defaults="safe").task(schedule="0 9 * * *", **options)(a_handler)
    return declared._own_spec().policies


def differences(policies, from_):
    return {name for name in policies.__struct_fields__ if getattr(policies, name) != getattr(from_, name)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ",".join(row.options))
def test_a_row_means_the_same_in_yaml_and_in_python(row):
    mirrored, declared = in_yaml(**row.manifest), in_python(**row.options)
    changed = differences(mirrored, in_yaml()) | differences(declared, in_python())

    assert changed
    assert not changed & differences(declared, mirrored)


@pytest.mark.parametrize("row", [row for row in ROWS if "max_concurrent_runs" not in row.options], ids=str)
def test_an_instance_takes_the_policies_of_a_row_and_gives_them_back(row):
    template = Pyncette(defaults="safe").dynamic_task()(a_handler)
    spec = template._spec_of("ada", {"schedule": "0 9 * * *", **row.options})

    declared = Pyncette(defaults="safe").dynamic_task(**row.options)(a_handler)
    stored = template._instance("ada", spec)

    assert spec.policies in {declared._policies, None}
    assert {name: getattr(stored, name) for name in row.options} == row.options


def test_the_table_has_all_fields_of_a_manifest_that_are_policies():
    other = set(code_in(re.search(r"The other fields of a manifest are no policies: ([^.]+)\.", PAGE)[1]))
    fields = {field.alias or name for name, field in TaskSpec.model_fields.items()}

    assert {name for row in ROWS for name in row.manifest} == fields - other
    assert other < fields
    numbers = {name for row in ROWS for name in row.manifest.get("retryPolicy", ())}
    assert numbers == {field.alias or name for name, field in RetryPolicy.model_fields.items()}


def test_the_table_has_all_options_of_python_that_are_policies():
    assert {name for row in ROWS for name in row.options} == (POLICIES | {"max_concurrent_runs"}) - {
        "fast_forward",
        "failure_mode",
    }


def test_the_bounds_of_options_are_those_of_a_manifest():
    bounds = {
        "maxCatchUpRuns": "max_catch_up_runs",
        "successfulRunsHistoryLimit": "successful_runs_history_limit",
        "failedRunsHistoryLimit": "failed_runs_history_limit",
    }
    fields = TaskSpec.model_json_schema()["properties"]
    for field, option in bounds.items():
        schema = fields[field]
        limits = next(one for one in schema.get("anyOf", [schema]) if one["type"] == "integer")
        for number in (limits["minimum"], limits["maximum"]):
            in_python(missed="all", **{option: number})
        for number in (limits["minimum"] - 1, limits["maximum"] + 1):
            with pytest.raises(ValueError, match=f"{option} must be an integer from"):
                in_python(missed="all", **{option: number})


def test_the_defaults_of_retry_are_those_of_a_manifest():
    assert Retry().stored == in_yaml().retry
    assert msgspec.structs.asdict(in_python().retry) == msgspec.structs.asdict(in_yaml(retryPolicy={}).retry)


def test_type_checkers_know_all_policies():
    assert get_type_hints(RunOptions).keys() == POLICIES
