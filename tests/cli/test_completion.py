"""A shell completes the commands by the script that `pyncette completion` prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyncette.cli.commands.completion import SHELLS
from tests.cli import called, environment

ASK = """
eval "$(pyncette completion bash)"
COMP_WORDS=({words})
COMP_CWORD={last}
_pyncette_completion pyncette
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(*words):
    """What Bash completes the last of *words* to."""
    script = ASK.format(words=" ".join(f"'{word}'" for word in words), last=len(words) - 1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


def test_bash_completes_commands():
    assert completed("pyncette", "r") == ["redrive", "resume", "run", "runs"]


def test_bash_completes_options():
    assert {"--watch", "--state", "--prefix"} <= set(completed("pyncette", "tasks", "--"))


@pytest.mark.parametrize(
    ("option", "begun", "values"), [("--state", "f", ["failing", "finished"]), ("-o", "j", ["json"])]
)
def test_bash_completes_values_of_options(option, begun, values):
    assert completed("pyncette", "tasks", option, begun) == values


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_that_asks_the_program(shell):
    code, script = called("completion", shell)

    assert code == 0
    assert f"_PYNCETTE_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_the_script_is_of_that_shells_language(shell, tmp_path):
    _, script = called("completion", shell)
    (tmp_path / "script").write_text(script)

    assert subprocess.run([shell, "-n", tmp_path / "script"], timeout=60, check=False).returncode == 0


def test_another_shell_is_refused():
    code, output = called("completion", "tcsh")

    assert code == 2
    assert "is not one of 'bash', 'zsh', 'fish'" in output
