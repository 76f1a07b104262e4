"""What a pool consists of in the cluster, and what its template may change of that."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyncette.controller.workloads.drift import covers
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.strategic_merge import MERGE_KEYS
from pyncette.controller.workloads.workloads import Workloads, claimed_elsewhere, workloads_of
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from tests.resources import accepted, manifest

BACKEND = PoolBackend("default", "pyncette-backend", "url")
REALM = "abc/shop/reports"

POD_TEMPLATE = Path(__file__).with_name("pod_template.yaml")


def pool(name="reports", **spec):
    whole = manifest(kind="PyncetteWorkerPool", name=name, image="example.org/tasks:1", module="tasks")
    whole["spec"] |= spec
    whole["metadata"]["uid"] = "0-0-1"
    return accepted(PyncetteWorkerPool, whole)


def made(backend=BACKEND, realm=REALM, **spec):
    workloads = workloads_of(pool(**spec), backend, realm)
    assert not isinstance(workloads, Refusal), [str(problem) for problem in workloads.problems]
    return workloads


def refused(**template):
    refusal = workloads_of(pool(template=template), BACKEND, REALM)
    assert isinstance(refusal, Refusal), "was accepted"
    assert {problem.reason for problem in refusal.problems} == {"TemplateRefused"}
    return [str(problem) for problem in refusal.problems]


def pod(**spec):
    return made(**spec).deployment["spec"]["template"]


def worker(**spec):
    return next(each for each in pod(**spec)["spec"]["containers"] if each["name"] == "worker")


def variables(**spec):
    return {each["name"]: each["value"] for each in worker(**spec)["env"]}


# --- Without a template ----------------------------------------------------------------------------------------------


def test_the_pods_of_a_pool_stay_the_same_from_release_to_release():
    # A difference restarts every worker of every pool when the operator is upgraded. If that is wanted, the changelog
    # says so, and the file is written anew from what is shown here.
    assert pod() == yaml.safe_load(POD_TEMPLATE.read_text())


def test_a_pool_is_an_account_a_budget_and_a_deployment_of_one_name_and_one_owner():
    manifests = list(made().manifests())

    assert [each["kind"] for each in manifests] == ["ServiceAccount", "PodDisruptionBudget", "Deployment"]
    for each in manifests:
        assert each["metadata"]["name"] == "pyncette-reports"
        assert each["metadata"]["namespace"] == "shop"
        assert each["metadata"]["labels"]["pyncette.dev/pool"] == "reports"
        assert each["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "pyncette.dev/v1alpha1",
                "kind": "PyncetteWorkerPool",
                "name": "reports",
                "uid": "0-0-1",
                "controller": True,
            }
        ]


def test_the_account_brings_no_token_into_pods():
    assert made().service_account["automountServiceAccountToken"] is False
    assert pod()["spec"]["automountServiceAccountToken"] is False


def test_an_account_that_the_pool_names_brings_its_token_only_if_the_template_says_so():
    assert pod(serviceAccountName="mine")["spec"]["automountServiceAccountToken"] is False

    template = {"spec": {"automountServiceAccountToken": True}}
    assert pod(serviceAccountName="mine", template=template)["spec"]["automountServiceAccountToken"] is True


def test_no_account_is_made_where_the_pool_names_one():
    workloads = made(serviceAccountName="reports")

    assert workloads.service_account is None
    assert workloads.deployment["spec"]["template"]["spec"]["serviceAccountName"] == "reports"


def test_an_external_pool_consists_of_nothing():
    external = accepted(PyncetteWorkerPool, manifest(kind="PyncetteWorkerPool", external=True))

    assert workloads_of(external, BACKEND, REALM) == Workloads()
    assert list(Workloads().manifests()) == []


def test_a_drain_of_a_node_takes_one_worker_at_a_time_and_never_waits_for_one_that_is_not_ready():
    spec = made().budget["spec"]

    assert spec["maxUnavailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert spec["selector"] == made().deployment["spec"]["selector"]


def test_what_the_pool_says_of_its_rollout_reaches_the_deployment():
    spec = made(replicas=0, progressDeadlineSeconds=7).deployment["spec"]

    assert (spec["replicas"], spec["progressDeadlineSeconds"]) == (0, 7)


def test_what_the_pool_says_of_its_workers_reaches_them():
    told = variables(concurrency=7, drainSeconds=60)

    assert told["PYNCETTE_REALM"] == REALM
    assert (told["PYNCETTE_CONCURRENCY"], told["PYNCETTE_DRAIN_SECONDS"]) == ("7", "60")
    assert pod(drainSeconds=60)["spec"]["terminationGracePeriodSeconds"] == 70
    assert worker(module="shop.tasks:app")["args"] == ["worker", "shop.tasks:app"]


def test_an_image_is_pulled_as_the_pool_says():
    assert worker(imagePullPolicy="Always")["imagePullPolicy"] == "Always"
    assert "imagePullPolicy" not in worker()
    assert pod(imagePullSecrets=[{"name": "registry"}])["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_a_realm_is_not_taken_for_the_name_of_a_variable():
    [realm] = [
        each["value"]
        for each in made(realm="$(HOME)/a/b").deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        if each["name"] == "PYNCETTE_REALM"
    ]

    assert realm == "$$(HOME)/a/b"


def test_pods_get_the_url_and_the_authorities_of_the_backends_secret_as_files_and_no_other_key():
    template = made(PoolBackend("main", "main-database", "dsn")).deployment["spec"]["template"]
    [volume] = [each for each in template["spec"]["volumes"] if each["name"] == "pyncette-backend"]

    url, authorities = (source["secret"] for source in volume["projected"]["sources"])
    assert url == {"name": "main-database", "items": [{"key": "dsn", "path": "url"}]}
    assert authorities == {
        "name": "main-database",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
        "optional": True,
    }
    assert "secretKeyRef" not in json.dumps(template)


@pytest.mark.parametrize("tls", ["Required", "Preferred", "Disabled"])
def test_workers_are_told_the_tls_of_their_backend(tls):
    [container] = made(PoolBackend("main", "main-database", "dsn", tls)).deployment["spec"]["template"][
        "spec"
    ]["containers"]

    assert {"name": "PYNCETTE_BACKEND_TLS", "value": tls} in container["env"]


def restored(**changes):
    """A ServiceAccount of the pool, as it is after some change of its metadata."""
    account = made().service_account
    return {**account, "metadata": {**account["metadata"], **changes}}


def owner(**changes):
    return [{**made().service_account["metadata"]["ownerReferences"][0], **changes}]


OURS = {
    "as it was made": restored(),
    "of a pool with another uid, before a restore": restored(ownerReferences=owner(uid="0-0-0")),
    "with a label that somebody changed": restored(labels={"pyncette.dev/pool": "other"}),
    "restored without owners": restored(ownerReferences=None),
    "with a further owner that controls nothing": restored(
        ownerReferences=[*owner(), {"kind": "ConfigMap", "name": "x", "uid": "5"}]
    ),
    "with further labels": restored(labels=restored()["metadata"]["labels"] | {"team": "shop"}),
}

SOMEBODY_ELSES = {
    "without labels and owners": restored(labels=None, ownerReferences=None),
    "of the chart": restored(
        labels={"app.kubernetes.io/name": "pyncette-operator", "app.kubernetes.io/managed-by": "Helm"},
        ownerReferences=None,
    ),
    "of another pool": restored(
        labels=restored()["metadata"]["labels"] | {"pyncette.dev/pool": "other"}, ownerReferences=None
    ),
    "controlled by another kind": restored(ownerReferences=owner(kind="Deployment", uid="5")),
    "controlled by another pool": restored(ownerReferences=owner(name="other", uid="5")),
}


@pytest.mark.parametrize("there", OURS.values(), ids=OURS)
def test_an_object_is_the_pools_that_is(there):
    assert claimed_elsewhere(there, pool()) is None


@pytest.mark.parametrize("there", SOMEBODY_ELSES.values(), ids=SOMEBODY_ELSES)
def test_an_object_is_left_alone_that_is(there):
    [problem] = claimed_elsewhere(there, pool()).problems

    assert problem.reason == "NameTaken"
    assert str(problem).startswith(
        "metadata.name: the ServiceAccount pyncette-reports of this namespace belongs to someone else"
    )


# --- With one --------------------------------------------------------------------------------------------------------


def test_a_template_adds_to_the_pods_what_it_says():
    template = {
        "metadata": {"labels": {"team": "shop"}, "annotations": {"example.org/scrape": "yes"}},
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "batch", "operator": "Exists"}],
            "containers": [
                {
                    "name": "worker",
                    "env": [{"name": "REGION", "value": "eu"}],
                    "resources": {"limits": {"memory": "1Gi"}},
                }
            ],
        },
    }

    spec = pod(template=template)["spec"]

    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["tolerations"] == [{"key": "batch", "operator": "Exists"}]
    assert worker(template=template)["resources"]["limits"] == {"memory": "1Gi"}
    assert variables(template=template) == {"REGION": "eu"} | variables()
    assert pod(template=template)["metadata"]["labels"] == {"team": "shop"} | pod()["metadata"]["labels"]


def test_a_template_decides_how_workers_are_spread():
    hosts = {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}

    spread = pod(template={"spec": {"topologySpreadConstraints": [hosts]}})["spec"][
        "topologySpreadConstraints"
    ]
    none = pod(template={"spec": {"topologySpreadConstraints": [{"$patch": "replace"}]}})["spec"]

    assert [(each["topologyKey"], each["whenUnsatisfiable"]) for each in spread] == [
        ("kubernetes.io/hostname", "DoNotSchedule"),
        ("topology.kubernetes.io/zone", "ScheduleAnyway"),
    ]
    assert none["topologySpreadConstraints"] == []


def test_logs_are_the_workers_whatever_stands_beside_it():
    annotations = pod(template={"metadata": {"annotations": {"a": "b"}}})["metadata"]["annotations"]

    assert annotations == {"a": "b", "kubectl.kubernetes.io/default-container": "worker"}


WORKER = "spec.template.spec.containers[name=worker]"

REFUSED = {
    "a label of ours": (
        {"metadata": {"labels": {"pyncette.dev/pool": "other"}}},
        "spec.template.metadata.labels[pyncette.dev/pool]: is set by the operator",
    ),
    "no labels": (
        {"metadata": {"labels": None}},
        "spec.template.metadata.labels[app.kubernetes.io/name]: is set by the operator",
    ),
    "a probe": (
        {"spec": {"containers": [{"name": "worker", "readinessProbe": {"periodSeconds": 1}}]}},
        f"{WORKER}.readinessProbe: is set by the operator",
    ),
    "no probe": (
        {"spec": {"containers": [{"name": "worker", "livenessProbe": None}]}},
        f"{WORKER}.livenessProbe: is set by the operator",
    ),
    "a command": (
        {"spec": {"containers": [{"name": "worker", "command": ["sh"]}]}},
        f"{WORKER}.command: is the image's ENTRYPOINT",
    ),
    "arguments": (
        {"spec": {"containers": [{"name": "worker", "args": ["worker", "other"]}]}},
        f"{WORKER}.args: write the task module to spec.module",
    ),
    "an image": (
        {"spec": {"containers": [{"name": "worker", "image": "example.org/other:1"}]}},
        f"{WORKER}.image: write it to spec.image",
    ),
    "a grace": (
        {"spec": {"terminationGracePeriodSeconds": 5}},
        "spec.template.spec.terminationGracePeriodSeconds: follows from spec.drainSeconds",
    ),
    "an account": (
        {"spec": {"serviceAccountName": "other"}},
        "spec.template.spec.serviceAccountName: write it to spec.serviceAccountName",
    ),
    "a preStop": (
        {"spec": {"containers": [{"name": "worker", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}]}},
        f"{WORKER}.lifecycle.preStop: would take the time that spec.drainSeconds gives to runs",
    ),
    "another backend": (
        {"spec": {"containers": [{"name": "worker", "env": [{"name": "PYNCETTE_BACKEND", "value": "x"}]}]}},
        f"{WORKER}.env[name=PYNCETTE_BACKEND]: the URL comes from a Secret",
    ),
    "less TLS": (
        {
            "spec": {
                "containers": [
                    {"name": "worker", "env": [{"name": "PYNCETTE_BACKEND_TLS", "value": "disabled"}]}
                ]
            }
        },
        f"{WORKER}.env[name=PYNCETTE_BACKEND_TLS]: the operator's settings say it for the backend; leave it out",
    ),
    "another realm": (
        {"spec": {"containers": [{"name": "worker", "env": [{"name": "PYNCETTE_REALM", "value": "x"}]}]}},
        f"{WORKER}.env[name=PYNCETTE_REALM]: the realm is that of the pool",
    ),
    "another Secret": (
        {"spec": {"volumes": [{"name": "pyncette-backend", "secret": {"secretName": "other"}}]}},
        "spec.template.spec.volumes[name=pyncette-backend]: holds the URL of the backend",
    ),
    "no mount of the Secret": (
        {
            "spec": {
                "containers": [
                    {
                        "name": "worker",
                        "volumeMounts": [{"mountPath": "/etc/pyncette/backend", "$patch": "delete"}],
                    }
                ]
            }
        },
        f"{WORKER}.volumeMounts[mountPath=/etc/pyncette/backend]: holds the URL of the backend",
    ),
    "another name of a port": (
        {"spec": {"containers": [{"name": "worker", "ports": [{"containerPort": 8080, "name": "http"}]}]}},
        f"{WORKER}.ports[containerPort=8080]: the probes ask there",
    ),
    "no worker": (
        {"spec": {"containers": [{"name": "worker", "$patch": "delete"}]}},
        f"{WORKER}: is the worker itself; it cannot be removed",
    ),
    "containers that are none": (
        {"spec": {"containers": "worker"}},
        f"{WORKER}: is the worker itself; it cannot be removed",
    ),
    "an item without a name": (
        {"spec": {"containers": [{"env": []}]}},
        "spec.template.spec.containers[0]: needs name, which identifies the items",
    ),
    "a host namespace": (
        {"spec": {"hostNetwork": True}},
        "spec.template.spec.hostNetwork: pods must not share the namespaces of their node",
    ),
}


@pytest.mark.parametrize(("template", "message"), REFUSED.values(), ids=REFUSED)
def test_a_template_is_refused_that_has(template, message):
    told = refused(**template)

    assert told[0].startswith(message)


def test_all_problems_of_a_template_are_reported_at_once():
    told = refused(
        metadata={"labels": {"pyncette.dev/pool": "x"}},
        spec={"hostPID": True, "containers": [{"name": "worker", "command": ["sh"]}]},
    )

    assert len(told) == 3


def test_the_worker_may_say_again_what_the_operator_says():
    template = {"spec": {"containers": [{"name": "worker", "image": "example.org/tasks:1"}]}}

    assert pod(template=template) == pod()


# --- Nonsense --------------------------------------------------------------------------------------------------------

FIELDS = sorted(
    {name for path, key in MERGE_KEYS.items() for name in (*path.split("."), key)}
    | {
        "$patch",
        "$retainKeys",
        "labels",
        "annotations",
        "securityContext",
        "capabilities",
        "add",
        "drop",
        "sysctls",
    }
    | {
        "seccompProfile",
        "type",
        "livenessProbe",
        "lifecycle",
        "preStop",
        "httpGet",
        "host",
        "hostPort",
        "runAsUser",
    }
)

nonsense = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 1)
    | st.sampled_from(["worker", "tmp", "replace", "delete", "", "\0", "8080"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=25,
)
parts_of_nonsense = st.dictionaries(st.sampled_from(FIELDS), nonsense, max_size=5)


@settings(max_examples=300)
@given(metadata=parts_of_nonsense, spec=parts_of_nonsense)
def test_whatever_a_template_says_it_is_merged_or_refused_and_never_an_error(metadata, spec):
    made_or_not = workloads_of(pool(template={"metadata": metadata, "spec": spec}), BACKEND, REALM)

    if isinstance(made_or_not, Refusal):
        assert all(str(problem).startswith("spec.template") for problem in made_or_not.problems)
    else:
        covers({}, made_or_not.deployment)


@settings(max_examples=200)
@given(there=nonsense, wanted=nonsense)
def test_whatever_there_is_it_is_compared_without_an_error(there, wanted):
    covers({"spec": there}, {"apiVersion": "v1", "kind": "Pod", "spec": wanted})
