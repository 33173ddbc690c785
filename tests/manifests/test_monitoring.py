"""Alerts and dashboard: what they ask is what a run exports, Prometheus takes the rules, each trouble raises its own.

.venv/bin/python -m pytest tests/manifests/test_monitoring.py
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.pod_metrics import COUNTERS, GAUGES
from tests.manifests.rules import schema_problems

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s" / "monitoring"
EXPORTED = {f"tunefleet_{name}" for name in (*GAUGES, *(f"{name}_total" for name in COUNTERS), "stage", "pod_info")}
OF_KUBE_STATE_METRICS = {"kube_pod_status_phase", "kube_pod_labels"}
RUNBOOKS = {
    "image-not-on-node", "workers-cannot-meet", "job-pending", "rank-killed-for-memory", "loss-is-nan",
    "loss-does-not-fall", "fetch-stalls", "store-full", "s3-refuses", "resume-takes-old-checkpoint", "merge-refused",
    "node-lost", "operator-upgrade", "out-of-disk-on-nodes", "token-expired", "run-stalled",
}  # fmt: skip
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def rules():
    return [
        rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]
    ]


def dashboard():
    return json.loads((MONITORING / "dashboard.json").read_text())


def metrics_in(query: str) -> set[str]:
    """Names of metrics in a PromQL query."""
    return set(re.findall(r"(?<![\w$])(?:tunefleet|kube)_\w+", query))


def queries() -> list[str]:
    board = dashboard()
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    of_variables = [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    assert len(asked) >= 12 and len(of_variables) == 2
    return asked + of_variables


def test_every_query_of_the_dashboard_names_a_metric_that_a_run_exports():
    for query in queries():
        assert metrics_in(query) and metrics_in(query) <= EXPORTED, query


def test_the_dashboard_leaves_no_figure_of_a_run_out():
    told = {name for query in queries() for name in metrics_in(query)}
    beside = {"last_step_timestamp_seconds", "last_checkpoint_step", "stage_start_timestamp_seconds", "slowest_rank"}
    assert EXPORTED - told == {f"tunefleet_{name}" for name in beside}


def test_panels_have_numbers_of_their_own_and_do_not_lie_over_each_other():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def test_every_alert_asks_for_metrics_that_are_there_and_names_its_runbook():
    assert len(rules()) >= 5
    for rule in rules():
        asked = metrics_in(re.sub(r"label_\w+", "", rule["expr"]))
        assert asked and asked <= EXPORTED | OF_KUBE_STATE_METRICS, rule["alert"]
        book = re.fullmatch(r"docs/runbooks/([a-z0-9-]+)\.md", rule["annotations"]["runbook"])
        assert book and book[1] in RUNBOOKS, rule["alert"]
        assert rule["labels"]["severity"] in ("info", "warning", "critical")


def test_operator_and_prometheus_get_the_same_groups():
    for_operator = yaml.safe_load((MONITORING / "prometheusrule-tunefleet.yaml").read_text())
    assert for_operator["spec"] == yaml.safe_load((MONITORING / "rules.yaml").read_text())


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_alerts_and_dashboard_render_by_kubectl_alone_for_any_namespace():
    done = subprocess.run(["kubectl", "kustomize", MONITORING], capture_output=True, text=True, check=True)
    things = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert set(things) == {"ConfigMap", "PrometheusRule"}
    for one in things.values():
        assert list(schema_problems(one)) == []
        assert "namespace" not in one["metadata"]
        assert one["metadata"]["labels"]["app.kubernetes.io/name"] == "tunefleet"
    assert things["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(things["ConfigMap"]["data"]["tunefleet.json"]) == dashboard()


@needs_promtool
def test_prometheus_takes_the_rules():
    done = subprocess.run(
        ["promtool", "check", "rules", MONITORING / "rules.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_run_that_is_well_raises_nothing_and_each_trouble_its_own_alert():
    cases = Path(__file__).parent / "monitoring" / "alerts.yaml"
    asked = [one for test in yaml.safe_load(cases.read_text())["tests"] for one in test["alert_rule_test"]]
    tried = {one["alertname"] for one in asked if one["exp_alerts"]}
    assert tried == {rule["alert"] for rule in rules()}
    done = subprocess.run(["promtool", "test", "rules", cases], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
