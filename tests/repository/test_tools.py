"""What a test may expect of the programs that it asks for."""

import shutil
from pathlib import Path

import pytest

from tests.servers import tools
from tests.servers.tools import Helm, HelmRefusedError, MissingToolError


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path: Path) -> Path:
    """A machine with no program on it, and an empty cache."""
    for variable in (tools.HELM_VARIABLE, tools.PROMTOOL_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(tools.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for find in (tools.find_helm, tools.find_promtool):
        find.cache_clear()
    yield tmp_path
    for find in (tools.find_helm, tools.find_promtool):
        find.cache_clear()


def test_a_missing_helm_is_a_failure_that_says_what_brings_it(nothing_installed):
    with pytest.raises(MissingToolError) as missing:
        tools.find_helm()

    assert "install Go" in str(missing.value)
    assert "PYNCETTE_TEST_HELM=" in str(missing.value)


def test_a_helm_that_cannot_be_built_is_a_failure_that_says_why(nothing_installed):
    go = nothing_installed / "go"
    go.write_text("#!/bin/sh\necho no such module >&2; exit 1\n")
    go.chmod(0o755)

    with pytest.raises(MissingToolError, match="no such module"):
        tools.find_helm()

    assert not (nothing_installed / "cache" / "bin" / "helm").exists()


def test_the_helm_that_is_built_is_the_one_that_the_node_is_built_with(nothing_installed):
    go = nothing_installed / "go"
    go.write_text(
        '#!/bin/sh\necho "#!/bin/sh\necho $3 $4 $5" > "$GOBIN/helm"; PATH=/usr/bin:/bin chmod +x "$GOBIN/helm"\n'
    )
    go.chmod(0o755)

    program = tools.find_helm()

    assert program == nothing_installed / "cache" / "bin" / "helm"
    (pinned,) = {word for word in (tools.NODE / "build").read_text().split() if word.startswith("helm=v4")}
    assert pinned.replace("helm=", "helm@") in program.read_text()


def test_a_missing_promtool_is_a_failure_that_names_the_command_that_installs_it(nothing_installed):
    with pytest.raises(MissingToolError) as missing:
        tools.find_promtool()

    assert "apt-get install prometheus" in str(missing.value)


def test_programs_that_the_environment_names_are_used_as_they_are(nothing_installed, monkeypatch):
    monkeypatch.setenv(tools.HELM_VARIABLE, "/somewhere/helm")
    monkeypatch.setenv(tools.PROMTOOL_VARIABLE, "/somewhere/promtool")

    assert tools.find_helm() == Path("/somewhere/helm")
    assert tools.find_promtool() == Path("/somewhere/promtool")


def test_helm_does_not_use_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HELM_NAMESPACE", "theirs")
    monkeypatch.setenv("HELM_KUBECONTEXT", "theirs")
    monkeypatch.setenv("KUBECONFIG", "/theirs")

    said = Helm(Path(shutil.which("env") or "/usr/bin/env"), tmp_path).run()

    assert "theirs" not in said
    assert f"KUBECONFIG={tmp_path}" in said


def test_a_refusal_of_helm_has_its_own_message(tmp_path):
    with pytest.raises(HelmRefusedError, match="No such file"):
        Helm(Path("/bin/ls"), tmp_path).run("/no/such/file")
