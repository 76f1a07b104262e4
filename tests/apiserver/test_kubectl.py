"""What users see: lists, columns, explanations, and the CRDs themselves as kubectl takes them."""

import json

import pytest

from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.task import PyncetteTask
from tests.apiserver import OPERATOR, pool, said, status_of, task
from tests.servers.kubernetes import ROOT, custom_resource_definitions
from tools.custom_resources import open_api_schema


def test_the_crds_are_accepted_without_a_warning_and_cost_what_may_be_spent(apiserver):
    """Strictly, on the server: structural schema, CEL that compiles, its estimated cost within the budget."""
    done = apiserver.kubectl(
        "replace", "--dry-run=server", "--warnings-as-errors", "-f", "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": custom_resource_definitions()}),
    )  # fmt: skip

    assert done.count("replaced (server dry run)") == 2


def test_the_folder_of_crds_is_one_for_kubectl_apply(apiserver):
    done = apiserver.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-k", str(ROOT / "crds")
    )

    assert done.count("serverside-applied (server dry run)") == 2


def test_no_part_of_the_schema_is_ignored_by_the_api_server(apiserver):
    for definition in custom_resource_definitions():
        kept = apiserver.admin.read(definition)["spec"]["versions"]

        assert kept == definition["spec"]["versions"]


def test_both_kinds_are_found_by_short_name_singular_and_category(apiserver, namespace):
    apiserver.admin.create(task(namespace))
    apiserver.admin.create(pool(namespace))

    def names(what):
        return apiserver.kubectl("get", what, f"--namespace={namespace}", "-o", "name").split()

    assert names("pyt") == names("pyncettetask") == ["pyncettetask.pyncette.dev/report"]
    assert names("pyp") == names("pyncetteworkerpool") == ["pyncetteworkerpool.pyncette.dev/default"]
    assert len(names("pyncette")) == 2


def shown(apiserver, namespace, *arguments):
    """What kubectl prints of each object, by the names of the columns."""
    heads, *rows = apiserver.kubectl("get", *arguments, f"--namespace={namespace}").splitlines()
    names = [name for name in heads.split("  ") if name.strip()]
    starts = [heads.index(name) for name in names]
    ends = [*starts[1:], None]
    return [
        {name.strip(): row[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)}
        for row in rows
    ]


def test_kubectl_shows_when_a_task_runs_next_and_how_it_went(apiserver, namespace):
    given = task(namespace, schedule="0 12 * * *", timeZone="Europe/Dublin")
    apiserver.admin.create(given)
    apiserver.admin.apply(
        status_of(
            given,
            active=1,
            conditions=[said("Ready")],
            nextScheduleTime="2090-01-01T12:00:00Z",
            lastSuccessfulTime="2000-01-01T00:00:00Z",
            lastFailureTime="2000-01-01T00:00:00Z",
        ),
        OPERATOR, "status",
    )  # fmt: skip

    [row] = shown(apiserver, namespace, "pyt")
    [wide] = shown(apiserver, namespace, "pyt", "-o", "wide")

    assert list(row) == [
        "NAME",
        "SCHEDULE",
        "HANDLER",
        "SUSPEND",
        "READY",
        "ACTIVE",
        "NEXT",
        "LAST SUCCESS",
        "AGE",
    ]
    assert list(wide) == [*row, "POOL", "TIME ZONE", "LAST FAILURE", "REASON"]
    assert row["SCHEDULE"] == "0 12 * * *"
    assert (row["HANDLER"], row["SUSPEND"], row["READY"], row["ACTIVE"]) == ("send", "false", "True", "1")
    assert row["NEXT"] == "2090-01-01T12:00:00Z"
    assert row["LAST SUCCESS"].endswith("y")
    assert (wide["POOL"], wide["TIME ZONE"], wide["REASON"]) == ("default", "Europe/Dublin", "AsExpected")
    assert wide["LAST FAILURE"].endswith("y")


def test_kubectl_shows_of_every_task_when_it_is_due_however_it_says_so(apiserver, namespace):
    for name, when in (
        ("a", {"schedule": "@daily"}),
        ("b", {"intervalSeconds": 300}),
        ("c", {"executeAt": "2030-01-01T00:00:00Z"}),
        ("d", {"dynamic": True}),
    ):
        apiserver.admin.create(task(namespace, name, **when))

    schedules = [row["SCHEDULE"] for row in shown(apiserver, namespace, "pyt")]

    assert schedules == ["@daily", "300", "2030-01-01T00:00:00Z", ""]


def test_kubectl_shows_how_a_pool_does(apiserver, namespace):
    apiserver.admin.create(pool(namespace, replicas=3))
    apiserver.admin.apply(
        status_of(pool(namespace), readyReplicas=2, tasks=7, due=4, conditions=[said("Ready", "False")]),
        OPERATOR, "status",
    )  # fmt: skip

    [wide] = shown(apiserver, namespace, "pyp", "-o", "wide")

    assert {name: wide[name] for name in ("MODULE", "REPLICAS", "RUNNING", "READY", "TASKS", "DUE")} == {
        "MODULE": "tasks", "REPLICAS": "3", "RUNNING": "2", "READY": "False", "TASKS": "7", "DUE": "4",
    }  # fmt: skip
    assert (wide["IMAGE"], wide["BACKEND"], wide["REASON"]) == (
        "example.org/tasks:1",
        "default",
        "AsExpected",
    )


def test_tasks_are_found_by_their_handler_and_their_pool(apiserver, namespace):
    apiserver.admin.create(task(namespace, "a"))
    apiserver.admin.create(task(namespace, "b", handler="other", workerPoolRef={"name": "mail"}))

    def names(selector):
        found = apiserver.admin.list(
            "pyncette.dev/v1alpha1", "PyncetteTask", namespace, fieldSelector=selector
        )
        return [item["metadata"]["name"] for item in found]

    assert names("spec.handler=send") == ["a"]
    assert names("spec.workerPoolRef.name=mail") == ["b"]


@pytest.mark.parametrize("model", [PyncetteTask, PyncetteWorkerPool])
def test_kubectl_explains_every_field(apiserver, model):
    """Each with its text as it is in the model, whatever the width of the terminal."""
    explained = {}

    def look(schema, path):
        for name, field in schema["properties"].items():
            explained[f"{path}.{name}"] = " ".join(field["description"].split())
            inner = field.get("items", field)
            if "properties" in inner:
                look(inner, f"{path}.{name}")

    root = open_api_schema(model)["properties"]
    for part in ("spec", "status"):
        look(root[part], f"{model.__name__.lower()}.{part}")

    missing = []
    for parent in sorted({path.rpartition(".")[0] for path in explained}):
        told = " ".join(apiserver.kubectl("explain", parent).split())
        missing += [
            path for path, text in explained.items() if path.rpartition(".")[0] == parent and text not in told
        ]

    assert missing == []


def test_kubectl_explains_defaults_bounds_and_choices(apiserver):
    told = " ".join(apiserver.kubectl("explain", "pyt.spec").split())

    assert "From 1 to 86400. Default: 60." in told
    assert "enum: AtLeastOnce, AtMostOnce" in told
    assert 'Example: "0 12 * * MON-FRI"' in told
    assert "handler <string> -required-" in told
