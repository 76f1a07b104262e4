"""The operator's pod: alone, restricted, and told what it needs to know."""

import pytest

from pyncette.controller.settings import DEFAULT_WORKERS, OperatorSettings, WorkerSettings
from tests.chart.rendering import EMBEDDED, ONE_BACKEND, TWO_NAMESPACES, merged, render
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

PODS = [
    pytest.param(ONE_BACKEND, "Deployment", id="operator"),
    pytest.param(EMBEDDED, "StatefulSet", id="postgresql"),
]


@pytest.mark.parametrize(("values", "kind"), PODS)
def test_a_pod_is_below_nothing_that_the_restricted_standard_asks_for(helm: Helm, values, kind):
    spec = render(helm, values).one(kind)["spec"]["template"]["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0, "by number, since the kubelet cannot look names up"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [port for port in container["ports"] if "hostPort" in port]
    for volume in spec["volumes"]:
        assert {"emptyDir", "projected", "secret", "persistentVolumeClaim", "configMap"} & set(volume)


@pytest.mark.parametrize(("values", "kind"), PODS)
def test_a_pod_has_requests_and_a_limit_of_memory_and_sees_no_services_in_its_environment(
    helm: Helm, values, kind
):
    spec = render(helm, values).one(kind)["spec"]["template"]["spec"]

    assert spec["enableServiceLinks"] is False, "a Service named pyncette-… would look like a setting"
    for container in spec["containers"]:
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_there_is_one_operator_and_never_a_second_one_during_an_upgrade(helm: Helm):
    spec = render(helm, ONE_BACKEND).one("Deployment")["spec"]

    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_probes_ask_for_health_on_its_port_and_not_for_metrics(helm: Helm):
    container = render(helm, ONE_BACKEND).container
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert ports == {"health": 8080, "metrics": 9090}
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/healthz", "port": "health"},
        "liveness": {"path": "/healthz", "port": "health"},
        "readiness": {"path": "/readyz", "port": "health"},
    }


def test_its_settings_are_those_of_the_values_in_full(helm: Helm):
    values = {
        "settings": {
            "resyncSeconds": 60,
            "withdrawalGraceSeconds": 31_536_000,
            "statusWritesPerSecond": 10,
            "recordMebibytesPerNamespace": 8,
            "recordMebibytesPerBackend": 16,
            "recordMebibytes": 32,
            "perNamespace": {"passes": 4},
            "allowPoolsInReleaseNamespace": True,
            "workers": {"resources": {"limits": {"memory": "1Gi"}}, "tmpSizeLimit": "2Gi"},
            "sweep": {"confirm": 1_000_000, "sharePercent": 0, "least": 0},
            "logFormat": "text",
            "logLevel": "DEBUG",
        },
        "backends": [
            {
                "name": "shared",
                "secretName": "db",
                "workerSecretName": "db-workers",
                "secretKey": "dsn",
                "tls": "Preferred",
                "namespaces": ["orders"],
                "migrate": "Manual",
            }
        ],
        "extraVolumes": [
            {"name": "a", "secret": {"secretName": "ca"}},
            {
                "name": "b",
                "projected": {"sources": [{"secret": {"name": "token"}}, {"configMap": {"name": "x"}}]},
            },
            {"name": "c", "emptyDir": {}},
        ],
        "extraEnv": [
            {"name": "A", "value": "1"},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "env", "key": "b"}}},
        ],
        "extraEnvFrom": [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "y"}}],
    }

    assert render(helm, TWO_NAMESPACES, values).settings == {
        "clusterId": "blue",
        "namespaces": ["orders", "reports"],
        "backends": [
            {
                "name": "shared",
                "secretName": "db",
                "workerSecretName": "db-workers",
                "secretKey": "dsn",
                "urlFile": "/etc/pyncette/backends/shared/url",
                "tls": "Preferred",
                "namespaces": ["orders"],
                "namespaceSelector": None,
                "migrate": "Manual",
                "roles": None,
            }
        ],
        "resyncSeconds": 60,
        "withdrawalGraceSeconds": 31_536_000,
        "statusWritesPerSecond": 10,
        "recordMebibytesPerNamespace": 8,
        "recordMebibytesPerBackend": 16,
        "recordMebibytes": 32,
        "perNamespace": {"passes": 4},
        "allowPoolsInReleaseNamespace": True,
        "workers": {
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "tmpSizeLimit": "2Gi",
        },
        "ownSecrets": ["ca", "token", "env"],
        "sweep": {"confirm": 1_000_000, "sharePercent": 0, "least": 0},
        "health": 8080,
        "metrics": 9090,
        "metricsCertificate": "",
        "metricsAuthentication": False,
        "logFormat": "text",
        "logLevel": "DEBUG",
    }


def test_the_defaults_of_workers_are_those_of_the_operator(helm: Helm):
    workers = WorkerSettings.model_validate(render(helm, ONE_BACKEND).settings["workers"])

    assert workers == DEFAULT_WORKERS


@pytest.mark.parametrize(
    ("resources", "settings"),
    [(None, {}), ({"limits": None}, {"requests": {"cpu": "100m", "memory": "128Mi"}})],
)
def test_resources_of_workers_can_be_left_to_the_namespace(helm: Helm, resources, settings):
    rendering = render(helm, ONE_BACKEND, {"settings": {"workers": {"resources": resources}}})

    assert rendering.settings["workers"]["resources"] == settings


def test_numbers_in_the_settings_stay_whole_numbers_and_text_stays_text(helm: Helm):
    values = {
        "clusterId": "0123",
        "settings": {"withdrawalGraceSeconds": 31_536_000, "sweep": {"confirm": 10_000_000}},
    }

    text = render(helm, ONE_BACKEND, values).one("ConfigMap")["data"]["operator.yaml"]

    assert "withdrawalGraceSeconds: 31536000\n" in text
    assert "confirm: 10000000\n" in text
    assert 'clusterId: "0123"\n' in text


def test_without_metrics_no_port_is_open_for_them_and_the_operator_knows(helm: Helm):
    rendering = render(helm, ONE_BACKEND, {"metrics": {"enabled": False}})

    assert rendering.settings["metrics"] == 0
    assert [port["name"] for port in rendering.container["ports"]] == ["health"]
    assert not rendering.all("Service")


def test_the_certificate_of_the_metrics_is_mounted_and_the_operator_told_where(helm: Helm):
    rendering = render(helm, ONE_BACKEND, {"metrics": {"tls": {"secretName": "metrics-tls"}}})

    (settings, _) = rendering.pod["spec"]["volumes"]
    assert {
        "secret": {
            "name": "metrics-tls",
            "items": [
                {"key": "tls.crt", "path": "metrics/tls.crt"},
                {"key": "tls.key", "path": "metrics/tls.key"},
            ],
        }
    } in settings["projected"]["sources"]
    (mount, _) = rendering.container["volumeMounts"]
    assert rendering.settings["metricsCertificate"] == f"{mount['mountPath']}/metrics"
    assert rendering.settings["ownSecrets"] == ["metrics-tls"], "pools in its namespace must not mount it"


def test_the_operator_is_told_to_ask_readers_of_metrics_for_a_token(helm: Helm):
    values = {"metrics": {"tls": {"secretName": "metrics-tls"}, "authentication": {"enabled": True}}}

    settings = OperatorSettings.model_validate(render(helm, ONE_BACKEND, values).settings)

    assert settings.metrics_authentication


def test_the_metrics_of_an_operator_that_is_not_ready_are_served_too(helm: Helm):
    service = render(helm, ONE_BACKEND).one("Service")

    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["ports"] == [
        {"name": "metrics", "port": 9090, "targetPort": "metrics", "protocol": "TCP"}
    ]


def test_a_change_of_the_settings_restarts_the_operator_and_nothing_else_of_the_release_does(helm: Helm):
    def checksum(*values):
        return render(helm, ONE_BACKEND, *values).pod["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum({"commonLabels": {"a": "b"}, "dashboard": {"enabled": True}})
    assert checksum() != checksum({"settings": {"resyncSeconds": 60}})
    assert checksum() != checksum(
        {"backends": [{"name": "default", "secretName": "another", "namespaces": ["shop"]}]}
    )


def test_settings_and_secrets_lie_where_the_operator_looks_for_them(helm: Helm):
    backends = [
        {"name": "default", "secretName": "one", "namespaces": ["shop"]},
        {"name": "other", "secretName": "two", "secretKey": "dsn", "namespaces": ["*"]},
    ]
    rendering = render(helm, {"backends": backends})

    mounts = {mount["name"]: mount for mount in rendering.container["volumeMounts"]}
    (volume,) = [one for one in rendering.pod["spec"]["volumes"] if one["name"] == "settings"]
    assert mounts["settings"] == {"name": "settings", "mountPath": "/etc/pyncette", "readOnly": True}
    placed = {
        f"/etc/pyncette/{item['path']}": (next(iter(source)), source[next(iter(source))]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source[next(iter(source))]["items"]
    }
    assert placed == {
        "/etc/pyncette/operator.yaml": ("configMap", "pyncette-operator", "operator.yaml"),
        "/etc/pyncette/backends/default/url": ("secret", "one", "url"),
        "/etc/pyncette/backends/default/ca.crt": ("secret", "one", "ca.crt"),
        "/etc/pyncette/backends/other/url": ("secret", "two", "dsn"),
        "/etc/pyncette/backends/other/ca.crt": ("secret", "two", "ca.crt"),
    }
    assert [one["urlFile"] for one in rendering.settings["backends"]] == [
        path for path in placed if path.endswith("/url")
    ]
    assert volume["projected"]["defaultMode"] == 0o440


def test_what_changes_in_a_secret_reaches_the_operator_without_a_restart(helm: Helm):
    for mount in render(helm, ONE_BACKEND).container["volumeMounts"]:
        assert "subPath" not in mount, "the kubelet never updates what is mounted by subPath"


def test_arguments_environment_and_volumes_of_the_user_come_after_ours(helm: Helm):
    values = {
        "extraArgs": ["--config", "/elsewhere"],
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "proxy.example.org"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    }
    rendering = render(helm, ONE_BACKEND, values)

    assert rendering.container["args"] == ["operator", "--config", "/elsewhere"]
    assert rendering.container["env"][-1] == {"name": "HTTPS_PROXY", "value": "proxy.example.org"}
    assert rendering.container["volumeMounts"][-1]["name"] == "ca"
    assert rendering.pod["spec"]["volumes"][-1]["name"] == "ca"


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "pyncette-operator:0.1.0"),
        ({"tag": "test"}, "pyncette-operator:test"),
        ({"tag": "1.10"}, "pyncette-operator:1.10"),
        ({"repository": "registry.example.org:5000/p", "tag": "1"}, "registry.example.org:5000/p:1"),
        ({"tag": "1", "digest": "sha256:" + "0" * 64}, "pyncette-operator@sha256:" + "0" * 64),
    ],
)
def test_the_image_is_that_of_the_values(helm: Helm, image, reference):
    assert render(helm, ONE_BACKEND, {"image": image}).container["image"] == reference


@pytest.mark.parametrize(
    "values",
    [
        ONE_BACKEND,
        EMBEDDED,
        merged(TWO_NAMESPACES, EMBEDDED, {"backend": {"embedded": {"name": "b", "namespaces": ["*"]}}}),
    ],
)
def test_no_secret_is_made_and_no_url_of_a_database_stands_anywhere(helm: Helm, values):
    rendering = render(helm, values)

    assert "Secret" not in rendering.kinds
    text = str([one for one in rendering.objects if one["kind"] != "CustomResourceDefinition"])
    assert "://" not in text
