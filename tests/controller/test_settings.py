"""The operator's settings are read as a whole, and what makes no sense in them is told all at once."""

import pytest

from pyncette.controller.settings import load_settings
from pyncette.errors import ConfigurationError


@pytest.fixture
def load(tmp_path):
    def load(text, **environment):
        file = tmp_path / "operator.yaml"
        file.write_text(text)
        return load_settings(file, environment)

    return load


def test_an_empty_file_gives_the_defaults(load):
    settings = load("")

    assert [backend.name for backend in settings.backends] == ["default"]
    assert str(settings.backends[0].path) == "/etc/pyncette/backends/default/url"
    assert settings.backends[0].tls == "Required"
    assert settings.watches("anything")


def test_the_environment_describes_the_pod_unless_the_file_does(load):
    pod = {"POD_NAMESPACE": "system", "POD_NAME": "operator-1", "POD_UID": "u1"}

    assert load("", **pod).release_namespace == "system"
    assert load("releaseNamespace: other", **pod).release_namespace == "other"
    assert (load("", **pod).pod_name, load("", **pod).pod_uid) == ("operator-1", "u1")


def test_a_backend_is_open_to_the_operator_s_own_namespace_unless_it_says_to_which(load):
    own, some, every = load(
        "backends: [{name: a}, {name: b, namespaces: [shop]}, {name: c, namespaces: ['*']}]"
    ).backends

    assert [own.is_open_to(namespace, "system") for namespace in ("system", "shop", "x")] == [
        True,
        False,
        False,
    ]
    assert [some.is_open_to(namespace, "system") for namespace in ("system", "shop", "x")] == [
        False,
        True,
        False,
    ]
    assert every.is_open_to("x", "system")


def test_only_the_namespaces_that_are_listed_are_watched(load):
    settings = load("clusterId: east\nnamespaces: [shop]")

    assert settings.watches("shop")
    assert not settings.watches("other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusterid: east", "unknown field; did you mean clusterId?"),
        ("clusterId: a/b", "clusterId"),
        ("namespaces: [shop]", "clusterId is required where namespaces are listed"),
        ("backends: []", "backends"),
        ("backends: [{name: a}, {name: a}]", "two backends have the same name"),
        ("backends: [{nme: a}]", "backends[0].nme: unknown field"),
        ("backends: [{migrate: Sometimes}]", "must be Auto or Manual"),
        ("resyncSeconds: 1", "resyncSeconds: must be at least 5"),
        ("sweep: {confirm: -1}", "sweep.confirm"),
        ("health: 70000", "health: must be at most"),
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
