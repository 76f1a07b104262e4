"""That templates are merged as kubectl does it, and refused where the API server would refuse their pods."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings

from pyncette.controller.workloads.pod_security import violations
from pyncette.controller.workloads.pod_template import PoolBackend, own_template
from pyncette.controller.workloads.strategic_merge import MERGE_KEYS, MergeRefusedError, merge
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import read_stored
from tests.apiserver import pool as manifest_of_pool
from tests.controller.pod_parts import BELOW, UP_TO_STANDARD, parts
from tests.resources import pool
from tests.servers import ApiError

OURS = own_template(pool(), PoolBackend("default", "pyncette-backend", "url"), "abc/shop/report")

MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- Merging ---------------------------------------------------------------------------------------------------------


def test_lists_are_merged_by_the_names_that_the_api_publishes(apiserver):
    definitions = apiserver.admin.request("GET", "/openapi/v2")["definitions"]

    published = dict(_merge_keys(definitions, "io.k8s.api.core.v1.PodTemplateSpec", ""))

    assert dict(MERGE_KEYS) == published


def _merge_keys(definitions, name, path) -> Iterator[tuple[str, str]]:
    for field, schema in definitions[name].get("properties", {}).items():
        here = f"{path}.{field}" if path else field
        if "x-kubernetes-patch-merge-key" in schema:
            assert "merge" in schema["x-kubernetes-patch-strategy"]
            yield here, schema["x-kubernetes-patch-merge-key"]
        inner = schema.get("$ref") or schema.get("items", {}).get("$ref")
        if inner is not None and "JSONSchemaProps" not in inner:
            yield from _merge_keys(definitions, inner.rpartition("/")[2], here)


@pytest.fixture(scope="module")
def patched(apiserver, tmp_path_factory):
    """What kubectl makes of a template with a part, in the form that the API gives it."""
    file = tmp_path_factory.mktemp("template") / "template.json"

    def patch(template, part):
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template}
        file.write_text(json.dumps(whole))
        change = json.dumps({"template": part})
        options = ("--local", "--type=strategic", "--output=json", f"--filename={file}", f"--patch={change}")
        return json.loads(apiserver.kubectl("patch", *options))["template"]

    return patch


EXAMPLES = [
    {"spec": {"volumes": [{"name": "tmp", "$retainKeys": ["name", "image"], "image": {"reference": "x"}}]}},
    {"spec": {"volumes": [{"$patch": "replace"}]}},
    {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "worker", "env": None}]}},
    {"spec": {"containers": [{"name": "worker", "$patch": "delete"}, {"name": "a"}]}},
    {"spec": {"securityContext": {"$patch": "delete"}, "affinity": {"$patch": "delete"}}},
    {"spec": {"initContainers": [{"$patch": "replace"}, {"name": "a", "image": None}]}},
    {"metadata": {"labels": {"pyncette.dev/pool": None, "a": "b"}, "finalizers": ["example.org/a"]}},
    {
        "spec": {
            "topologySpreadConstraints": [
                {"topologyKey": "example.org/rack", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"},
                {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"},
            ]
        }
    },
    {"spec": {"containers": [{"name": "worker", "env": [{"name": "PYNCETTE_HEALTH"}, {"name": "A"}]}]}},
]


@pytest.mark.parametrize("part", EXAMPLES)
def test_a_template_is_merged_as_kubectl_does_it(patched, part):
    assert patched(merge(OURS, part), {}) == patched(OURS, part)


@MANY
@given(part=parts(patches=True))
def test_any_template_is_merged_as_kubectl_does_it(patched, part):
    assert patched(merge(OURS, part), {}) == patched(OURS, part)


@pytest.mark.parametrize("directive", [{"$patch": "remove"}, {"$retainKeys": ["fsGroup"], "runAsUser": 5}])
def test_what_is_refused_to_be_merged_kubectl_refuses_too(apiserver, tmp_path, directive):
    part = {"spec": {"securityContext": directive}}
    file = tmp_path / "template.json"
    file.write_text(
        json.dumps({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": OURS})
    )

    with pytest.raises(MergeRefusedError):
        merge(OURS, part)
    assert apiserver.kubectl(
        "patch",
        "--local",
        "--type=strategic",
        f"--filename={file}",
        f"--patch={json.dumps({'template': part})}",
        succeeds=False,
    )


# --- The standard ----------------------------------------------------------------------------------------------------


@pytest.fixture
def admission(apiserver, namespace):
    """What the admission of a namespace that enforces the standard says of a pod: its complaint, or nothing."""
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    apiserver.admin.patch(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"metadata": {"labels": enforced}},
    )
    account = {"name": "pyncette-report", "namespace": namespace}
    apiserver.admin.create(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": account,
            "automountServiceAccountToken": False,
        }
    )

    def complaint(template):
        metadata = {**template["metadata"], "name": "pod", "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}
        try:
            apiserver.admin.create(pod, dryRun="All")
        except ApiError as error:
            return error.message
        return ""

    return complaint


@pytest.mark.parametrize("spec", UP_TO_STANDARD.values(), ids=UP_TO_STANDARD)
def test_what_is_up_to_the_standard_is_admitted(admission, spec):
    assert admission(merge(OURS, {"spec": spec})) == ""


@pytest.mark.parametrize(
    ("check", "spec"), [(check, spec) for check, specs in BELOW.items() for spec in specs]
)
def test_what_is_below_the_standard_is_not_admitted(admission, check, spec):
    assert admission(merge(OURS, {"spec": spec}))


@MANY
@example(part={})
@given(part=parts())
def test_whatever_is_up_to_the_standard_is_never_refused_for_its_sake(admission, part):
    try:
        template = merge(OURS, part)
    except MergeRefusedError:
        return

    complaint = admission(template)

    if not violations(template):
        assert "PodSecurity" not in complaint
    elif "violates PodSecurity" not in complaint:
        # What only this side refuses: pods in user namespaces, which releases before 1.35 do not let off.
        assert complaint or template["spec"].get("hostUsers") is False


# --- In a pool -------------------------------------------------------------------------------------------------------


def created(apiserver, manifest):
    apiserver.admin.create(manifest)


def applied(apiserver, manifest):
    apiserver.admin.apply(manifest)


@pytest.mark.parametrize("put", [created, applied])
def test_what_removes_something_reaches_the_operator(apiserver, namespace, put):
    part = {
        "containers": [{"name": "worker", "securityContext": {"readOnlyRootFilesystem": None}}],
        "topologySpreadConstraints": [{"$patch": "replace"}],
        "volumes": [{"name": "tmp", "$retainKeys": ["name", "image"], "image": {"reference": "x"}}],
    }
    manifest = manifest_of_pool(namespace, template={"spec": part})

    put(apiserver, manifest)

    stored = read_stored(PyncetteWorkerPool, apiserver.admin.read(manifest))
    assert stored.spec.template.spec == part
