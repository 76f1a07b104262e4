"""What Helm prints after an installation can be pasted, and works."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.task import PyncetteTask
from tests.chart.rendering import CHART, EMBEDDED, ONE_BACKEND, TWO_NAMESPACES, Object, merged, render
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

RELEASES = [
    pytest.param(ONE_BACKEND, id="plain"),
    pytest.param(EMBEDDED, id="embedded"),
    pytest.param(TWO_NAMESPACES, id="namespaced"),
    pytest.param(
        {"backends": [{"name": "other", "secretName": "db", "namespaces": ["*"]}]}, id="another-name"
    ),
]


def manifests(notes: str) -> list[Object]:
    """The resources that the notes say to apply."""
    text = re.search(r"<<EOF\n(.*?)\n    EOF", notes, re.DOTALL)[1]
    return list(yaml.safe_load_all(re.sub(r"^    ", "", text, flags=re.MULTILINE)))


@pytest.mark.parametrize("values", RELEASES)
def test_the_pool_and_the_task_in_the_notes_are_valid_and_belong_together(helm: Helm, values):
    pool, task = manifests(helm.notes(CHART, values))

    read = PyncetteWorkerPool.model_validate(pool), PyncetteTask.model_validate(task)
    assert read[1].spec.worker_pool_ref.name == read[0].metadata.name


@pytest.mark.parametrize("values", RELEASES)
def test_the_pool_in_the_notes_goes_where_its_backend_is_open_to_it(helm: Helm, values):
    notes = helm.notes(CHART, values)

    pool, _ = manifests(notes)
    used = PyncetteWorkerPool.model_validate(pool).spec.backend_ref.name
    (backend,) = [one for one in render(helm, values).settings["backends"] if one["name"] == used]
    (namespace,) = set(re.findall(r"kubectl -n (\S+) apply", notes))
    assert namespace in backend["namespaces"] or "*" in backend["namespaces"]
    watched = render(helm, values).settings["namespaces"]
    assert not watched or namespace in watched


def test_the_secret_in_the_notes_is_what_the_embedded_postgresql_and_the_operator_look_for(
    helm: Helm, tmp_path: Path
):
    values = merged(
        EMBEDDED, {"backend": {"embedded": {"database": "cron", "username": "app", "secretKey": "dsn"}}}
    )
    notes = helm.notes(CHART, values, release="blue", namespace="elsewhere")
    rendering = render(helm, values, release="blue", namespace="elsewhere")

    commands = re.search(r"( +for name in .*?)(?=\n\n)", notes, re.DOTALL)[1]
    service = rendering.one("Service", "postgresql")["metadata"]["name"]
    created = played(commands, tmp_path)
    assert created[0] == "-n elsewhere create secret generic pyncette-postgresql"
    files = {item.partition("=")[0]: (tmp_path / item.partition("=")[2]).read_text() for item in created[1:]}
    assert set(files) == {"password", "dsn", "worker-url"}
    assert re.fullmatch(r"[0-9a-f]{32}", files["password"])
    place = f"@{service}.elsewhere.svc:5432/cron"
    assert re.fullmatch(rf"postgresql://pyncette_operator:[0-9a-f]{{32}}{place}", files["dsn"])
    assert re.fullmatch(rf"postgresql://pyncette_worker:[0-9a-f]{{32}}{place}", files["worker-url"])
    [volume] = [one for one in rendering.pod["spec"]["volumes"] if one["name"] == "settings"]
    keys = {
        item["key"]
        for source in volume["projected"]["sources"]
        for item in source.get("secret", {}).get("items", [])
    }
    assert keys == {*files, "ca.crt"}


def played(commands: str, folder: Path) -> list[str]:
    """Run commands of the notes in *folder*, and return the arguments of kubectl, which is not called: its files come last."""
    stand_in = 'kubectl() { echo "$1 $2 $3 $4 $5 $6"; shift 6; for one in "$@"; do echo "${one#--from-file=}"; done; }\n'
    done = subprocess.run(
        ["bash", "-euc", stand_in + commands], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_deployment_in_the_notes_is_the_one_that_is_installed(helm: Helm):
    for release in ("pyncette", "blue", "x" * 53):
        name = render(helm, ONE_BACKEND, release=release).one("Deployment")["metadata"]["name"]

        assert f"rollout status deployment/{name}\n" in helm.notes(CHART, ONE_BACKEND, release=release)


def test_the_notes_warn_if_the_release_does_not_install_or_keep_the_crds(helm: Helm):
    usual = helm.notes(CHART, ONE_BACKEND)
    without = helm.notes(CHART, merged(ONE_BACKEND, {"crds": {"enabled": False}}))
    fleeting = helm.notes(CHART, merged(ONE_BACKEND, {"crds": {"keep": False}}))

    assert "For a second\nrelease on this cluster, set crds.enabled=false." in usual
    assert "crds.enabled is false: this release does not install the CustomResourceDefinitions." in without
    assert "UNINSTALLING IT DELETES THEM AND ALL TASKS AND POOLS" in fleeting
    assert "UNINSTALLING" not in usual + without


def test_the_notes_name_the_secret_that_workers_need_in_each_namespace(helm: Helm):
    notes = helm.notes(CHART, TWO_NAMESPACES)

    assert "The backend default can be used by pools in orders, reports." in notes
    assert "Secret pyncette-backend with the key url" in notes


@pytest.mark.parametrize("values", [ONE_BACKEND, TWO_NAMESPACES])
def test_the_role_for_readers_of_metrics_in_the_notes_is_one_of_the_chart(helm: Helm, values):
    metrics = {"tls": {"secretName": "metrics-tls"}, "authentication": {"enabled": True}}
    values = merged(values, {"metrics": metrics})

    (role,) = re.findall(r"--clusterrole=(\S+)", helm.notes(CHART, values))

    assert role in {one["metadata"]["name"] for one in render(helm, values).all("ClusterRole")}
    assert "--clusterrole" not in helm.notes(
        CHART, merged(values, {"metrics": {"authentication": {"enabled": False}}})
    )


def test_the_notes_say_in_which_namespaces_workers_are_open(helm: Helm):
    listed = {"networkPolicy": {"workers": {"namespaces": ["shop"]}}}
    off = {"networkPolicy": {"enabled": False}}

    def notes(*values: Object) -> str:
        return " ".join(helm.notes(CHART, merged(*values)).split())

    assert "Workers in all namespaces are open" in notes(ONE_BACKEND)
    assert "to workers in shop. Workers in other namespaces are open" in notes(ONE_BACKEND, listed)
    assert "to workers in orders, reports." in notes(TWO_NAMESPACES)
    assert "are open" not in notes(TWO_NAMESPACES)
    assert "NetworkPolicies" not in notes(ONE_BACKEND, off)
