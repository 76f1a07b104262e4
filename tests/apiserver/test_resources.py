"""What the API server makes of the CRDs: defaults, merges, subresources, columns and explanations, as users meet them."""

import json

import pytest
from pydantic import ValidationError

from pyncette.resources.modelling import refused_change
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal, read, read_stored, written
from pyncette.resources.resource import CONDITIONS_MAX
from pyncette.resources.task import (
    ARGS_BYTES_MAX,
    ARGS_KEYS_MAX,
    UPCOMING_MAX,
    PyncetteTask,
    TaskStatus,
)
from tests.apiserver import pool, task
from tests.apiserver.objects import largest
from tests.servers import ApiError
from tests.servers.kubernetes import ROOT, custom_resource_definitions
from tools.custom_resources import open_api_schema

OPERATOR = "pyncette-operator"


def refusal(ask):
    with pytest.raises(ApiError) as refused:
        ask()
    return refused.value


# --- Defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "made"), [(PyncetteTask, task), (PyncetteWorkerPool, pool)])
def test_what_is_left_out_is_filled_in_with_what_python_would_assume(apiserver, namespace, model, made):
    stored = apiserver.admin.create(made(namespace))

    assert stored["spec"] == written(read(model, made(namespace)))["spec"]


def test_an_object_that_was_just_created_waits_for_the_operator(apiserver, namespace):
    for made in (task(namespace), pool(namespace)):
        apiserver.admin.create(made)

        status = apiserver.admin.read(made)["status"]

        assert status["observedGeneration"] == -1
        assert [(said["type"], said["status"], said["reason"]) for said in status["conditions"]] == [
            ("Ready", "Unknown", "Pending")
        ]


def test_what_is_within_an_object_that_is_given_in_part_is_filled_in(apiserver, namespace):
    stored = apiserver.admin.create(task(namespace, retryPolicy={"maxAttempts": 3}, workerPoolRef={}))

    assert stored["spec"]["retryPolicy"] == {
        "maxAttempts": 3,
        "initialBackoffSeconds": 5,
        "maxBackoffSeconds": 300,
    }
    assert stored["spec"]["workerPoolRef"] == {"name": "default"}


def test_a_retry_policy_is_not_filled_in_since_one_that_is_given_is_refused_at_most_once(
    apiserver, namespace
):
    assert "retryPolicy" not in apiserver.admin.create(task(namespace))["spec"]


def test_an_unknown_field_is_refused_where_kubectl_asks_and_dropped_where_nobody_does(apiserver, namespace):
    misspelt = task(namespace, tiemZone="UTC")

    assert 'unknown field "spec.tiemZone"' in refusal(lambda: apiserver.admin.create(misspelt)).message
    assert "tiemZone" not in apiserver.admin.create(misspelt, fieldValidation="Ignore")["spec"]


# --- Two managers ----------------------------------------------------------------------------------------------------


def test_two_managers_of_one_task_own_what_each_gave(apiserver, namespace):
    apiserver.admin.apply(task(namespace, args={"audience": "finance", "format": "pdf"}), "git")

    suspension = {**task(namespace), "spec": {"suspend": True, "args": {"dryRun": True}}}
    apiserver.admin.apply(suspension, "console")
    apiserver.admin.apply(task(namespace, args={"audience": "sales"}), "git")

    spec = apiserver.admin.read(task(namespace))["spec"]
    assert spec["args"] == {"audience": "sales", "dryRun": True}
    assert spec["suspend"] is True


def test_a_manager_that_says_otherwise_than_another_is_told_so(apiserver, namespace):
    apiserver.admin.apply(task(namespace, jitterSeconds=5), "git")

    conflict = refusal(lambda: apiserver.admin.apply(task(namespace, jitterSeconds=7), "console"))

    assert (conflict.status, conflict.reason) == (409, "Conflict")
    assert conflict.causes == [(".spec.jitterSeconds", 'conflict with "git"')]


def test_secrets_of_two_managers_are_merged_by_name(apiserver, namespace):
    apiserver.admin.apply(pool(namespace, imagePullSecrets=[{"name": "ours"}, {"name": "both"}]), "git")
    theirs = {**pool(namespace), "spec": {"imagePullSecrets": [{"name": "theirs"}, {"name": "both"}]}}
    apiserver.admin.apply(theirs, "console")
    apiserver.admin.apply(pool(namespace), "git")

    secrets = apiserver.admin.read(pool(namespace))["spec"]["imagePullSecrets"]

    assert {secret["name"] for secret in secrets} == {"theirs", "both"}


def test_conditions_of_two_managers_are_merged_by_type(apiserver, namespace):
    apiserver.admin.create(task(namespace))

    apiserver.admin.apply(
        status_of(task(namespace), conditions=[said("Ready"), said("Scheduled")]), OPERATOR, "status"
    )
    apiserver.admin.apply(status_of(task(namespace), conditions=[said("Audited")]), "auditor", "status")
    apiserver.admin.apply(status_of(task(namespace), conditions=[said("Ready", "False")]), OPERATOR, "status")

    conditions = apiserver.admin.read(task(namespace))["status"]["conditions"]
    assert {condition["type"]: condition["status"] for condition in conditions} == {
        "Ready": "False",
        "Audited": "True",
    }


def test_the_first_look_of_the_operator_takes_the_place_of_the_default(apiserver, namespace):
    """Nobody owns what the schema fills in, so the first who says something of it needs no force."""
    apiserver.admin.create(task(namespace))

    apiserver.admin.apply(
        status_of(task(namespace), observedGeneration=1, conditions=[said("Ready")]), OPERATOR, "status"
    )

    status = apiserver.admin.read(task(namespace))["status"]
    assert status["observedGeneration"] == 1
    assert [condition["reason"] for condition in status["conditions"]] == ["AsExpected"]


def status_of(given, **status):
    return {**{part: given[part] for part in ("apiVersion", "kind", "metadata")}, "status": status}


def said(kind, status="True"):
    return {
        "type": kind,
        "status": status,
        "reason": "AsExpected",
        "message": "",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }


# --- What cannot be changed ------------------------------------------------------------------------------------------

TEMPLATE = {"handler": "send", "dynamic": True}

CHANGES = {
    "another handler": (task, TEMPLATE, {"handler": "other"}),
    "another pool": (task, TEMPLATE, {"workerPoolRef": {"name": "other"}}),
    "more partitions": (task, TEMPLATE, {"partitions": 9}),
    "no template any more": (task, TEMPLATE, {"dynamic": False, "intervalSeconds": 60}),
    "external workers": (pool, {}, {"external": True}),
}


@pytest.mark.parametrize(("made", "before", "change"), CHANGES.values(), ids=CHANGES)
def test_what_cannot_be_changed_is_refused_in_the_same_words(apiserver, namespace, made, before, change):
    model = PyncetteTask if made is task else PyncetteWorkerPool
    old, new = made(namespace, **before), made(namespace, **(before | change))
    [(path, message)] = refused_change(read(model, old), read(model, new))
    apiserver.admin.create(old)

    refused = refusal(lambda: apiserver.admin.patch(old, {"spec": change}))

    assert refused.status == 422
    assert message in refused.message
    assert ".".join(path) in [field for field, _ in refused.causes]


def test_every_transition_of_the_models_has_an_example_in_the_table():
    told = {
        message
        for made, before, change in CHANGES.values()
        for _, message in refused_change(
            *(
                read(PyncetteTask if made is task else PyncetteWorkerPool, made("shop", **spec))
                for spec in (before, before | change)
            )
        )
    }

    rules = [rule for model in (PyncetteTask, PyncetteWorkerPool) for rule in spec_of(model).transitions]
    assert {rule.message for rule in rules} == told


def spec_of(model):
    return model.model_fields["spec"].annotation


def test_a_static_task_may_change_all_that_and_become_a_template(apiserver, namespace):
    apiserver.admin.create(task(namespace))

    apiserver.admin.patch(task(namespace), {"spec": {"handler": "other", "workerPoolRef": {"name": "other"}}})
    apiserver.admin.patch(
        task(namespace), {"spec": {"dynamic": True, "intervalSeconds": None, "partitions": 3}}
    )

    assert apiserver.admin.read(task(namespace))["spec"]["partitions"] == 3


# --- Status and scale ------------------------------------------------------------------------------------------------


def test_a_write_of_the_status_changes_nothing_else_and_the_generation_stays(apiserver, namespace):
    before = apiserver.admin.create(task(namespace))
    given = {**before, "spec": {**before["spec"], "handler": "other"}, "status": {"active": 3}}

    apiserver.admin.replace(given, "status")

    after = apiserver.admin.read(task(namespace))
    assert after["spec"] == before["spec"]
    assert after["status"]["active"] == 3
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1


def test_a_write_of_the_spec_raises_the_generation_and_leaves_the_status_alone(apiserver, namespace):
    created = apiserver.admin.create({**task(namespace), "status": {"active": 7}})
    apiserver.admin.apply(status_of(task(namespace), active=2), OPERATOR, "status")

    changed = apiserver.admin.patch(task(namespace), {"spec": {"jitterSeconds": 5}, "status": {"active": 9}})

    assert created["metadata"]["generation"] == 1
    assert changed["metadata"]["generation"] == 2
    assert changed["status"]["active"] == 2


def test_a_pool_is_scaled_like_a_deployment(apiserver, namespace):
    apiserver.admin.create(pool(namespace))
    apiserver.admin.apply(
        status_of(pool(namespace), replicas=1, selector="pyncette.dev/pool=default"), OPERATOR, "status"
    )

    scale = apiserver.admin.read(pool(namespace), "scale")
    apiserver.kubectl("scale", "pyp/default", "--replicas=5", f"--namespace={namespace}")

    assert (scale["spec"], scale["status"]) == (
        {"replicas": 1}, {"replicas": 1, "selector": "pyncette.dev/pool=default"},
    )  # fmt: skip
    after = apiserver.admin.read(pool(namespace))
    assert (after["spec"]["replicas"], after["metadata"]["generation"]) == (5, 2)
    assert "1001" in refusal(
        lambda: apiserver.admin.patch(pool(namespace), {"spec": {"replicas": 1001}}, "scale")
    ).message  # fmt: skip


def test_whoever_may_write_tasks_may_not_write_their_status(apiserver, namespace):
    editor = apiserver.account(
        namespace, rules=[{"apiGroups": ["pyncette.dev"], "resources": ["pyncettetasks"], "verbs": ["*"]}]
    )
    editor.client.create(task(namespace))

    refused = refusal(lambda: editor.client.apply(status_of(task(namespace), active=1), "editor", "status"))

    assert refused.status == 403


@pytest.mark.parametrize(
    "status",
    [
        {"active": -1},
        {"observedGeneration": -2},
        {"conditions": [{**said("Ready"), "status": "Maybe"}]},
        {"conditions": [said("not a type")]},
        {"lastRun": {"outcome": "exploded"}},
        {"upcomingScheduleTimes": ["2030-01-01T00:00:00Z"] * (UPCOMING_MAX + 1)},
    ],
)
def test_a_status_that_the_models_refuse_the_api_server_refuses(apiserver, namespace, status):
    apiserver.admin.create(task(namespace))

    refused = refusal(lambda: apiserver.admin.apply(status_of(task(namespace), **status), OPERATOR, "status"))

    assert refused.status == 422
    with pytest.raises(ValidationError):
        TaskStatus.model_validate(status, by_alias=True, by_name=False)


# --- The largest -----------------------------------------------------------------------------------------------------


def test_the_largest_task_that_the_schema_allows_is_accepted_with_the_largest_status(apiserver, namespace):
    schema = open_api_schema(PyncetteTask)["properties"]
    # The operator allows 16 KiB in all, which the API server cannot count: it takes the first level alone at its bounds.
    args = {f"{number:02}": "x" * ARGS_BYTES_MAX for number in range(ARGS_KEYS_MAX)}
    spec = {
        **largest(schema["spec"]),
        "args": args,
        "dynamic": False,
        "partitions": 1,
        "deletionPolicy": "Retain",
        "retryPolicy": None,
        "intervalSeconds": None,
        "executeAt": None,
        "notBefore": None,
        "timeZone": "A" * 64,
    }
    name = "n" * 253

    apiserver.admin.create(task(namespace, name, **spec))
    apiserver.admin.replace(
        {**apiserver.admin.read(task(namespace, name)), "status": largest(schema["status"])}, "status"
    )

    stored = apiserver.admin.read(task(namespace, name))
    assert stored["spec"]["args"] == args
    assert len(stored["status"]["conditions"]) == CONDITIONS_MAX
    assert isinstance(read_stored(PyncetteTask, stored), Refusal)


def test_the_largest_pool_that_the_schema_allows_is_accepted_with_the_largest_status(apiserver, namespace):
    schema = open_api_schema(PyncetteWorkerPool)["properties"]
    name = "n" * 63

    apiserver.admin.create(pool(namespace, name, **largest(schema["spec"])))
    apiserver.admin.replace(
        {**apiserver.admin.read(pool(namespace, name)), "status": largest(schema["status"])}, "status"
    )

    stored = apiserver.admin.read(pool(namespace, name))
    assert len(stored["status"]["handlers"]) == 1000
    assert not isinstance(read_stored(PyncetteWorkerPool, stored), Refusal)


def test_what_is_larger_than_a_request_may_be_is_refused_by_the_api_server_itself(apiserver, namespace):
    """50 texts of 16,384 characters of two bytes are within the schema, and more than the 1.5 MiB that etcd takes."""
    args = {f"{number:02}": "ü" * ARGS_BYTES_MAX for number in range(50)}

    refused = refusal(lambda: apiserver.admin.create(task(namespace, args=args)))

    assert "etcdserver: request is too large" in refused.message
    assert isinstance(read(PyncetteTask, task(namespace, args=args)), Refusal)


# --- What is stored --------------------------------------------------------------------------------------------------


def test_a_stored_object_that_todays_model_refuses_is_still_read_and_its_status_still_written(own_apiserver):
    """
    As after an upgrade to narrower bounds: what was accepted before is neither lost nor an exception. Types are another
    matter: the API server applies nothing to an object with a value of another type, so a field never changes its own.
    """
    [strict, _] = custom_resource_definitions()
    lax = json.loads(json.dumps(strict))
    [version] = lax["spec"]["versions"]
    del version["selectableFields"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    old = {
        "intervalSeconds": 0,
        "timeZone": "UTC",
        "handler": "tasks:send",
        "heartbeat": "Never",
        "mood": "good",
    }

    with own_apiserver.fresh_namespace() as namespace:
        own_apiserver.install(lax)
        until(lambda: own_apiserver.admin.create(task(namespace, **old), dryRun="All"))
        own_apiserver.admin.create(task(namespace, **old))
        own_apiserver.install(strict)
        until(
            lambda: refusal(lambda: own_apiserver.admin.create(task(namespace, "other", **old), dryRun="All"))
        )

        stored = own_apiserver.admin.read(task(namespace))
        refused = read_stored(PyncetteTask, stored)
        own_apiserver.admin.apply(
            status_of(task(namespace), conditions=[said("Stalled")]), OPERATOR, "status", force=True
        )

        assert isinstance(refused, Refusal)
        assert {problem.path for problem in refused.problems} == {
            ("spec", "handler"), ("spec", "heartbeat"), ("spec", "intervalSeconds"),
        }  # fmt: skip
        conditions = own_apiserver.admin.read(task(namespace))["status"]["conditions"]
        assert "Stalled" in {condition["type"] for condition in conditions}
        assert own_apiserver.admin.patch(task(namespace), {"metadata": {"labels": {"team": "mail"}}})


def until(ask, attempts=200):
    """A changed schema comes into force a moment after the change was answered."""
    for _ in range(attempts):
        try:
            return ask()
        except (ApiError, pytest.fail.Exception):
            continue
    return ask()


# --- What users see --------------------------------------------------------------------------------------------------


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
