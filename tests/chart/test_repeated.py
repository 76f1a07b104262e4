"""The commands of the pages on a real API server: one that failed is repeated as it stands, once its cause is gone."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart.rendering import ROOT
from tests.cluster.quick_start import CommandFailedError, Shell, commands, files, section
from tests.pages import PAGES
from tests.pages import commands as words_of
from tests.servers import MissingServerError
from tests.servers.kubernetes import ApiServer, open_apiserver
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

INSTALL = ROOT / "docs" / "how-to" / "install.md"


@pytest.fixture(scope="module")
def bare_apiserver() -> Iterator[ApiServer]:
    """An API server that nobody has put anything into."""
    try:
        server = open_apiserver()
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)
    with server:
        yield server


@pytest.fixture
def shell(helm: Helm, bare_apiserver: ApiServer, tmp_path: Path) -> Iterator[Shell]:
    """A shell as the pages expect it: in a checkout, with kubectl and Helm, and an administrator of the cluster."""
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "helm").symlink_to(helm.program)
    (tmp_path / "bin" / "kubectl").symlink_to(bare_apiserver.programs / "kubectl")
    environment = helm.environment(bare_apiserver.kubeconfig)
    with Shell(tmp_path, {**environment, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}) as shell:
        yield shell


def test_an_installation_that_lacked_a_namespace_is_repeated_word_for_word(
    shell: Shell, bare_apiserver: ApiServer, tmp_path: Path
):
    text = section(INSTALL, "In some namespaces only")
    (tmp_path / "values.yaml").write_text(files(text)["values.yaml"])
    (installs,) = [line for line in commands(section(INSTALL, "With Helm")) if line.startswith("helm ")]
    # There is no node here, so no Deployment that is waited for would ever be ready.
    installs = f"{installs} --wait=hookOnly"
    shell.run("kubectl create namespace pyncette")
    shell.run("kubectl create namespace shop")

    with pytest.raises(CommandFailedError, match='namespaces "reports" not found'):
        shell.run(installs)
    with pytest.raises(CommandFailedError, match='namespaces "reports" not found'):
        shell.run(installs)
    shell.run("kubectl create namespace reports")
    shell.run(installs)
    shell.run(installs)

    (release,) = json.loads(shell.run("helm list --namespace pyncette --output json"))
    assert release["status"] == "deployed"
    for namespace in ("shop", "reports", "pyncette"):
        bare_apiserver.kubectl("get", "rolebinding", "pyncette-operator", f"--namespace={namespace}")
    bare_apiserver.kubectl("get", "deployment", "pyncette-operator", "--namespace=pyncette")


def test_no_page_installs_by_a_command_that_cannot_be_repeated():
    pages = [*PAGES, ROOT / "charts" / "pyncette-operator" / "README.md"]
    by_helm = [words[1:3] for page in pages for words in words_of(page) if words[0] == "helm"]

    assert ["upgrade", "--install"] in by_helm
    assert "install" not in {verb for verb, _ in by_helm}
