"""What the documentation and the READMEs say of the commands is what the commands do."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pyncette.cli.commands import cli
from tests.cli import MODULE, Program, TaskFolder, called
from tools.cli_reference import commands_of

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def blocks(page, language):
    """The code of a page, block by block."""
    begin = rf'^( *)```{language}(?: title="[^"]*")?\n'
    found = re.findall(rf"{begin}(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(page):
    """The commands of a page, without those that are not ours."""
    lines = [line for block in blocks(page, "shell") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("pyncette ")]


@pytest.fixture
def root(tmp_path):
    """The root of a repository, as far as the examples need it."""
    ignored = shutil.ignore_patterns(".pyncette", "__pycache__")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=ignored)
    return tmp_path


def test_the_quickstart_does_what_its_readme_says(root):
    start, *others = commands(root / "examples" / "quickstart" / "README.md")

    with Program(*start, cwd=root) as program:
        program.expect("welcome: Welcome! This runs once, and not at the next start.")
        program.expect(r"task: hello: .* Europe/Dublin, next (?:in|now) .*[(]\d\d:\d\d:00 \S+[)]")
        program.expect(r"welcome: succeeded in \d+ ms, [\d.]+ m?s late")
        program.expect("measured  task=thermometer celsius=")
        outputs = [called(*command, cwd=root) for command in others]
        program.expect(r"hello: Hello, you: it is \d\d:\d\d (GMT|IST)")
        program.interrupt()
        assert program.ended() == 0

    assert [command[0] for command in others] == ["tasks", "runs", "run"]
    assert [code for code, _ in outputs] == [0, 0, 0]
    with Program(*start, cwd=root) as again:
        again.expect("task: welcome: .*finished")
        again.expect("measured")
        again.interrupt()
        assert again.ended() == 0
    assert "Welcome!" not in again.output


def test_a_file_is_scheduled_as_the_how_to_says(tmp_path):
    page = DOCS / "how-to" / "schedule-from-a-file.md"
    files = re.findall(r'```\w+ title="(.*?)"\n(.*?)```', page.read_text(), re.DOTALL)
    for name, text in files:
        (tmp_path / name).write_text(text)
    (command,) = commands(page)

    code, output = called(*command, cwd=tmp_path)

    assert [name for name, _ in files] == ["tasks.py", "users.jsonl"]
    assert (code, output) == (0, "3 scheduled, 0 refused\n")


def test_the_index_of_the_reference_names_each_command():
    line = re.search(r"^- \[Commands\].*", (DOCS / "reference" / "index.md").read_text(), re.MULTILINE)

    assert [name for name, _ in commands_of(cli) if f"`{name}`" not in line[0].replace("pyncette ", "")] == []


@pytest.mark.parametrize(
    ("example", "counted"),
    [
        ("quickstart", "3 manifests, 3 handlers"),
        ("kubernetes", "2 manifests, 2 handlers"),
        ("reminders", "0 manifests, 2 handlers, 1 task"),
        ("fastapi", "0 manifests, 1 handler"),
    ],
)
def test_an_example_has_no_problems(root, example, counted):
    assert called("check", f"examples/{example}", cwd=root) == (
        0,
        f"examples/{example}: {counted}, no problems\n",
    )


def test_the_readme_of_the_quickstart_lists_its_tasks(root):
    folder = root / "examples" / "quickstart"
    names = [task["metadata"]["name"] for task in yaml.safe_load_all((folder / "tasks.yaml").read_text())]

    assert re.findall(r"^\| `(\S+)` \|", (folder / "README.md").read_text(), re.MULTILINE) == names


def test_the_complete_example_of_the_manifests_names_each_field_and_has_no_problems(tmp_path):
    page = DOCS / "reference" / "manifests.md"
    task, pool = blocks(page, "yaml")
    folder = TaskFolder(tmp_path).write("task.yaml", task).write("pool.yaml", pool)
    folder.write("tasks.py", MODULE.replace("greet", "send_report"))

    code, output = called("check", folder.path)

    spec = page.read_text().partition("### Fields of a task's spec")[2].partition("\n### ")[0]
    fields = re.findall(r"^\| `([\w.]+)` \|", spec, re.MULTILINE)
    assert (code, output.endswith("no problems\n")) == (0, True), output
    assert len(fields) > 25
    assert [field for field in fields if f"{field.rpartition('.')[2]}:" not in task] == []


def test_the_folder_of_the_how_to_runs(tmp_path):
    page = DOCS / "how-to" / "run-a-folder.md"
    (module,), (manifest,) = blocks(page, "python"), blocks(page, "yaml")
    folder = TaskFolder(tmp_path).write("tasks.py", module).write("report.yaml", manifest)

    with Program("dev", folder.path) as program:
        program.expect("task: daily-report: 0 12 ")
        for command in commands(page):
            code, output = called(*(str(folder.path) if word == "PATH" else word for word in command))
            assert code == 0, output
        program.expect("daily-report: report for everybody, due at 2")
        program.interrupt()
        assert program.ended() == 0


def test_the_worker_of_the_how_to_runs(folder, postgres_url):
    migrate, start, with_health = commands(DOCS / "how-to" / "run-workers.md")
    with_health = ["0" if word == "8080" else word for word in with_health]  # any port that is free

    code, output = called(*migrate, PYNCETTE_BACKEND=postgres_url)
    assert (code, "were created" in output) == (0, True)
    for command, sign in ((start, "running handlers"), (with_health, '"message": "serving health checks"')):
        with Program(*command, cwd=folder.path, PYNCETTE_BACKEND=postgres_url) as program:
            program.expect(sign)
            program.expect("running handlers")
            program.process.terminate()
            assert program.ended() == 0


VARYING = re.compile(
    r"\b[0-9a-f]{20}\b|\S+:\d+:[0-9a-f]{6}\b|\b(?:in|due) \d+ s(?: ago)?|(?<![\w.:])\d[\d:.TZ-]*(?: m?s\b(?: ago)?)?"
)
"""Times, numbers and ids of an output that is shown; not the line and column of a problem."""


def outputs(page):
    """A pattern for each output of a page, line by line, in which what varies may be otherwise."""
    for block in blocks(page, "text"):
        lines = [re.split(r" +", line.strip()) for line in VARYING.sub("\0", block).splitlines()]
        yield [
            " +".join(map(re.escape, words)).replace("\\\0", ".+?").replace("\0", ".+?") for words in lines
        ]


def test_the_plugin_of_kubectl_hands_on_its_arguments(tmp_path):
    (script,) = blocks(DOCS / "how-to" / "troubleshoot.md", "sh")
    for name, text in (("kubectl-pyncette", script), ("kubectl", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = (str(tmp_path / "kubectl-pyncette"),)
    path = f"{tmp_path}:{os.environ['PATH']}"

    for terminal in (False, True):
        with Program("run", "x", "--args", "{ }", command=command, terminal=terminal, PATH=path) as program:
            assert program.ended() == 0
        assert program.output.split("\n")[:-1] == [
            *("--namespace", "pyncette", "exec"),
            *(["--stdin", "--tty"] if terminal else []),
            *("deployment/pyncette-operator", "--", "pyncette", "run", "x", "--args", "{ }"),
        ]


def test_the_tutorial_goes_as_it_says(tmp_path):
    page = DOCS / "tutorial" / "index.md"
    (module, failing), (manifest,) = blocks(page, "python"), blocks(page, "yaml")
    (check, start, run, tasks, runs, again), expected = commands(page), iter(list(outputs(page)))
    folder = TaskFolder(tmp_path).write("tasks.py", module).write("tasks.yaml", manifest)
    seen = 0

    def see(program):
        nonlocal seen
        for line in next(expected):
            seen = program.expect(f"^{line}", after=seen)

    def call(command):
        code, output = called(*command, cwd=tmp_path)
        assert code == 0
        for line in next(expected):
            assert re.search(f"^{line}", output, re.MULTILINE), (line, output)

    call(check)
    with Program(*start, cwd=tmp_path) as program:
        see(program)
        manifest = manifest.replace("tomatoes", "basil")
        folder.write("tasks.yaml", manifest)
        see(program)
        folder.write("tasks.yaml", manifest.replace("intervalSeconds", "intervallSeconds"))
        see(program)
        folder.write("tasks.yaml", manifest)
        see(program)
        folder.write("tasks.py", failing)
        see(program)
        program.expect('tasks.py", line 8', after=seen)
        folder.write("tasks.py", module)
        see(program)
        call(run)
        program.expect("balcony: watering the roses", after=seen)
        call(tasks)
        call(runs)
        program.interrupt()
        see(program)
        assert program.ended() == 0
    seen = 0
    with Program(*again, cwd=tmp_path) as program:
        see(program)
        program.interrupt()
        assert program.ended() == 0
    assert not list(expected)


def test_the_first_example_of_the_readme_shows_something_soon_and_keeps_its_schedules(tmp_path):
    (module,) = blocks(ROOT / "README.md", "python")
    folder = TaskFolder(tmp_path).write("jobs.py", module)

    for _ in range(2):
        with Program("jobs.py", cwd=folder.path, command=(sys.executable, "-u")) as program:
            program.expect("synced, due at")
            program.interrupt()
            assert program.ended() == 0

    assert (folder / "schedule.db").exists()
