"""A folder of manifests is loaded whole, and all that is wrong in it is told with its file, line and column."""

import os
from textwrap import dedent

import pytest

from pyncette.resources.manifests import Place, load, unknown_handlers


@pytest.fixture
def folder(tmp_path):
    class Folder:
        path = tmp_path

        def write(self, name, text):
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text), encoding="utf-8")
            return self

        def load(self, **options):
            return load(tmp_path, **options)

        def told(self, remarks):
            return [str(remark).replace(f"{tmp_path}{os.sep}", "") for remark in remarks]

        def problems(self):
            return self.told(self.load().problems)

        def notes(self):
            return self.told(self.load().notes)

    return Folder()


def task(name, **fields):
    lines = {"handler": "send", "intervalSeconds": 60} | fields
    spec = "".join(f"  {field}: {value}\n" for field, value in lines.items() if value is not None)
    return f"apiVersion: pyncette.dev/v1alpha1\nkind: PyncetteTask\nmetadata:\n  name: {name}\nspec:\n{spec}"


POOL = """
    apiVersion: pyncette.dev/v1alpha1
    kind: PyncetteWorkerPool
    metadata: {name: default}
    spec: {image: "example.org/tasks:1", module: tasks}
"""


def names(manifests):
    return [manifest.resource.full_name for manifest in manifests]


def test_the_tasks_and_pools_of_all_files_are_loaded_in_the_order_of_their_names(folder):
    folder.write("b.yml", task("second")).write("a.yaml", task("first") + "---\n" + task("other"))
    folder.write("c.yaml", POOL)

    loaded = folder.load()

    assert names(loaded.tasks) == ["default/first", "default/other", "default/second"]
    assert names(loaded.pools) == ["default/default"]
    assert (loaded.problems, loaded.notes) == ((), ())


def test_like_kubectl_it_looks_at_yaml_files_only_and_not_into_folders_below(folder):
    folder.write("deep/a.yaml", task("deep")).write("a.txt", task("text")).write("a.yaml", task("a"))

    assert names(folder.load().tasks) == ["default/a"]


def test_a_single_file_can_be_loaded(folder):
    folder.write("a.yaml", task("a")).write("b.yaml", task("b"))

    assert names(load(folder.path / "b.yaml").tasks) == ["default/b"]


def test_an_object_without_a_namespace_goes_where_it_is_told_to(folder):
    elsewhere = task("b").replace("  name: b", "  name: b\n  namespace: shop")
    folder.write("a.yaml", task("a") + "---\n" + elsewhere)

    assert names(folder.load(namespace="dev").tasks) == ["dev/a", "shop/b"]


def test_a_list_is_what_is_in_it(folder):
    folder.write(
        "a.yaml",
        """\
        apiVersion: v1
        kind: List
        items:
          - apiVersion: pyncette.dev/v1alpha1
            kind: PyncetteTask
            metadata: {name: a}
            spec: {handler: send, schedule: "61 * * * *"}
          - {apiVersion: pyncette.dev/v1alpha1, kind: PyncetteTask, metadata: {name: b}, spec: {handler: x, intervalSeconds: 1}}
          - {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
        """,
    )

    assert names(folder.load().tasks) == ["default/b"]
    assert folder.problems() == [
        "a.yaml:7:37: spec.schedule: [61 * * * *] is not acceptable, out of range; look at the minute, 61"
    ]
    assert folder.notes() == ["a.yaml:9:5: skipped: ConfigMap c is not of pyncette.dev"]


def test_what_is_not_ours_is_passed_over_and_said(folder):
    folder.write(
        "a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\nkind: Kustomization\n"
    )
    folder.write("b.yaml", "# nothing\n---\n- 1\n---\njust: settings\nof: !some tool\n")

    assert folder.problems() == []
    assert folder.notes() == [
        "a.yaml:1:1: skipped: Deployment web is not of pyncette.dev",
        "a.yaml:5:1: skipped: Kustomization is not of pyncette.dev",
        "b.yaml:3:1: skipped: not a Kubernetes object, which has apiVersion and kind",
        "b.yaml:5:1: skipped: not a Kubernetes object, which has apiVersion and kind",
    ]


def test_every_problem_of_every_file_is_reported_at_its_very_field(folder):
    folder.write(
        "a.yaml", "# tasks\n---\n" + task("a", schedul='"@daily"', intervalSeconds='"60"', handler=None)
    )
    folder.write(
        "b.yaml", task("b", suspend="12:30", timeZone="Europe/Dublin") + "---\na: [\n---\n" + task("c")
    )
    folder.write("c.yaml", task("D", retryPolicy="{maxAttempts: -1}", workerPoolRef="{nane: x}"))

    assert folder.problems() == [
        "a.yaml:7:1: spec.handler: is required, for example handler: send_report",
        'a.yaml:8:20: spec.intervalSeconds: must be a whole number, not "60"; write it without quotes: 60',
        "a.yaml:9:3: spec.schedul: unknown field; did you mean schedule?",
        'b.yaml:8:12: spec.suspend: must be true or false, not "12:30"',
        "b.yaml:12:1: is not YAML: while parsing a flow node, did not find expected node content",
        (
            'c.yaml:4:9: metadata.name: "D" is not '
            "a name of lower-case letters, digits, '-' and '.' that begins and ends with a letter or digit"
        ),
        "c.yaml:8:30: spec.retryPolicy.maxAttempts: must be at least 0, not -1",
        "c.yaml:9:19: spec.workerPoolRef.nane: unknown field; did you mean name?",
    ]
    assert names(folder.load().tasks) == ["default/c"]


def test_a_rule_that_is_broken_is_reported_at_the_field_that_breaks_it(folder):
    folder.write("a.yaml", task("a", timeZone="UTC") + "---\n" + task("b", intervalSeconds=None))

    assert folder.problems() == [
        (
            "a.yaml:8:13: spec.timeZone: timeZone belongs to a schedule: "
            "an interval has no time zone, and executeAt carries its own offset"
        ),
        (
            "a.yaml:14:1: spec: no schedule: "
            "set one of schedule, intervalSeconds and executeAt, or dynamic: true"
        ),
    ]


def test_a_name_that_is_taken_is_reported_with_both_places(folder):
    folder.write("a.yaml", task("a") + "---\n" + task("b"))
    folder.write(
        "b.yaml", task("b").replace("  name: b", "  namespace: default\n  name: b") + "---\n" + POOL + POOL
    )

    first = f"{folder.path / 'a.yaml'}:12:9"
    assert str(folder.load().problems[0]) == (
        f"{folder.path / 'b.yaml'}:5:9: metadata.name: PyncetteTask default/b is at {first} already: rename one of them"
    )
    assert names(folder.load().tasks) == ["default/a", "default/b"]


def test_objects_of_two_namespaces_or_kinds_may_share_a_name(folder):
    folder.write(
        "a.yaml", task("default") + "---\n" + task("default").replace("name:", "namespace: b\n  name:")
    )
    folder.write("b.yaml", POOL)

    assert folder.problems() == []


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (
            "apiVersion: pyncette.dev/v1\nkind: PyncetteTask",
            ["a.yaml:1:13: apiVersion: must be pyncette.dev/v1alpha1, not pyncette.dev/v1"],
        ),
        (
            "kind: PyncetteTask",
            ["a.yaml:1:1: apiVersion: must be pyncette.dev/v1alpha1, and is missing"],
        ),
        (
            "apiVersion: pyncette.dev/v1alpha1\nkind: PyncetteTasks",
            [
                (
                    "a.yaml:2:7: kind: must be PyncetteTask or PyncetteWorkerPool, not PyncetteTasks; "
                    "did you mean PyncetteTask?"
                )
            ],
        ),
        (
            "apiVersion: pyncette.dev/v1alpha1\nkind: [a]",
            ["a.yaml:2:1: kind: must be PyncetteTask or PyncetteWorkerPool, not ['a']"],
        ),
    ],
)
def test_what_is_nearly_ours_is_reported_how_to_become_it(folder, head, told):
    folder.write("a.yaml", head + "\nmetadata: {name: a}\nspec: {handler: send, intervalSeconds: 1}\n")

    assert folder.problems() == told


def test_a_field_that_is_written_twice_is_a_problem(folder):
    folder.write("a.yaml", task("a") + "  handler: other\n")

    assert folder.problems() == [
        'a.yaml:8:3: the field "handler" is duplicate, first used in line 6: keep one'
    ]


def test_a_bare_word_that_is_no_text_is_explained_where_text_is_needed(folder):
    folder.write("a.yaml", task("a", handler="on"))

    assert folder.problems() == [
        (
            'a.yaml:6:12: spec.handler: must be text, not true; put it in quotes: "true" '
            "(on without quotes is not text in YAML)"
        )
    ]


def test_a_bare_word_among_the_arguments_is_read_as_kubectl_reads_it_and_noted(folder):
    folder.write(
        "a.yaml", task("a", suspend="no", args="{country: NO, code: 0123, quoted: 'NO', time: 12:30}")
    )

    [manifest] = folder.load().tasks

    assert manifest.resource.spec.args == {"country": False, "code": 83, "quoted": "NO", "time": "12:30"}
    assert folder.notes() == [
        "a.yaml:9:19: NO without quotes is false to YAML, as to kubectl: quote it if it is text",
        "a.yaml:9:29: 0123 without quotes is the number 83 to YAML, as to kubectl: quote it if it is text",
    ]


def test_an_instant_needs_no_quotes(folder):
    folder.write("a.yaml", task("a", intervalSeconds=None, executeAt="2030-01-31T09:00:00Z"))

    [manifest] = folder.load().tasks

    assert manifest.resource.spec.execute_at.year == 2030


def test_what_kubectl_prints_can_be_loaded(folder):
    printed = task("a").replace("  name: a", "  name: a\n  uid: 5f6e\n  managedFields: [{manager: kubectl}]")
    folder.write("a.yaml", printed + "status:\n  observedGeneration: 1\n  anything: else\n")

    assert names(folder.load().tasks) == ["default/a"]


def test_a_handler_that_is_not_registered_is_reported_with_the_nearest_name(folder):
    folder.write("a.yaml", task("a", handler="send_reprt") + "---\n" + task("b", handler="send_report"))
    tasks = folder.load().tasks

    [near] = unknown_handlers(tasks, ["send_report", "clean_up"])
    _, far = unknown_handlers(tasks, ["clean_up", "back_up"])
    alone, _ = unknown_handlers(tasks, [])

    assert near.place == Place(folder.path / "a.yaml", 6, 12)
    assert near.message == 'spec.handler: no handler "send_reprt" is registered; did you mean send_report?'
    assert (
        far.message == 'spec.handler: no handler "send_report" is registered; there are back_up and clean_up'
    )
    assert alone.message == 'spec.handler: no handler "send_reprt" is registered; there are none'


def test_what_cannot_be_read_is_a_problem_and_no_exception(folder):
    (folder.path / "a.yaml").write_bytes(b"a: \xff\n")
    folder.write("b.yaml", task("b"))

    assert [problem.place.file.name for problem in folder.load().problems] == ["a.yaml"]
    assert names(folder.load().tasks) == ["default/b"]
    assert [str(problem) for problem in load(folder.path / "none.yaml").problems] == [
        f"{folder.path / 'none.yaml'}:1:1: cannot be read: No such file or directory"
    ]


def test_a_file_that_cannot_be_a_manifest_is_not_read(folder):
    with (folder.path / "a.yaml").open("wb") as file:
        file.truncate(17 * 2**20)

    assert folder.problems() == [
        "a.yaml:1:1: is larger than 16 MiB, too large for a manifest: split it, or move it elsewhere"
    ]


def test_a_byte_order_mark_and_line_ends_of_other_systems_do_no_harm(folder):
    text = "\ufeff" + task("a", timeZone="UTC").replace("\n", "\r\n")
    (folder.path / "a.yaml").write_bytes(text.encode())

    assert [problem.partition(": ")[0] for problem in folder.problems()] == ["a.yaml:8:13"]


def test_a_tag_names_no_code(folder):
    folder.write("a.yaml", task("a", args="{a: !!python/object/apply:os.system [exit]}"))

    assert folder.problems() == [
        "a.yaml:8:13: the tag tag:yaml.org,2002:python/object/apply:os.system is not used in manifests: remove it"
    ]
