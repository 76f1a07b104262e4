"""The requests and limits that workers have by default, and how those of a template fit in."""

import pytest

from pyncette.controller.settings import WorkerSettings, load_settings
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import Workloads, workloads_of
from pyncette.errors import ConfigurationError
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.quantity import number_of
from tests.resources import accepted, manifest

DEFAULT = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


@pytest.fixture
def settings_of(tmp_path):
    def settings_of(text):
        file = tmp_path / "operator.yaml"
        file.write_text(f"backends: [{{namespaces: [shop]}}]\n{text}")
        return load_settings(file, {})

    return settings_of


def pod_of(resources=None, settings=None, volumes=None):
    given = manifest(kind="PyncetteWorkerPool", name="reports", image="example.org/tasks:1", module="tasks")
    container = {"name": "worker"} | ({} if resources is None else {"resources": resources})
    given["spec"]["template"] = {"spec": {"containers": [container]} | (volumes or {})}
    given["metadata"]["uid"] = "0-0-1"
    made = workloads_of(
        accepted(PyncetteWorkerPool, given),
        PoolBackend("default", "pyncette-backend", "url"),
        "abc/shop/reports",
        settings or WorkerSettings(),
    )
    assert isinstance(made, Workloads), made
    return made.deployment["spec"]["template"]["spec"]


def resources_of(resources=None, settings=None):
    (container,) = pod_of(resources, settings)["containers"]
    return container.get("resources")


def test_a_worker_has_requests_and_a_limit_of_memory_by_default():
    assert resources_of() == DEFAULT


@pytest.mark.parametrize(
    ("template", "resources"),
    [
        ({"requests": {"cpu": "2"}}, {**DEFAULT, "requests": {"cpu": "2", "memory": "128Mi"}}),
        ({"limits": {"memory": "1Gi"}}, {**DEFAULT, "limits": {"memory": "1Gi"}}),
        ({"limits": {"cpu": "1"}}, {**DEFAULT, "limits": {"memory": "512Mi", "cpu": "1"}}),
        ({"limits": {"memory": None}}, {**DEFAULT, "limits": {}}),
        ({"limits": None}, {"requests": DEFAULT["requests"]}),
        ({"$patch": "replace", "requests": {"cpu": 1}}, {"requests": {"cpu": 1}}),
        (
            {"limits": {"example.org/gpu": 1}},
            {**DEFAULT, "limits": {"memory": "512Mi", "example.org/gpu": 1}},
        ),
    ],
)
def test_a_template_overrides_them_field_by_field(template, resources):
    assert resources_of(template) == resources


@pytest.mark.parametrize(
    ("template", "request_and_limit"),
    [
        ({"requests": {"memory": "2Gi"}}, ("2Gi", "2Gi")),
        ({"requests": {"memory": 2e9}}, (2e9, 2e9)),
        ({"limits": {"memory": "64Mi"}}, ("64Mi", "64Mi")),
        ({"requests": {"memory": "2Gi"}, "limits": {"memory": "4Gi"}}, ("2Gi", "4Gi")),
        ({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}, ("2Gi", "1Gi")),
        ({"requests": {"memory": "256Mi"}}, ("256Mi", "512Mi")),
        ({"requests": {"memory": "lots"}}, ("lots", "512Mi")),
    ],
)
def test_a_default_gives_way_to_what_a_template_sets_so_that_no_request_exceeds_its_limit(
    template, request_and_limit
):
    resources = resources_of(template)

    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == request_and_limit


@pytest.mark.parametrize("part", [5, "text", [], {"requests": 5}, {"limits": ["memory"]}])
def test_a_template_of_another_form_is_left_to_the_api_server(part):
    resources_of(part)


def test_slash_tmp_has_a_size_which_a_template_can_raise():
    def tmp_of(**volumes):
        (volume,) = [each for each in pod_of(volumes=volumes)["volumes"] if each["name"] == "tmp"]
        return volume["emptyDir"]

    assert tmp_of() == {"sizeLimit": "1Gi"}
    assert tmp_of(volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}}]) == {"sizeLimit": "20Gi"}
    assert tmp_of(volumes=[{"name": "tmp", "emptyDir": {"medium": "Memory"}}]) == {
        "sizeLimit": "1Gi",
        "medium": "Memory",
    }


def test_the_settings_replace_the_defaults_of_all_pools(settings_of):
    workers = settings_of(
        "workers: {resources: {requests: {cpu: 0.5, ephemeral-storage: 1Gi}}, tmpSizeLimit: 5Gi}"
    ).workers

    assert resources_of(settings=workers) == {"requests": {"cpu": "0.5", "ephemeral-storage": "1Gi"}}
    assert pod_of(settings=workers)["volumes"][-1] == {"name": "tmp", "emptyDir": {"sizeLimit": "5Gi"}}


def test_the_settings_can_leave_resources_to_the_namespace(settings_of):
    assert resources_of(settings=settings_of("workers: {resources: {}}").workers) is None


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ("{tmpSizeLimit: big}", "workers.tmpSizeLimit: must be a quantity of Kubernetes, such as 500m"),
        ("{tmpSizeLimit: -1Gi}", "workers.tmpSizeLimit: must be a quantity"),
        ("{resources: {limits: {memory: nan}}}", "must be a quantity"),
        ("{resources: {limits: {cpu: true}}}", "workers.resources.limits"),
        (
            "{resources: {requests: {memory: 1Gi}, limits: {memory: 512Mi}}}",
            "workers.resources.requests: must not exceed the limits",
        ),
        ("{resource: {}}", "workers.resource: unknown field; did you mean resources?"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings_of, workers, said):
    with pytest.raises(ConfigurationError) as refused:
        settings_of(f"workers: {workers}")

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("500m", "0.5"), ("1.5Gi", "1610612736"), ("2e3", "2000"), (3, "3"), ("1n", "1e-9")],
)
def test_quantities_are_read_as_kubernetes_does(quantity, number):
    assert number_of(quantity) == number_of(number)
