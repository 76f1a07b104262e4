"""What the README of the chart says to type does what it says."""

import re
import shlex

import pytest
import yaml

from tests.chart.rendering import CHART, ROOT, Rendering
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

README = (CHART / "README.md").read_text()


def commands(program: str) -> list[list[str]]:
    """The words of each command of *program* in the README's blocks of shell."""
    blocks = re.findall(r"```shell\n(.*?)```", README, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"{program} ")]


def rendered(helm: Helm, command: list[str]) -> Rendering:
    assert command[:3] == ["helm", "upgrade", "--install"]
    arguments = [str(ROOT / word) if word == "charts/pyncette-operator" else word for word in command[3:]]
    return Rendering([one for one in yaml.safe_load_all(helm.run("template", *arguments)) if one])


def test_each_installation_of_the_readme_renders_and_finds_the_secret_that_was_made_for_it(helm: Helm):
    installations = commands("helm")
    secrets = [one for one in commands("kubectl") if "secret" in one]

    assert len(installations) == 2
    assert len(secrets) == 4
    for installation, operators, workers in zip(installations, secrets[::2], secrets[1::2], strict=True):
        rendering = rendered(helm, installation)
        (backend,) = rendering.settings["backends"]
        (volume,) = [one for one in rendering.pod["spec"]["volumes"] if one["name"] == "settings"]
        sources = [source["secret"] for source in volume["projected"]["sources"] if "secret" in source]
        mounted = {item["key"] for one in sources if not one.get("optional") for item in one["items"]}
        of_operator = (rendering.one("Deployment")["metadata"]["namespace"], operators, mounted)
        (of_workers,) = [(team, workers, {backend["secretKey"]}) for team in backend["namespaces"]]
        for namespace, secret, keys in (of_operator, of_workers):
            assert secret[:6] == ["kubectl", "-n", namespace, "create", "secret", "generic"]
            assert secret[6] == backend["secretName"]
            assert {word.partition("=")[0] for word in secret[7:]} == {"--from-file"}
            assert {word.split("=")[1] for word in secret[7:]} == keys


def test_the_url_of_the_embedded_postgresql_in_the_readme_is_its_address(helm: Helm):
    (database,) = re.findall(r"^DATABASE=(.*)$", README, re.MULTILINE)
    urls = [words[1] for words in commands("printf")]
    (installation,) = [one for one in commands("helm") if any("embedded" in word for word in one)]

    rendering = rendered(helm, installation)

    service = rendering.one("Service", "postgresql")["metadata"]
    port = rendering.one("Service", "postgresql")["spec"]["ports"][0]["port"]
    environment = rendering.one("StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    values = {one["name"]: one["value"] for one in environment}
    assert urls == ["postgresql://pyncette_operator:%s@%s", "postgresql://pyncette_worker:%s@%s"]
    assert database == f"{service['name']}.{service['namespace']}.svc:{port}/{values['POSTGRES_DB']}"


def test_files_that_the_readme_links_to_are_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (CHART / target).exists(), target


def test_each_value_that_the_prose_names_exists():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    prose = README.partition("## Values")[0]

    for name in re.findall(r"`((?:[a-z][A-Za-z]*\.)+[a-zA-Z]+)(?:=[^`]*)?`", prose):
        where = values
        for part in name.split("."):
            assert part in where, name
            where = where[part]
