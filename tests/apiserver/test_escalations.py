"""With the operator's token, nothing can be had of the API server but what a pool consists of."""

from copy import deepcopy

import pytest
import yaml

from pyncette.controller.workloads.pod_security import SELINUX_TYPES, SYSCTLS, VOLUME_TYPES
from pyncette.controller.workloads.strategic_merge import merge
from tests.apiserver import pool, refusal, task
from tests.apiserver.admission import installed, objects_of_pool, until
from tests.controller.pod_parts import BELOW, CONFINED, UP_TO_STANDARD, beside, context
from tests.pages import DOCS, blocks
from tests.servers.kubernetes_client import path_of

BACKENDS = DOCS / "how-to" / "backends.md"

POD = ("spec", "template", "spec")


@pytest.fixture(scope="module")
def release(apiserver, helm):
    """The operator's account, with the role and the policies of the chart."""
    with installed(apiserver, helm) as made:
        yield made


@pytest.fixture(scope="module")
def team(apiserver):
    """A namespace of a team, with objects that are not the operator's."""
    with apiserver.fresh_namespace() as namespace:
        foreign = objects_of_pool(namespace, "foreign")
        controlled = objects_of_pool(namespace, "controlled")
        for manifest in (*foreign.values(), *controlled.values()):
            metadata = manifest["metadata"]
            owner = {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "name": "db",
                "uid": "1",
                "controller": True,
            }
            metadata["ownerReferences"] = [owner] if manifest in controlled.values() else []
            metadata["labels"] = {}
            apiserver.admin.create(manifest)
        yield namespace


def apply(client, manifest):
    return client.apply(manifest, "pyncette-operator", force=True, dryRun="All")


def changed(manifest, *path, value):
    """Return *manifest* with another value at *path*; None removes it."""
    whole = deepcopy(manifest)
    inner = whole
    for part in path[:-1]:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return whole


def with_part(manifest, part):
    """Return a Deployment with a part of a template merged in, unchecked."""
    template = merge(manifest["spec"]["template"], {"spec": part})
    return {**manifest, "spec": {**manifest["spec"], "template": template}}


# --- What it writes -------------------------------------------------------------------------------------------------


def test_the_objects_of_a_pool_are_admitted_when_they_are_created_and_when_they_are_changed(
    apiserver, release, namespace
):
    for replicas in (1, 2):
        for manifest in objects_of_pool(namespace, replicas=replicas).values():
            release.operator.apply(manifest, "pyncette-operator", force=True)

    (deployment,) = apiserver.admin.list("apps/v1", "Deployment", namespace)
    assert deployment["spec"]["replicas"] == 2


def test_an_account_that_others_have_annotated_is_still_changed(apiserver, release, namespace):
    account = objects_of_pool(namespace)["ServiceAccount"]
    release.operator.apply(account, "pyncette-operator", force=True)
    others = {"annotations": {"example.org/role": "reports"}}
    apiserver.admin.patch(account, {"metadata": others, "imagePullSecrets": [{"name": "pull"}]})

    made = release.operator.apply(
        changed(account, "metadata", "labels", "a", value="b"), "pyncette-operator", force=True
    )

    assert made["metadata"]["annotations"]["example.org/role"] == "reports"


def test_an_object_that_lost_its_owner_in_a_restore_is_taken_back(apiserver, release, namespace):
    manifests = objects_of_pool(namespace).values()
    for manifest in manifests:
        apiserver.admin.create(changed(manifest, "metadata", "ownerReferences", value=[]))

    for manifest in manifests:
        release.operator.apply(manifest, "pyncette-operator", force=True)


@pytest.mark.parametrize("part", UP_TO_STANDARD.values(), ids=UP_TO_STANDARD)
def test_a_template_up_to_the_standard_is_admitted(release, team, part):
    apply(release.operator, with_part(objects_of_pool(team)["Deployment"], part))


@pytest.mark.parametrize("volume", sorted(VOLUME_TYPES - {"ephemeral", "image", "csi", "emptyDir"}))
def test_each_type_of_volume_of_the_standard_is_admitted(release, team, volume):
    sources = {
        "persistentVolumeClaim": {"claimName": "x"},
        "secret": {"secretName": "x"},
        "configMap": {"name": "x"},
        "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]},
        "projected": {"sources": [{"secret": {"name": "x"}}]},
    }
    part = {"volumes": [{"name": "x", volume: sources[volume]}]}

    apply(release.operator, with_part(objects_of_pool(team)["Deployment"], part))


@pytest.mark.parametrize(
    "part",
    [
        *({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}} for name in sorted(SYSCTLS)),
        *(context(seLinuxOptions={"type": name}) for name in sorted(SELINUX_TYPES - {""})),
    ],
    ids=str,
)
def test_each_sysctl_and_each_type_of_selinux_of_the_standard_is_admitted(release, team, part):
    apply(release.operator, with_part(objects_of_pool(team)["Deployment"], part))


# --- What its token is not good for: objects that it may write --------------------------------------------------------

TOKEN = [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]

UNCONFINED_ANNOTATION = {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}

OTHER_OBJECTS = {
    "another-name": (("metadata", "name"), "web"),
    "no-owner": (("metadata", "ownerReferences"), []),
    "an-owner-that-does-not-control": (("metadata", "ownerReferences", 0, "controller"), False),
    "an-owner-of-another-name": (("metadata", "ownerReferences", 0, "name"), "other"),
    "an-owner-of-another-kind": (("metadata", "ownerReferences", 0, "kind"), "PyncetteTask"),
    "an-owner-of-another-group": (("metadata", "ownerReferences", 0, "apiVersion"), "example.org/v1alpha1"),
    "kube-system": (("metadata", "namespace"), "kube-system"),
    "kube-public": (("metadata", "namespace"), "kube-public"),
}
"""What no object may be, of whichever kind."""

DEPLOYMENTS = {
    "the-account-of-somebody-else": ((*POD, "serviceAccountName"), "admin"),
    "the-default-account": ((*POD, "serviceAccountName"), "default"),
    "no-account": ((*POD, "serviceAccountName"), None),
    "a-token": ((*POD, "automountServiceAccountToken"), True),
    "a-token-by-default": ((*POD, "automountServiceAccountToken"), None),
    "an-annotation-of-apparmor": (("spec", "template", "metadata", "annotations"), UNCONFINED_ANNOTATION),
    "pods-of-others": (
        ("spec", "selector"),
        {"matchExpressions": [{"key": "pyncette.dev/pool", "operator": "Exists"}]},
    ),
}

ACCOUNTS = {
    "a-token": (("automountServiceAccountToken",), True),
    "a-token-by-default": (("automountServiceAccountToken",), None),
    "a-role-of-a-cloud": (
        ("metadata", "annotations", "eks.amazonaws.com/role-arn"),
        "arn:aws:iam::1:role/root",
    ),
    "a-Secret": (("secrets",), [{"name": "pyncette-backend"}]),
    "a-pull-secret": (("imagePullSecrets",), [{"name": "registry"}]),
}

BUDGETS = {
    "all-pods": (("spec", "selector"), {}),
    "pods-of-others": (("spec", "selector", "matchLabels"), {"app": "web"}),
    "no-eviction": (("spec", "maxUnavailable"), 0),
    "no-eviction-as-a-share": (("spec", "maxUnavailable"), "0%"),
    "no-limit": (("spec", "maxUnavailable"), None),
    "all-available": (
        ("spec",),
        {
            "minAvailable": "100%",
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"pyncette.dev/pool": "default"}},
        },
    ),
    "no-eviction-of-unhealthy-pods": (("spec", "unhealthyPodEvictionPolicy"), "IfHealthyBudget"),
}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        pytest.param(kind, path, value, id=f"{kind}-{name}")
        for kind, changes in {
            "Deployment": OTHER_OBJECTS | DEPLOYMENTS,
            "ServiceAccount": OTHER_OBJECTS | ACCOUNTS,
            "PodDisruptionBudget": OTHER_OBJECTS | BUDGETS,
        }.items()
        for name, (path, value) in changes.items()
    ],
)
def test_no_other_object_is_admitted(release, team, kind, path, value):
    manifest = changed(objects_of_pool(team)[kind], *path, value=value)

    refused = refusal(lambda: apply(release.operator, manifest))

    assert refused.status == 403
    assert release.denial("writes") in refused.message


@pytest.mark.parametrize("kind", ["Deployment", "ServiceAccount", "PodDisruptionBudget"])
@pytest.mark.parametrize("owner", ["foreign", "controlled"])
def test_an_object_of_somebody_else_is_not_taken_over(release, team, kind, owner):
    manifest = objects_of_pool(team, owner)[kind]

    # A merge replaces the whole list of owners.
    refused = refusal(lambda: release.operator.patch(manifest, manifest, dryRun="All"))

    assert "takes over no object that does not belong to a PyncetteWorkerPool" in refused.message


@pytest.mark.parametrize("kind", ["Deployment", "ServiceAccount", "PodDisruptionBudget"])
def test_nothing_is_written_in_the_namespace_of_the_operator(release, kind):
    manifest = objects_of_pool(release.namespace)[kind]

    refused = refusal(lambda: apply(release.operator, manifest))

    assert f"in its own namespace, {release.namespace}" in refused.message
    assert "settings.allowPoolsInReleaseNamespace" in refused.message


@pytest.mark.parametrize(
    ("check", "part"), [(check, part) for check, parts in BELOW.items() for part in parts]
)
def test_no_template_below_the_standard_is_admitted(release, team, check, part):
    refused = refusal(lambda: apply(release.operator, with_part(objects_of_pool(team)["Deployment"], part)))

    if check == "windowsHostProcess":  # alone it is no valid pod either
        assert "hostNetwork must be true if pod contains any hostProcess containers" in refused.message
    else:
        assert f"{release.denial('writes')} with binding" in refused.message
        assert "restricted: " in refused.message


def test_no_process_of_the_node_is_admitted(release, team):
    host = {"hostNetwork": True, "securityContext": {"windowsOptions": {"hostProcess": True}}}

    refused = refusal(lambda: apply(release.operator, with_part(objects_of_pool(team)["Deployment"], host)))

    assert "restricted: hostProcess must not be true" in refused.message


def test_a_deprecated_field_names_no_other_account(release, team):
    manifest = changed(objects_of_pool(team)["Deployment"], *POD, "serviceAccountName", value=None)
    manifest = changed(manifest, *POD, "serviceAccount", value="admin")

    assert "not as the ServiceAccount admin" in refusal(lambda: apply(release.operator, manifest)).message


def test_an_account_is_admitted_once_the_operator_may_use_it_as_the_page_says(apiserver, release, namespace):
    (page,) = [block.text for block in blocks(BACKENDS, "yaml") if block.title == "use.yaml"]
    role, binding = yaml.safe_load_all(page)
    deployment = objects_of_pool(namespace, serviceAccountName="shop-tasks")["Deployment"]
    message = refusal(lambda: apply(release.operator, deployment)).message
    assert f"give {release.namespace}/{release.account} the verb use on it" in message

    for manifest in (role, binding):
        manifest["metadata"]["namespace"] = namespace
    binding["subjects"][0] |= {"name": release.account, "namespace": release.namespace}
    for manifest in (role, binding):
        apiserver.admin.create(manifest)

    until(lambda: apply(release.operator, deployment))
    other = objects_of_pool(namespace, serviceAccountName="other")["Deployment"]
    assert "not as the ServiceAccount other" in refusal(lambda: apply(release.operator, other)).message


@pytest.mark.parametrize("part", [{"automountServiceAccountToken": True}, {"volumes": TOKEN}], ids=str)
def test_a_token_of_the_pools_account_is_admitted_once_the_operator_may_use_the_account(
    apiserver, release, namespace, part
):
    name = "pyncette-default"
    deployment = with_part(objects_of_pool(namespace)["Deployment"], part)
    message = refusal(lambda: apply(release.operator, deployment)).message
    assert f"workers get no token of the ServiceAccount {name}: set automountServiceAccountToken" in message
    assert f"give {release.namespace}/{release.account} the verb use on the ServiceAccount" in message

    rule = {"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [name], "verbs": ["use"]}
    apiserver.admin.create({**named("Role", "use", RBAC, namespace), "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": release.account, "namespace": release.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "use"}
    apiserver.admin.create(
        {**named("RoleBinding", "use", RBAC, namespace), "roleRef": reference, "subjects": [subject]}
    )

    until(lambda: apply(release.operator, deployment))


def test_no_worker_runs_as_the_operator_of_an_installation_in_another_namespace(apiserver, helm, namespace):
    """By default, the ServiceAccounts of all installations have one name."""
    with installed(apiserver, helm, {"fullnameOverride": "pyncette-common"}) as made:
        own = objects_of_pool(namespace, "common")["Deployment"]

        refused = refusal(lambda: apply(made.operator, own))

    assert "named like that of the operator, pyncette-common; give the pool another name" in refused.message


def test_workers_are_created_only_in_namespaces_with_the_labels_that_the_values_ask_for(
    apiserver, helm, namespace
):
    labels = {"admissionPolicies": {"namespaceLabels": {"example.org/workers": "true"}}}
    with installed(apiserver, helm, labels) as labelled:
        deployment = objects_of_pool(namespace)["Deployment"]

        message = refusal(lambda: apply(labelled.operator, deployment)).message
        assert "only in namespaces with the label example.org/workers=true" in message
        where = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        apiserver.admin.patch(where, {"metadata": {"labels": {"example.org/workers": "true"}}})
        until(lambda: apply(labelled.operator, deployment))


def backend(name, **open_to):
    return {"name": name, "secretName": "pyncette-backend", **open_to}


def test_workers_are_created_only_in_namespaces_that_a_backend_is_open_to(apiserver, helm, namespace, team):
    backends = [
        backend("first", namespaces=["shop"]),
        backend("second", namespaces=[namespace, "shop"]),
        backend("labelled", namespaceSelector={"matchLabels": {"example.org/a": "", "example.org/b": "c"}}),
    ]
    with installed(apiserver, helm, {"backends": backends}) as made:
        apply(made.operator, objects_of_pool(namespace)["Deployment"])

        for labels in ({}, {"example.org/b": "c"}, {"example.org/a": "", "example.org/b": "d"}):
            with apiserver.fresh_namespace(labels) as other:
                refused = refusal(lambda: apply(made.operator, objects_of_pool(other)["Deployment"]))
                assert "only in namespaces that a backend is open to" in refused.message
        with apiserver.fresh_namespace({"example.org/a": "", "example.org/b": "c"}) as labelled:
            apply(made.operator, objects_of_pool(labelled)["Deployment"])


@pytest.fixture(scope="module")
def open_release(apiserver, helm):
    """A release that allows pools in its own namespace."""
    values = {
        "settings": {"allowPoolsInReleaseNamespace": True},
        "extraEnvFrom": [{"secretRef": {"name": "env"}}],
    }
    with installed(apiserver, helm, values) as made:
        yield made


def reading_secret(name):
    """Return each way in which a pod reads a Secret."""
    return [
        {"volumes": [{"name": "x", "secret": {"secretName": name}}]},
        {"volumes": [{"name": "x", "projected": {"sources": [{"secret": {"name": name}}]}}]},
        {"volumes": [{"name": "x", "csi": {"driver": "x", "nodePublishSecretRef": {"name": name}}}]},
        beside(env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "url"}}}]),
        beside("first", "initContainers", envFrom=[{"secretRef": {"name": name}}]),
    ]


@pytest.mark.parametrize("way", range(len(reading_secret(""))))
@pytest.mark.parametrize("secret", ["pyncette-backend", "env"])
def test_no_worker_reads_a_secret_of_the_operator_in_its_namespace(open_release, way, secret):
    deployment = objects_of_pool(open_release.namespace, secret="workers")["Deployment"]

    refused = refusal(
        lambda: apply(open_release.operator, with_part(deployment, reading_secret(secret)[way]))
    )
    apply(open_release.operator, with_part(deployment, reading_secret("other")[way]))

    assert "workers may not read the Secrets of the operator" in refused.message


def test_no_worker_runs_as_the_operator_even_if_the_operator_may_use_its_own_account(apiserver, open_release):
    own = objects_of_pool(open_release.namespace, secret="workers", serviceAccountName=open_release.account)

    refused = refusal(lambda: apply(open_release.operator, own["Deployment"]))

    assert open_release.denial("writes") in refused.message


# --- What its token is not good for: all the rest ----------------------------------------------------------------------

RBAC = "rbac.authorization.k8s.io/v1"
ADMISSION = "admissionregistration.k8s.io/v1"


def named(kind, name, api_version="v1", namespace=""):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def a_pod(namespace):
    container = {"name": "a", "image": "example.org/a:1", "securityContext": CONFINED}
    return {**named("Pod", "a", namespace=namespace), "spec": {"containers": [container]}}


def a_token(client, namespace, account):
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return client.request(
        "POST", path_of(named("ServiceAccount", account, namespace=namespace), "token"), request
    )


def root(kind, name="root", namespace=""):
    binding = named(kind, name, RBAC, namespace)
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    return {
        **binding,
        "roleRef": reference,
        "subjects": [{"kind": "Group", "name": "system:serviceaccounts"}],
    }


EVERYTHING = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]

REQUESTS = {
    "reads a Secret": lambda it, ns: it.read(named("Secret", "pyncette-backend", namespace=ns)),
    "lists the Secrets of a namespace": lambda it, ns: it.list("v1", "Secret", ns),
    "lists all Secrets": lambda it, ns: it.list("v1", "Secret"),
    "creates a Secret": lambda it, ns: it.create(named("Secret", "a", namespace=ns)),
    "reads ConfigMaps of Kubernetes": lambda it, ns: it.list("v1", "ConfigMap", "kube-system"),
    "creates a pod": lambda it, ns: it.create(a_pod(ns)),
    "reads pods": lambda it, ns: it.list("v1", "Pod", ns),
    "enters a pod": lambda it, ns: it.request(
        "POST", path_of(named("Pod", "a", namespace=ns), "exec"), command="sh"
    ),
    "attaches to a pod": lambda it, ns: it.request(
        "POST", path_of(named("Pod", "a", namespace=ns), "attach")
    ),
    "debugs a pod": lambda it, ns: it.patch(named("Pod", "a", namespace=ns), {}, "ephemeralcontainers"),
    "evicts a pod": lambda it, ns: it.request("POST", path_of(named("Pod", "a", namespace=ns), "eviction")),
    "binds a pod to a node": lambda it, ns: it.request(
        "POST", path_of(named("Pod", "a", namespace=ns), "binding")
    ),
    "takes a token of its own account": lambda it, ns: a_token(it, ns, "pyncette-default"),
    "takes a token of a controller": lambda it, ns: a_token(
        it, "kube-system", "clusterrole-aggregation-controller"
    ),
    "impersonates": lambda it, ns: it.impersonating("system:admin", "system:masters").list("v1", "Secret"),
    "gives itself a ClusterRole": lambda it, ns: it.create(root("ClusterRoleBinding")),
    "gives itself a Role": lambda it, ns: it.create(root("RoleBinding", namespace=ns)),
    "makes a ClusterRole": lambda it, ns: it.create(
        {**named("ClusterRole", "root", RBAC), "rules": EVERYTHING}
    ),
    "makes a Role": lambda it, ns: it.create(
        {**named("Role", "root", RBAC, namespace=ns), "rules": EVERYTHING[:0]}
    ),
    "lifts the policies": lambda it, ns: it.request(
        "DELETE", f"/apis/{ADMISSION}/validatingadmissionpolicybindings"
    ),
    "intercepts requests": lambda it, ns: it.create(
        {**named("MutatingWebhookConfiguration", "a", ADMISSION), "webhooks": []}
    ),
    "changes a CRD": lambda it, ns: it.patch(
        named("CustomResourceDefinition", "pyncettetasks.pyncette.dev", "apiextensions.k8s.io/v1"), {}
    ),
    "serves an API": lambda it, ns: it.list("apiregistration.k8s.io/v1", "APIService"),
    "labels a namespace": lambda it, ns: it.patch(
        named("Namespace", ns), {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}
    ),
    "deletes a namespace": lambda it, ns: it.delete(named("Namespace", ns)),
    "reads nodes": lambda it, ns: it.list("v1", "Node"),
    "asks a kubelet": lambda it, ns: it.request("GET", "/api/v1/nodes/a/proxy/pods"),
    "signs a certificate": lambda it, ns: it.list("certificates.k8s.io/v1", "CertificateSigningRequest"),
    "mounts a volume of a node": lambda it, ns: it.create(
        {**named("PersistentVolume", "a"), "spec": {"hostPath": {"path": "/"}}}
    ),
    "deletes a Deployment": lambda it, ns: it.delete(
        named("Deployment", "pyncette-foreign", "apps/v1", namespace=ns)
    ),
    "deletes all Deployments": lambda it, ns: it.request(
        "DELETE", f"/apis/apps/v1/namespaces/{ns}/deployments"
    ),
    "scales a Deployment": lambda it, ns: it.patch(
        named("Deployment", "pyncette-foreign", "apps/v1", namespace=ns), {"spec": {"replicas": 0}}, "scale"
    ),
    "creates a DaemonSet": lambda it, ns: it.create(named("DaemonSet", "a", "apps/v1", namespace=ns)),
    "creates a Job": lambda it, ns: it.create(named("Job", "a", "batch/v1", namespace=ns)),
    "deletes a ServiceAccount": lambda it, ns: it.delete(named("ServiceAccount", "default", namespace=ns)),
    "creates a pool": lambda it, ns: it.create(pool(ns)),
    "changes a pool": lambda it, ns: it.patch(pool(ns), {"spec": {"image": "example.org/evil:1"}}),
    "scales a pool": lambda it, ns: it.patch(pool(ns), {"spec": {"replicas": 0}}, "scale"),
    "creates a task": lambda it, ns: it.create(task(ns)),
    "changes a task": lambda it, ns: it.patch(task(ns), {"spec": {"handler": "evil"}}),
    "deletes a task": lambda it, ns: it.delete(task(ns)),
    "opens the network": lambda it, ns: it.request(
        "DELETE", f"/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"
    ),
    "takes the place of a Service": lambda it, ns: it.create(named("Service", "a", namespace=ns)),
}


@pytest.mark.parametrize("ask", REQUESTS.values(), ids=REQUESTS)
def test_its_token_does_not_let_anybody_do_what_the_operator_does_not(release, team, ask):
    refused = refusal(lambda: ask(release.operator, team))

    assert refused.status == 403
    assert "cannot" in refused.message
