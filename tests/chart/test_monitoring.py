"""What is scraped, when somebody is called, and what a dashboard shows; checked by Prometheus' own tool."""

import asyncio
import datetime
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pyncette import Context, FailureMode, Pyncette
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import Backlog, Metrics
from pyncette.model import TaskFunc
from pyncette.prometheus import use_prometheus
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from tests.app.harness import running
from tests.chart.rendering import CHART, ONE_BACKEND, ROOT, TWO_NAMESPACES, Object, merged, render
from tests.chart.scraping import OPERATOR, POD, Scrapes
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

OBSERVE = ROOT / "docs" / "how-to" / "observe.md"

POOL = 'namespace="shop", pool="default", backend="b"'

TASK = 'namespace="shop", pool="default", pod="w", task_name="t"'

FIRING = [
    ("PyncetteOperatorResyncOverdue", ["pyncette_operator_resync_age_seconds"], "901x40", "899x40", "6m"),
    ("PyncetteBackendDown", ['pyncette_operator_backend_up{backend="b"}'], "0x40", "1x40", "6m"),
    ("PyncetteOverdue", [f"pyncette_operator_lateness_seconds{{{POOL}}}"], "300x40", "299x40", "11m"),
    ("PyncetteBacklog", [f"pyncette_operator_lateness_seconds{{{POOL}}}"], "60x40", "59x40", "16m"),
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
    ("PyncetteForeignRealms", ['pyncette_operator_foreign_realms{backend="shop"}'], "1x40", "0x40", "16m"),
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
    ("PyncetteWorkerStalled", [f"pyncette_worker_stalled_seconds{{{WORKER}}}"], "31x40", "29x40", "2m"),
    (
        "PyncetteResultsUnwritten",
        [f"pyncette_worker_unwritten_results{{{WORKER}}}"],
        "1001x40",
        "999x40",
        "11m",
    ),
    (
        "PyncetteTaskFailed",
        [f'pyncette_occurrences_total{{{TASK}, outcome="failed"}}'],
        "0x30 1x60",
        "0x90",
        "40m",
    ),
    (
        "PyncetteTaskFailing",
        [f'pyncette_occurrences_total{{{TASK}, outcome="deadLettered"}}'],
        "0+6x90",
        "0+4x90",
        "70m",
    ),
]
"""Name, series, values with which it fires, values with which it does not, and after how long."""

BESIDE = {
    "PyncetteTaskFailing": (f'pyncette_occurrences_total{{{TASK}, outcome="succeeded"}}', "0+5x90"),
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


def all_firing(promtool: Path, rules: Path, series: Object, after: str) -> set[str]:
    """Return the alerts that fire *after* a while in which there are these series and values."""
    alerts = [
        rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]
    ]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": after, "alertname": alert, "exp_alerts": []} for alert in alerts],
    }
    file = rules.with_name("test.yaml")
    file.write_text(
        yaml.safe_dump({"rule_files": [rules.name], "evaluation_interval": "1m", "tests": [case]})
    )
    done = run(promtool, "test", "rules", file)
    said = done.stdout + done.stderr
    found = set(re.findall(r"alertname: (\w+), time:", said))
    assert bool(found) == (done.returncode != 0), said
    return found


def expressions(helm: Helm) -> list[str]:
    """All that is asked of Prometheus, by alerts, by the dashboard, and by the documentation."""
    rendering = render(helm, ON)
    asked = [
        rule["expr"] for group in rendering.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]
    ]
    panels = json.loads(rendering.one("ConfigMap", "dashboard")["data"]["pyncette.json"])["panels"]
    asked += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [*asked, *re.findall(r"```promql[^\n]*\n(.*?)```", OBSERVE.read_text(), re.DOTALL)]


@pytest.mark.parametrize(("alert", "series", "bad", "good", "after"), FIRING, ids=[row[0] for row in FIRING])
def test_an_alert_fires_when_it_should_and_then_alone(promtool, rules, alert, series, bad, good, after):
    name, values = BESIDE.get(alert, ("unrelated", "1x60"))

    assert firing(promtool, rules, alert, {**dict.fromkeys(series, bad), name: values}, after)
    assert not firing(promtool, rules, alert, {**dict.fromkeys(series, good), name: values}, after)
    assert not firing(promtool, rules, alert, {"unrelated": "1x60"}, after)


HOURS = 4

MINUTE = datetime.timedelta(minutes=1)


async def _fail(context: Context) -> None:
    raise LookupError("no report")


async def _fail_twice(context: Context) -> None:
    if context.attempt < 3:
        raise LookupError("not yet")


async def _fail_at_times(context: Context) -> None:
    if context.scheduled_at.minute % 20 == 0:
        raise LookupError("once in a while")


async def _work(context: Context) -> None:
    del context


TASKS: dict[str, tuple[TaskFunc, Object]] = {
    "nightly": (_fail, {"schedule": "0 14 * * *", "failure_mode": FailureMode.COMMIT}),
    "flaky": (_fail_twice, {"interval": 10 * MINUTE, "failure_mode": FailureMode.UNLOCK}),
    "broken": (_fail, {"interval": MINUTE, "failure_mode": FailureMode.COMMIT}),
    "good": (_work, {"interval": MINUTE}),
    "restless": (_fail_at_times, {"interval": MINUTE, "failure_mode": FailureMode.COMMIT}),
}


@pytest.fixture(scope="module")
def played() -> Callable[[str], Object]:
    """The series of tasks by their names, as a worker that runs them for four hours has them scraped."""
    scrapes = Scrapes(POD)
    asyncio.run(_play(scrapes))

    def series_of(name: str) -> Object:
        return {
            series: values
            for series, values in scrapes.series.items()
            if series.startswith("up{") or f'task_name="{name}"' in series
        }

    return series_of


async def _play(scrapes: Scrapes) -> None:
    backend = MemoryBackend()
    clock = VirtualClock(datetime.datetime(2030, 6, 1, 12, tzinfo=datetime.UTC))
    app = Pyncette(lambda: MemoryStore(backend), poll_interval=MINUTE)
    use_prometheus(app)
    for name, (handler, options) in TASKS.items():
        app.task(name=name, **options)(handler)
    async with running(app, clock, realm="east/shop/default"):
        for _ in range(HOURS * 60):
            scrapes.scrape(TASKS)
            await clock.advance(MINUTE)


OPERATOR_UP = {'up{namespace="pyncette", service="pyncette-operator-metrics"}': "1x300"}


def test_a_nightly_job_that_fails_once_is_reported_for_an_hour_and_is_not_called_failing(
    promtool, rules, played
):
    series = played("nightly") | OPERATOR_UP

    assert all_firing(promtool, rules, series, "1h59m") == set()
    assert all_firing(promtool, rules, series, "2h2m") == {"PyncetteTaskFailed"}
    assert all_firing(promtool, rules, series, "2h58m") == {"PyncetteTaskFailed"}
    assert all_firing(promtool, rules, series, "3h5m") == set()


@pytest.mark.parametrize("name", ["flaky", "good", "restless"])
@pytest.mark.parametrize("after", ["5m", "1h", "2h", "3h30m"])
def test_retried_attempts_and_single_failures_among_many_trigger_no_alert(
    promtool, rules, played, name, after
):
    assert all_firing(promtool, rules, played(name) | OPERATOR_UP, after) == set()


def test_a_task_that_always_fails_is_failing(promtool, rules, played):
    series = played("broken") | OPERATOR_UP

    assert all_firing(promtool, rules, series, "20m") == {"PyncetteTaskFailed", "PyncetteTaskFailing"}
    assert all_firing(promtool, rules, series, "3h") == {"PyncetteTaskFailed", "PyncetteTaskFailing"}


def test_a_typo_in_a_handler_is_a_stalled_task_and_no_late_pool(promtool, rules):
    metrics = Metrics()
    scrapes = Scrapes(OPERATOR, metrics.registry, honors_labels=True)
    shop = ObjectName("shop", "default")
    for _ in range(60):
        metrics.resynced(1.0)
        metrics.count_condition("Stalled", "True", 1)
        metrics.set_backlogs("default", {shop: Backlog(0, 0.0)})
        scrapes.scrape()

    assert all_firing(promtool, rules, scrapes.series, "40m") == {"PyncetteTasksStalled"}


def test_a_pool_that_is_late_is_reported_with_its_namespace_until_it_is_gone(promtool, rules):
    metrics = Metrics()
    scrapes = Scrapes(OPERATOR, metrics.registry, honors_labels=True)
    shop, ops = ObjectName("shop", "default"), ObjectName("ops", "default")
    for minute in range(60):
        metrics.resynced(1.0)
        metrics.set_backlogs("default", {shop: Backlog(3, 60.0 * minute), ops: Backlog(0, 0.0)})
        scrapes.scrape()
    for _ in range(10):
        metrics.set_backlogs("default", {ops: Backlog(0, 0.0)})
        scrapes.scrape()

    assert any(
        'namespace="shop"' in series and 'pool="default"' in series
        for series in scrapes.series
        if "lateness" in series
    )
    assert all_firing(promtool, rules, scrapes.series, "14m") == set()
    assert all_firing(promtool, rules, scrapes.series, "17m") == {"PyncetteBacklog", "PyncetteOverdue"}
    assert all_firing(promtool, rules, scrapes.series, "62m") == set()


def test_the_alert_of_an_operator_that_is_down_waits_out_a_restart(promtool, rules):
    up = 'up{namespace="pyncette", service="pyncette-operator-metrics"}'

    assert firing(promtool, rules, "PyncetteOperatorDown", {"unrelated": "1x60"}, "11m")
    assert firing(promtool, rules, "PyncetteOperatorDown", {up: "0x60"}, "11m")
    assert not firing(promtool, rules, "PyncetteOperatorDown", {up: "1x5 0x3 1x20"}, "20m")


def test_there_is_a_case_for_each_alert(helm: Helm):
    groups = render(helm, ON).one("PrometheusRule")["spec"]["groups"]

    named = {rule["alert"] for group in groups for rule in group["rules"]}
    assert named == {row[0] for row in FIRING} | {"PyncetteOperatorDown"}


def test_the_documentation_names_each_alert_with_its_severity(helm: Helm):
    groups = render(helm, ON).one("PrometheusRule")["spec"]["groups"]
    documented = re.findall(r"^\| `(Pyncette\w+)` \| (\w+) \|", OBSERVE.read_text(), re.MULTILINE)

    assert dict(documented) == {
        rule["alert"]: rule["labels"]["severity"] for group in groups for rule in group["rules"]
    }


def test_the_three_queries_of_the_documentation_find_a_pool_that_is_late(helm: Helm, promtool, rules):
    late, fails, waits = re.findall(r"```promql[^\n]*\n(.*?)```", OBSERVE.read_text(), re.DOTALL)
    metrics = Metrics()
    scrapes = Scrapes(OPERATOR, metrics.registry, honors_labels=True)
    metrics.set_backlogs("default", {ObjectName("shop", "default"): Backlog(3, 60.0)})
    metrics.set_backlogs("other", {ObjectName("ops", "default"): Backlog()})
    for _ in range(70):
        scrapes.scrape()
    failed = {f'pyncette_occurrences_total{{{TASK}, outcome="failed"}}': "0x20 2x60"}
    of_pool = '{namespace="shop", pool="default"}'
    asked = [(late, of_pool, 60), (waits, of_pool, 3)]
    case = {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": values} for name, values in (scrapes.series | failed).items()
        ],
        "promql_expr_test": [
            {"expr": expression, "eval_time": "60m", "exp_samples": [{"labels": labels, "value": value}]}
            for expression, labels, value in asked
        ]
        + [
            {
                "expr": f"round({fails})",
                "eval_time": "60m",
                "exp_samples": [{"labels": '{namespace="shop", pool="default", task_name="t"}', "value": 2}],
            }
        ],
    }
    file = rules.with_name("test.yaml")
    file.write_text(yaml.safe_dump({"rule_files": [rules.name], "tests": [case]}))

    done = run(promtool, "test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_summary_a_description_and_a_severity(helm: Helm, promtool, rules):
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
        assert {*re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)} <= allowed, expression


def test_alerts_and_panels_name_only_labels_that_remain(helm: Helm):
    rendering = render(helm, ON)
    said = [
        (rule["expr"], " ".join(rule["annotations"].values()))
        for group in rendering.one("PrometheusRule")["spec"]["groups"]
        for rule in group["rules"]
    ]
    panels = json.loads(rendering.one("ConfigMap", "dashboard")["data"]["pyncette.json"])["panels"]
    said += [
        (target["expr"], target["legendFormat"]) for panel in panels for target in panel.get("targets", ())
    ]

    for expression, text in said:
        named = {*re.findall(r"\$labels\.(\w+)", text), *re.findall(r"\{\{(\w+)\}\}", text)}
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            assert named <= {*grouped.split(", ")} - {"le"}, (expression, text)


def test_an_alert_can_be_disabled_and_an_unknown_one_is_refused(helm: Helm):
    without = render(helm, ON, {"prometheusRule": {"disabled": ["PyncetteBacklog"]}}).one("PrometheusRule")

    assert "PyncetteBacklog" not in {
        rule["alert"] for group in without["spec"]["groups"] for rule in group["rules"]
    }
    with pytest.raises(
        Exception, match=r"in prometheusRule\.disabled\. Valid alerts: PyncetteOperatorDown, "
    ):
        render(helm, ON, {"prometheusRule": {"disabled": ["PyncetteBacklok"]}})


def test_how_often_the_operator_looks_decides_when_it_is_called_blind(helm: Helm):
    groups = render(helm, ON, {"settings": {"resyncSeconds": 60}}).one("PrometheusRule")["spec"]["groups"]

    (blind,) = [
        rule
        for group in groups
        for rule in group["rules"]
        if rule["alert"] == "PyncetteOperatorResyncOverdue"
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
        helm, ON, {"serviceMonitor": {"labels": {"release": "prom"}, "endpoint": {"scheme": "http"}}}
    )
    monitor, service = rendering.one("ServiceMonitor"), rendering.one("Service")

    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert set(monitor["spec"]) == {"selector", "namespaceSelector", "endpoints"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["pyncette"]}
    assert monitor["spec"]["endpoints"] == [
        {"port": "metrics", "path": "/metrics", "interval": "30s", "honorLabels": True, "scheme": "http"}
    ]
    assert [port["name"] for port in service["spec"]["ports"]] == ["metrics"]


SECURE: Object = {"metrics": {"tls": {"secretName": "metrics-tls"}, "authentication": {"enabled": True}}}


def test_the_monitor_verifies_the_certificate_and_sends_the_token_of_prometheus(helm: Helm):
    (endpoint,) = render(helm, ON, SECURE).one("ServiceMonitor")["spec"]["endpoints"]

    assert endpoint == {
        "port": "metrics",
        "path": "/metrics",
        "interval": "30s",
        "honorLabels": True,
        "scheme": "https",
        "tlsConfig": {
            "serverName": "pyncette-operator-metrics.pyncette.svc",
            "ca": {"secret": {"name": "metrics-tls", "key": "ca.crt"}},
        },
        "bearerTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
    }
    assert render(helm, ON, SECURE).one("Service")["metadata"]["name"] == "pyncette-operator-metrics"


def test_the_user_decides_what_the_monitor_trusts_and_which_token_it_sends(helm: Helm):
    given = {
        "tlsConfig": {"insecureSkipVerify": True},
        "authorization": {"credentials": {"name": "token", "key": "token"}},
    }
    values = merged(SECURE, {"serviceMonitor": {"endpoint": given}})

    (endpoint,) = render(helm, ON, values).one("ServiceMonitor")["spec"]["endpoints"]

    assert {name: endpoint.get(name) for name in (*given, "bearerTokenFile")} == {
        **given,
        "bearerTokenFile": None,
    }


def test_metrics_of_a_pool_keep_its_namespace_unless_a_user_wants_it_otherwise(helm: Helm):
    def honors_labels(*values: Object) -> bool:
        (endpoint,) = render(helm, ON, *values).one("ServiceMonitor")["spec"]["endpoints"]
        return endpoint["honorLabels"]

    assert honors_labels()
    assert not honors_labels({"serviceMonitor": {"endpoint": {"honorLabels": False}}})


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [(ON, {"any": True}), (merged(ON, TWO_NAMESPACES), {"matchNames": ["orders", "reports"]})],
)
def test_the_monitor_of_workers_finds_the_pods_of_every_pool_where_the_operator_works(
    helm: Helm, values, namespaces
):
    from pyncette.controller.workloads.workloads import PoolBackend, Workloads, workloads_of
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

    assert not {"ServiceMonitor", "PodMonitor", "PrometheusRule"} & rendering.kinds
    assert len(rendering.all("ConfigMap")) == 1
