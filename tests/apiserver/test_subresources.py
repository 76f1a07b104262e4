"""Status and scale are written by themselves: each leaves alone what is the other's."""

import pytest
from pydantic import ValidationError

from pyncette.resources.task_status import UPCOMING_MAX, TaskStatus
from tests.apiserver import OPERATOR, pool, refusal, said, status_of, task


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


def test_who_may_write_tasks_may_not_write_their_status(apiserver, namespace):
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
