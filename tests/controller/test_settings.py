"""The operator's settings are read as a whole, and what makes no sense in them is told all at once."""

import pytest

from pyncette.controller.reconcile.open_namespaces import OpenNamespaces
from pyncette.controller.settings import load_settings
from pyncette.errors import ConfigurationError


@pytest.fixture
def load(tmp_path):
    def load(text, **environment):
        file = tmp_path / "operator.yaml"
        file.write_text(text)
        return load_settings(file, environment)

    return load


LEAST = "backends: [{namespaces: [shop]}]"


def test_a_file_with_a_backend_gives_the_defaults(load):
    settings = load(LEAST)

    assert [backend.name for backend in settings.backends] == ["default"]
    assert str(settings.backends[0].path) == "/etc/pyncette/backends/default/url"
    assert settings.backends[0].tls == "Required"
    assert settings.watches("anything")


def test_the_environment_describes_the_pod_unless_the_file_does(load):
    pod = {
        "POD_NAMESPACE": "system",
        "POD_NAME": "operator-1",
        "POD_UID": "u1",
        "POD_SERVICE_ACCOUNT": "pyncette-operator",
    }

    assert load(LEAST, **pod).release_namespace == "system"
    assert load(f"{LEAST}\nreleaseNamespace: other", **pod).release_namespace == "other"
    assert (load(LEAST, **pod).pod_name, load(LEAST, **pod).pod_uid) == ("operator-1", "u1")
    assert load(LEAST, **pod).pod_service_account == "pyncette-operator"


def test_a_backend_is_open_to_the_namespaces_of_its_list_and_to_no_other_by_default(load):
    some, every = load("backends: [{name: b, namespaces: [shop]}, {name: c, namespaces: ['*']}]").backends

    is_open = OpenNamespaces([some, every]).is_open
    assert [is_open("b", namespace) for namespace in ("default", "shop", "x")] == [False, True, False]
    assert is_open("c", "x")


def test_only_the_namespaces_that_are_listed_are_watched(load):
    settings = load(f"clusterId: east\nnamespaces: [shop]\n{LEAST}")

    assert settings.watches("shop")
    assert not settings.watches("other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusterid: east", "unknown field; did you mean clusterId?"),
        ("clusterId: a/b", "clusterId"),
        (f"{LEAST}\nnamespaces: [shop]", "clusterId is required where namespaces are listed"),
        ("backends: []", "backends"),
        ("clusterId: east", "backends: is required"),
        (
            "backends: [{name: a}]",
            "backends[0].namespaces: is required: list the namespaces whose pools may use",
        ),
        ("backends: [{namespaces: []}]", "backends[0].namespaces: is required"),
        (
            "backends: [{namespaces: [a], namespaceSelector: {matchLabels: {a: b}}}]",
            "backends[0].namespaceSelector: stands instead of namespaces",
        ),
        (
            "clusterId: east\nnamespaces: [a]\nbackends: [{namespaceSelector: {matchLabels: {a: b}}}]",
            "takes the right to list the namespaces of the cluster",
        ),
        ("backends: [{namespaceSelector: {matchLabels: {}}}]", "backends[0].namespaceSelector.matchLabels"),
        ("backends: [{namespaceSelector: {matchLabels: {'a=b,c': d}}}]", "namespaceSelector.matchLabels"),
        ("backends: [{namespaceSelector: {matchLabels: {a: 'b,c'}}}]", "namespaceSelector.matchLabels"),
        (
            "backends: [{name: a, namespaces: [a]}, {name: a, namespaces: [b]}]",
            "two backends have the same name",
        ),
        (
            f"{LEAST}\nallowPoolsInReleaseNamespace: true",
            "podServiceAccount: is required with allowPoolsInReleaseNamespace",
        ),
        ("backends: [{nme: a}]", "backends[0].nme: unknown field"),
        ("backends: [{migrate: Sometimes}]", "must be Auto or Manual"),
        ("resyncSeconds: 1", "resyncSeconds: must be at least 5"),
        ("sweep: {confirm: -1}", "sweep.confirm"),
        ("health: 70000", "health: must be at most"),
        (
            f"{LEAST}\nmetricsAuthentication: true",
            "metricsAuthentication: requires metricsCertificate: without TLS, the tokens of readers",
        ),
        ("logLevel: LOUD", "logLevel"),
        ("[]", "a mapping"),
        ("a: 1\n---\nb: 2", "a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_invalid_input_is_reported(load, text, said):
    with pytest.raises(ConfigurationError, match=r"operator\.yaml") as refused:
        load(text)
    assert said in str(refused.value)


def test_all_problems_are_reported_at_once(load):
    with pytest.raises(ConfigurationError) as refused:
        load("resyncSeconds: 1\nhealth: -1")
    assert "resyncSeconds" in str(refused.value)
    assert "health" in str(refused.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_reported_without_its_content(tmp_path, content):
    file = tmp_path / "operator.yaml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError, match="cannot read"):
        load_settings(file, {})
