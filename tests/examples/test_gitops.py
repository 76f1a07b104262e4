"""What Argo CD and Flux are told of tasks and pools, and that the examples are what the operator accepts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lupa import lua51

from tests.chart.rendering import CHART
from tests.servers.tools import Helm

GITOPS = Path(__file__).resolve().parents[2] / "examples" / "gitops"

READY, READY_NOT, UNKNOWN = "True", "False", "Unknown"


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((GITOPS / name).read_text()))


def health(kind: str, resource: dict) -> str:
    """Run the script for *kind* as Argo CD does: Lua 5.1, the basic functions and those of tables, and the object."""
    (patch,) = documents("argocd/health.yaml")
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for library in ("string", "math", "io", "os", "debug", "package", "coroutine", "require", "python"):
        lua.globals()[library] = None
    lua.globals()["obj"] = _table(lua, resource)
    said = lua.execute(patch["data"][f"resource.customizations.health.pyncette.dev_{kind}"])
    assert set(said) == {"status", "message"}
    assert isinstance(said["message"], str)
    return said["status"]


def _table(lua, value):
    if isinstance(value, dict):
        return lua.table_from({key: _table(lua, inner) for key, inner in value.items()})
    if isinstance(value, list):
        return lua.table_from([_table(lua, inner) for inner in value])
    return value


def resource(observed: int, ready: str, reason: str = "", *, reconciling=False, stalled=False) -> dict:
    """A resource of generation 3, in the state that its conditions say."""
    conditions = [{"type": "Ready", "status": ready, "reason": reason, "message": "why"}]
    if reconciling:
        conditions.append({"type": "Reconciling", "status": "True", "reason": reason, "message": "why"})
    if stalled:
        conditions.append({"type": "Stalled", "status": "True", "reason": reason, "message": "why"})
    return {
        "metadata": {"generation": 3},
        "status": {"observedGeneration": observed, "conditions": conditions},
    }


# The table of states in the design of the resources, row by row.
OF_TASKS = [
    ("just created", resource(-1, UNKNOWN, "Pending"), "Progressing"),
    ("mirrored, next run known", resource(3, READY, "Scheduled"), "Healthy"),
    (
        "not yet in the backend, which is down",
        resource(3, READY_NOT, "BackendDown", reconciling=True),
        "Progressing",
    ),
    (
        "handler not known yet, in a rollout",
        resource(3, READY_NOT, "HandlerPending", reconciling=True),
        "Progressing",
    ),
    (
        "handler unknown to all current workers",
        resource(3, READY_NOT, "HandlerUnknown", stalled=True),
        "Degraded",
    ),
    ("suspended by the spec", resource(3, READY, "Suspended"), "Suspended"),
    ("suspended by exhaustion", resource(3, READY_NOT, "RetriesExhausted", stalled=True), "Degraded"),
    ("one-off finished", resource(3, READY, "Completed"), "Healthy"),
    ("last run failed", resource(3, READY, "LastRunFailed"), "Healthy"),
    ("never seen by an API server with our CRD", {"metadata": {"generation": 1}}, "Progressing"),
    ("changed since the operator looked", resource(2, READY, "Scheduled"), "Progressing"),
    ("stalled, and repaired since the operator looked", resource(2, READY_NOT, stalled=True), "Progressing"),
    ("neither ready nor with a reason", resource(3, UNKNOWN), "Progressing"),
]
OF_POOLS = [
    ("just created", resource(-1, UNKNOWN, "Pending"), "Progressing"),
    ("all workers ready", resource(3, READY, "Available"), "Healthy"),
    ("in a rollout", resource(3, READY_NOT, "RollingOut", reconciling=True), "Progressing"),
    ("rollout past its deadline", resource(3, READY_NOT, "DeadlineExceeded", stalled=True), "Degraded"),
    ("no such Secret", resource(3, READY_NOT, "SecretMissing", stalled=True), "Degraded"),
    ("scaled to zero", resource(3, READY, "ScaledToZero"), "Healthy"),
    ("changed since the operator looked", resource(2, READY, "Available"), "Progressing"),
]


@pytest.mark.parametrize(("state", "task", "expected"), OF_TASKS, ids=[row[0] for row in OF_TASKS])
def test_argo_cd_sees_a_task_as_it_is(state, task, expected):
    assert health("PyncetteTask", task) == expected


@pytest.mark.parametrize(("state", "pool", "expected"), OF_POOLS, ids=[row[0] for row in OF_POOLS])
def test_argo_cd_sees_a_pool_as_it_is(state, pool, expected):
    assert health("PyncetteWorkerPool", pool) == expected


def test_the_manifests_of_the_team_are_what_the_operator_accepts(tmp_path):
    for name in ("pool.yaml", "tasks.yaml"):
        shutil.copy(GITOPS / "team" / name, tmp_path)
    handlers = {
        one["spec"]["handler"] for one in documents("team/tasks.yaml") if one["kind"] == "PyncetteTask"
    }
    declared = "".join(f"@app.handler()\nasync def {name}(context): ...\n" for name in sorted(handlers))
    (tmp_path / "tasks.py").write_text(f"from pyncette import Pyncette\napp = Pyncette()\n{declared}")

    checked = subprocess.run(
        [sys.executable, "-m", "pyncette.cli", "check", str(tmp_path)], capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_in_the_teams_folder_is_what_is_applied():
    (kustomization,) = documents("team/kustomization.yaml")

    beside = {path.name for path in (GITOPS / "team").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == beside
    (namespace,) = documents("team/namespace.yaml")
    for name in ("pool.yaml", "tasks.yaml"):
        for one in documents(f"team/{name}"):
            assert one["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_flux_applies_tasks_after_the_operator_and_waits_for_them():
    (source,) = documents("flux/source.yaml")
    (operator,) = documents("flux/operator.yaml")
    (team,) = documents("flux/team.yaml")

    assert team["spec"]["dependsOn"] == [{"name": operator["metadata"]["name"]}]
    for one in (operator, team):
        assert one["spec"]["wait"] is True
        assert one["spec"]["sourceRef"] == {"kind": source["kind"], "name": source["metadata"]["name"]}
        assert (GITOPS.parents[1] / one["spec"]["path"]).is_dir()


@pytest.mark.cluster
@pytest.mark.parametrize("product", ["flux", "argocd"])
def test_the_values_of_the_examples_install_an_operator_for_the_team(helm: Helm, product):
    if product == "flux":
        spec = documents("flux/operator/release.yaml")[1]["spec"]
        chart, values = spec["chart"]["spec"]["chart"], spec["values"]
    else:
        (application,) = documents("argocd/operator.yaml")
        source = application["spec"]["source"]
        chart, values = source["path"], source["helm"]["valuesObject"]

    objects = helm.template(GITOPS.parents[1] / chart, values)

    assert (GITOPS.parents[1] / chart).resolve() == CHART
    (settings,) = [one["data"]["operator.yaml"] for one in objects if one["kind"] == "ConfigMap"]
    assert "reports" in yaml.safe_load(settings)["backends"][0]["namespaces"]
