"""What is scraped, when somebody is called, and what a dashboard shows; checked by Prometheus' own tool."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import CHART, ONE_BACKEND, ROOT, TWO_NAMESPACES, Object, merged, render
from tests.servers import MissingServerError
from tests.servers.tools import Helm, find_promtool

pytestmark = pytest.mark.cluster

ON: Object = merged(
    ONE_BACKEND,
    {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
)

WORKER = 'namespace="orders", pod="w"'

FIRING = [
    ("PyncetteOperatorBlind", ["pyncette_operator_resync_age_seconds"], "901x40", "899x40", "6m"),
    ("PyncetteBackendDown", ['pyncette_operator_backend_up{backend="b"}'], "0x40", "1x40", "6m"),
    ("PyncetteOverdue", ['pyncette_operator_lateness_seconds{backend="b"}'], "301x40", "299x40", "11m"),
    (
        "PyncetteTasksStalled",
        ['pyncette_operator_tasks{condition="Stalled", status="True"}'],
        "1x40",
        "0x40",
        "16m",
    ),
    ("PyncetteRemovalsHeldBack", ["pyncette_operator_withdrawals_held_back"], "7x40", "0x40", "1m"),
    (
        "PyncetteReconcileErrors",
        ['pyncette_operator_reconcile_errors_total{kind="PyncetteTask", exception_type="E"}'],
        "0+2x60",
        "0+0x60",
        "35m",
    ),
    ("PyncetteNamespaceForbidden", ["pyncette_operator_forbidden_namespaces"], "1x40", "0x40", "16m"),
    ("PyncetteRecordsUnwatched", ["pyncette_operator_unwatched_records"], "1x90", "0x90", "61m"),
    ("PyncetteWorkerNotReady", [f"pyncette_worker_ready{{{WORKER}}}"], "0x40", "1x40", "11m"),
    (
        "PyncetteTasksLate",
        [
            'pyncette_tasks_staleness_seconds_bucket{namespace="orders", task_name="t", le="300"}',
            'pyncette_tasks_staleness_seconds_bucket{namespace="orders", task_name="t", le="+Inf"}',
        ],
        "0+10x60",
        "0+0x60",
        "30m",
    ),
    ("PyncetteBacklog", [f"pyncette_worker_backlogged_partitions{{{WORKER}}}"], "1x40", "0x40", "16m"),
    ("PyncetteWorkerStalled", [f"pyncette_worker_stalled_seconds{{{WORKER}}}"], "31x40", "29x40", "2m"),
    (
        "PyncetteResultsUnwritten",
        [f"pyncette_worker_unwritten_results{{{WORKER}}}"],
        "1001x40",
        "999x40",
        "11m",
    ),
    (
        "PyncetteTaskFailing",
        ['pyncette_tasks_failures_total{namespace="orders", task_name="t", exception_type="E"}'],
        "0+6x60",
        "0+4x60",
        "50m",
    ),
]
"""Name, series, values with which it fires, values with which it does not, and after how long."""

BESIDE = {
    "PyncetteTaskFailing": ('pyncette_tasks_total{namespace="orders", task_name="t"}', "0+10x60"),
}
"""What the alert compares with."""


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return find_promtool()
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture
def rules(helm: Helm, tmp_path: Path) -> Path:
    """The rules of the chart as Prometheus loads them."""
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(render(helm, ON).one("PrometheusRule")["spec"]))
    return file


def run(promtool: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60)


def firing(promtool: Path, rules: Path, alert: str, series: Object, after: str) -> bool:
    """Say whether *alert* fires *after* a while in which there are these series and values."""
    several = [{"series": name, "values": values} for name, values in series.items()]
    case = {
        "interval": "1m",
        "input_series": several,
        "alert_rule_test": [{"eval_time": after, "alertname": alert, "exp_alerts": []}],
    }
    file = rules.with_name("test.yaml")
    file.write_text(
        yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": [case]})
    )
    done = run(promtool, "test", "rules", file)
    assert done.returncode == 0 or "got:" in done.stdout + done.stderr, done.stdout + done.stderr
    return done.returncode != 0


def expressions(helm: Helm) -> list[str]:
    """All that is asked of Prometheus, by alerts and by the dashboard."""
    rendering = render(helm, ON)
    asked = [
        rule["expr"] for group in rendering.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]
    ]
    panels = json.loads(rendering.one("ConfigMap", "dashboard")["data"]["pyncette.json"])["panels"]
    return [*asked, *(target["expr"] for panel in panels for target in panel.get("targets", ()))]


@pytest.mark.parametrize(("alert", "series", "bad", "good", "after"), FIRING, ids=[row[0] for row in FIRING])
def test_an_alert_fires_when_it_should_and_then_alone(promtool, rules, alert, series, bad, good, after):
    name, values = BESIDE.get(alert, ("unrelated", "1x60"))

    assert firing(promtool, rules, alert, {**dict.fromkeys(series, bad), name: values}, after)
    assert not firing(promtool, rules, alert, {**dict.fromkeys(series, good), name: values}, after)
    assert not firing(promtool, rules, alert, {"unrelated": "1x60"}, after)


def test_an_operator_that_is_not_scraped_is_told_of_unless_it_is_only_restarting(promtool, rules):
    up = 'up{namespace="pyncette", service="pyncette-operator-metrics"}'

    assert firing(promtool, rules, "PyncetteOperatorDown", {"unrelated": "1x60"}, "11m")
    assert firing(promtool, rules, "PyncetteOperatorDown", {up: "0x60"}, "11m")
    assert not firing(promtool, rules, "PyncetteOperatorDown", {up: "1x5 0x3 1x20"}, "20m")


def test_there_is_a_case_for_each_alert(helm: Helm):
    groups = render(helm, ON).one("PrometheusRule")["spec"]["groups"]

    named = {rule["alert"] for group in groups for rule in group["rules"]}
    assert named == {row[0] for row in FIRING} | {"PyncetteOperatorDown"}


def test_each_alert_says_what_is_the_matter_and_how_grave_it_is(helm: Helm, promtool, rules):
    for group in render(helm, ON).one("PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}
            assert set(rule["annotations"]) == {"summary", "description"}

    checked = run(promtool, "check", "rules", rules)
    assert checked.returncode == 0, checked.stderr


def test_the_dashboard_asks_what_prometheus_understands(helm: Helm, promtool, tmp_path):
    file = tmp_path / "rules.yaml"
    asked = [one.replace("$__rate_interval", "5m").replace("$namespace", ".*") for one in expressions(helm)]
    recorded = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": recorded}]}))

    checked = run(promtool, "check", "rules", file)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_and_dashboard_use_only_metrics_that_are_documented_and_with_their_labels(helm: Helm):
    rows = re.findall(
        r"^\| `(pyncette_\w+)` \| (\w+) \|([^|]*)\|",
        "".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("metrics*.md"))),
        re.MULTILINE,
    )
    documented = {
        name + suffix: set(re.findall(r"`(\w+)`", labels))
        for name, kind, labels in rows
        for suffix in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    }

    for expression in expressions(helm):
        used = set(re.findall(r"\bpyncette_(?!dev_pool)\w+", expression))
        assert used <= set(documented), expression
        allowed = {"namespace", "pod", "pyncette_dev_pool", "le", "service"}.union(
            *(documented[name] for name in used)
        )
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        assert {label.strip() for part in grouped for label in part.split(",")} <= allowed, expression


def test_an_alert_can_be_left_out_and_a_misspelt_one_is_told_of(helm: Helm):
    without = render(helm, ON, {"prometheusRule": {"disabled": ["PyncetteBacklog"]}}).one("PrometheusRule")

    assert "PyncetteBacklog" not in {
        rule["alert"] for group in without["spec"]["groups"] for rule in group["rules"]
    }
    with pytest.raises(Exception, match=r"there is no such alert\. There are: PyncetteOperatorDown, "):
        render(helm, ON, {"prometheusRule": {"disabled": ["PyncetteBacklok"]}})


def test_how_often_the_operator_looks_decides_when_it_is_called_blind(helm: Helm):
    groups = render(helm, ON, {"settings": {"resyncSeconds": 60}}).one("PrometheusRule")["spec"]["groups"]

    (blind,) = [
        rule for group in groups for rule in group["rules"] if rule["alert"] == "PyncetteOperatorBlind"
    ]
    assert blind["expr"] == "pyncette_operator_resync_age_seconds > 3 * 60"


def test_labels_of_alerts_are_added_and_do_not_change_how_grave_they_are(helm: Helm):
    values = {"prometheusRule": {"alertLabels": {"team": "platform", "severity": "info"}}}

    for group in render(helm, ON, values).one("PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["team"] == "platform"
    before = [
        rule["labels"]["severity"]
        for group in render(helm, ON).one("PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
    ]
    after = [
        rule["labels"]["severity"]
        for group in render(helm, ON, values).one("PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
    ]
    assert before == after


def test_the_monitor_of_the_operator_finds_its_service(helm: Helm):
    rendering = render(
        helm, ON, {"serviceMonitor": {"labels": {"release": "prom"}, "endpoint": {"honorLabels": True}}}
    )
    monitor, service = rendering.one("ServiceMonitor"), rendering.one("Service")

    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert set(monitor["spec"]) == {"selector", "namespaceSelector", "endpoints"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["pyncette"]}
    assert monitor["spec"]["endpoints"] == [
        {"port": "metrics", "path": "/metrics", "interval": "30s", "honorLabels": True}
    ]
    assert [port["name"] for port in service["spec"]["ports"]] == ["metrics"]


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [(ON, {"any": True}), (merged(ON, TWO_NAMESPACES), {"matchNames": ["orders", "reports"]})],
)
def test_the_monitor_of_workers_finds_the_pods_of_every_pool_where_the_operator_works(
    helm: Helm, values, namespaces
):
    from pyncette.controller.workloads import PoolBackend, Workloads, workloads_of
    from pyncette.resources.pool import PyncetteWorkerPool

    pool = {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteWorkerPool",
        "metadata": {"name": "default", "namespace": "orders", "uid": "1"},
        "spec": {"image": "i", "module": "tasks"},
    }
    made = workloads_of(
        PyncetteWorkerPool.model_validate(pool), PoolBackend("default", "s", "url"), "a/orders/default"
    )
    assert isinstance(made, Workloads)
    template = made.deployment["spec"]["template"]

    spec = render(helm, values).one("PodMonitor")["spec"]

    assert set(spec) == {"selector", "namespaceSelector", "podTargetLabels", "podMetricsEndpoints"}
    assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert set(spec["podTargetLabels"]) <= set(template["metadata"]["labels"])
    assert spec["namespaceSelector"] == namespaces
    (endpoint,) = spec["podMetricsEndpoints"]
    ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
    assert endpoint["port"] in ports


def test_the_dashboard_is_json_that_the_sidecar_finds_by_its_label(helm: Helm):
    config = render(helm, ON).one("ConfigMap", "dashboard")

    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    (name,) = config["data"]
    assert name.endswith(".json")
    assert json.loads(config["data"][name]) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_panels_of_the_dashboard_have_a_place_and_a_number_each(helm: Helm):
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert cells.isdisjoint(taken), panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_nothing_of_prometheus_or_grafana_is_made_unless_it_is_asked_for(helm: Helm):
    rendering = render(helm, ONE_BACKEND)

    assert not {"ServiceMonitor", "PodMonitor", "PrometheusRule", "NetworkPolicy"} & rendering.kinds
    assert len(rendering.all("ConfigMap")) == 1
