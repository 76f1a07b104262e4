"""What the pages about Kubernetes show is accepted by whoever would get it, and what they name is there."""

import re
import subprocess

import click
import pytest
import yaml
from kubernetes_validate import validate

from pyncette.cli.commands import cli
from pyncette.controller.reasons import Reason
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import Workloads, workloads_of
from pyncette.mirror.conversion import REDRIVE, RESUME, RUN
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal, read
from pyncette.resources.task import PyncetteTask
from tests.pages import DOCS, PAGES, ROOT, Block, blocks, commands

KINDS = {"PyncetteTask": PyncetteTask, "PyncetteWorkerPool": PyncetteWorkerPool}

KUBERNETES = "1.30"
"""The oldest that the chart admits."""


def manifests() -> list[tuple[Block, dict]]:
    found = [block for page in PAGES for block in blocks(page, "yaml") if block.title != "values.yaml"]
    return [(block, document) for block in found for document in yaml.safe_load_all(block.text)]


SHOWN = manifests()


@pytest.mark.parametrize(("block", "manifest"), SHOWN, ids=[str(block) for block, _ in SHOWN])
def test_a_manifest_of_a_page_is_accepted(block, manifest):
    if manifest["kind"] in KINDS:
        found = read(KINDS[manifest["kind"]], manifest)
        assert not isinstance(found, Refusal), found
        if isinstance(found, PyncetteWorkerPool):
            made = workloads_of(
                found, PoolBackend("default", "pyncette-backend", "url"), "cluster/shop/default"
            )
            assert isinstance(made, Workloads), made
    elif not manifest["apiVersion"].startswith("kustomize."):
        validate(manifest, KUBERNETES, strict=True)


def test_the_task_that_takes_the_place_of_a_cronjob_has_what_that_had():
    after, before = (
        next(document for block, document in SHOWN if block.title == title)
        for title in ("after.yaml", "before.yaml")
    )
    job = before["spec"]["jobTemplate"]["spec"]
    same = ("schedule", "timeZone", "concurrencyPolicy", "startingDeadlineSeconds")

    assert [after["spec"][name] for name in same] == [before["spec"][name] for name in same]
    assert after["spec"]["successfulRunsHistoryLimit"] == before["spec"]["successfulJobsHistoryLimit"]
    assert after["spec"]["failedRunsHistoryLimit"] == before["spec"]["failedJobsHistoryLimit"]
    assert after["spec"]["retryPolicy"]["maxAttempts"] == job["backoffLimit"] + 1
    assert after["spec"]["activeDeadlineSeconds"] == job["activeDeadlineSeconds"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_of_ours_on_a_page_is_one_with_options_that_it_has(page):
    ours = [
        words[1:] for words in commands(page) if words[0] in {"pyncette", ".venv/bin/pyncette"} and words[1:]
    ]

    for words in ours:
        command, arguments = cli, words
        while isinstance(command, click.Group):
            command, arguments = command.commands[arguments[0]], arguments[1:]
        context = click.Context(command, info_name=command.name)
        command.make_parser(context).parse_args(arguments)  # raises if there is no such option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_shell_takes_each_block_of_a_page(page):
    for block in blocks(page, "shell"):
        done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert done.returncode == 0, (block.text, done.stderr)


def test_annotations_that_pages_have_set_are_acted_upon():
    set_ = {
        word.partition("=")[0]
        for page in PAGES
        for words in commands(page)
        if words[0] == "kubectl" and "annotate" in words
        for word in words
        if word.startswith("pyncette.dev/")
    }

    assert set_ == {RUN, RESUME, REDRIVE}


def test_troubleshooting_knows_each_reason_that_a_person_is_warned_with_and_no_other():
    page = (DOCS / "how-to" / "troubleshoot.md").read_text()
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", page))
    warnings = {reason.value for reason in Reason if reason.event == "Warning"}

    assert warnings - named == set()
    rows = re.findall(r"^\| (`[A-Z][^|]*`) \|", page, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told - {reason.value for reason in Reason} == set()


def test_each_metric_that_a_page_names_is_served():
    tables = [(DOCS / "reference" / name).read_text() for name in ("metrics.md", "metrics-operator.md")]
    served = {name for table in tables for name in re.findall(r"^\| `(\w+)`", table, re.MULTILINE)}
    for page in PAGES:
        named = set(re.findall(r"`(pyncette_(?!tasks`)\w+)", page.read_text()))
        assert named - served == set(), page


def test_each_value_of_the_chart_that_a_page_names_exists():
    values = yaml.safe_load((ROOT / "charts" / "pyncette-operator" / "values.yaml").read_text())
    roots = ("|".join(map(re.escape, values))).replace("image|", "")
    for page in PAGES:
        for name in re.findall(rf"`((?:{roots})(?:\.[A-Za-z]+)+)(?:=[^`]*)?`", page.read_text()):
            where = values
            for part in name.split("."):
                assert part in where, (page, name)
                where = where[part]


def test_each_file_of_the_repository_that_a_page_names_is_there():
    folders = "charts|crds|examples|tests|docs|operator"
    for page in PAGES:
        for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
            assert (ROOT / name).exists(), (page, name)


def test_readme_and_its_neighbours_link_to_what_is_there():
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "examples/kubernetes/README.md",
    ):
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / name).parent / target).exists(), (name, target)
