"""The settings that the chart writes are what the operator of this release reads."""

from pathlib import Path

import pytest

from pyncette.controller.settings import OperatorSettings, load_settings
from tests.chart.rendering import EMBEDDED, ONE_BACKEND, TWO_NAMESPACES, merged, render
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

IN_FULL = {
    "settings": {
        "resyncSeconds": 5,
        "withdrawalGraceSeconds": 0,
        "statusWritesPerSecond": 1,
        "sweep": {"confirm": 1_000_000, "sharePercent": 100, "least": 0},
        "logFormat": "text",
        "logLevel": "DEBUG",
    },
    "metrics": {"enabled": False},
    "clusterId": "blue",
}
TRIAL = {"backend": {"embedded": {"name": "trial", "namespaces": ["*"]}}}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(ONE_BACKEND, id="plain"),
        pytest.param(EMBEDDED, id="embedded"),
        pytest.param(TWO_NAMESPACES, id="namespaced"),
        pytest.param(merged(TWO_NAMESPACES, EMBEDDED, TRIAL), id="two-backends"),
        pytest.param(merged(ONE_BACKEND, IN_FULL), id="in-full"),
        pytest.param(
            merged(ONE_BACKEND, {"settings": {"resyncSeconds": 86_400, "statusWritesPerSecond": 10_000}}),
            id="most",
        ),
    ],
)
def test_the_operator_reads_what_the_chart_writes_and_finds_its_backends_and_its_place(
    helm: Helm, tmp_path: Path, values
):
    rendering = render(helm, values, namespace="elsewhere")
    file = tmp_path / "operator.yaml"
    file.write_text(rendering.one("ConfigMap", "operator")["data"]["operator.yaml"])
    of_the_pod = {
        "metadata.name": "operator-0",
        "metadata.namespace": "elsewhere",
        "metadata.uid": "1-2-3",
        "spec.serviceAccountName": "mine",
    }
    environment = {
        one["name"]: of_the_pod[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in rendering.container["env"]
    }

    settings = load_settings(file, environment)

    assert settings.release_namespace == "elsewhere"
    assert settings.pod_name == "operator-0"
    assert settings.pod_service_account == "mine"
    (volume,) = [one for one in rendering.pod["spec"]["volumes"] if one["name"] == "settings"]
    mounted = {
        f"/etc/pyncette/{item['path']}"
        for source in volume["projected"]["sources"]
        for item in source.get("secret", {}).get("items", [])
    }
    expected = {str(backend.path) for backend in settings.backends}
    expected |= {str(backend.path.with_name("ca.crt")) for backend in settings.backends}
    for roles in (backend.roles for backend in settings.backends if backend.roles):
        expected |= {roles.password_file, roles.worker_url_file}
    assert mounted == expected
    assert list(settings.namespaces) == values.get("namespaces", [])


def least() -> OperatorSettings:
    """The settings that have nothing but what is required."""
    return OperatorSettings.model_validate({"backends": [{"namespaces": ["shop"]}]})


def test_what_is_not_set_is_as_the_operator_would_have_it_without_the_chart(helm: Helm):
    written = render(helm, ONE_BACKEND).settings

    by_itself = least().model_dump(by_alias=True, mode="json")
    for name, value in written.items():
        if name != "backends":
            assert by_itself[name] == value, name
    (backend,) = written["backends"]
    assert backend == {**by_itself["backends"][0], "urlFile": "/etc/pyncette/backends/default/url"}


def test_the_tls_of_a_backend_is_required_unless_the_values_say_otherwise(helm: Helm):
    backends = [
        {"name": f"db-{number}", "secretName": "db", "namespaces": ["shop"], **tls}
        for number, tls in enumerate(({}, {"tls": "Preferred"}, {"tls": "Disabled"}))
    ]

    written = render(helm, {"backends": backends}).settings

    assert [backend["tls"] for backend in written["backends"]] == ["Required", "Preferred", "Disabled"]


def test_a_secret_without_authorities_does_not_keep_the_operator_from_starting(helm: Helm):
    [volume] = [one for one in render(helm, ONE_BACKEND).pod["spec"]["volumes"] if one["name"] == "settings"]

    optional = {
        source["secret"]["items"][0]["key"]: source["secret"].get("optional", False)
        for source in volume["projected"]["sources"]
        if "secret" in source
    }
    assert optional == {"url": False, "ca.crt": True}


def test_every_setting_of_the_operator_can_be_set_or_is_the_charts_to_know(helm: Helm):
    of_the_pod = {"podName", "podUid", "podServiceAccount", "releaseNamespace"}

    known = set(least().model_dump(by_alias=True))
    assert known - of_the_pod == set(render(helm, ONE_BACKEND).settings)
