"""A fresh machine's Python is found, whatever else is on PATH, and each step of the set-up is said."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import set_up

FIND_PYTHON = Path(__file__).resolve().parents[2] / "tools" / "find-python"

WORKS = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
STAND_IN = "#!/bin/sh\necho 'no such version is switched on' >&2\nexit 127\n"


@pytest.fixture
def found(tmp_path):
    """What is found on a PATH that holds just the programs that are given."""

    def find(programs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
        for name, text in programs.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        surroundings = {"PATH": str(tmp_path), **environment}
        return subprocess.run(["/bin/sh", FIND_PYTHON], env=surroundings, capture_output=True, text=True)

    return find


def test_the_newest_python_is_taken(found, tmp_path):
    result = found({"python3": WORKS, "python3.11": WORKS, "python3.12": WORKS})

    assert result.stdout.strip() == str(tmp_path / "python3.12")


def test_a_name_that_runs_nothing_is_passed_over(found, tmp_path):
    result = found({"python3.12": STAND_IN, "python3": WORKS})

    assert result.stdout.strip() == str(tmp_path / "python3")


def test_the_python_that_is_named_is_taken(found, tmp_path):
    result = found({"python3.11": WORKS, "python3.12": WORKS}, PYTHON="python3.11")

    assert result.stdout.strip() == str(tmp_path / "python3.11")


def test_without_a_python_the_message_says_what_to_do(found):
    result = found({"python3": STAND_IN})

    assert result.returncode == 1
    assert "apt-get install python3" in result.stderr
    assert "make PYTHON=" in result.stderr


def test_each_step_is_said_before_it_begins(tmp_path, monkeypatch):
    steps = []

    def run(*command, env=None):
        steps.append(" ".join(map(str, command[1:4])))
        (tmp_path / "tools").mkdir(exist_ok=True)

    monkeypatch.setattr(set_up, "TOOLS", tmp_path / "tools")
    monkeypatch.setattr(set_up, "UV", tmp_path / "tools" / "bin" / "uv")
    monkeypatch.setattr(set_up, "VENV", tmp_path / "venv")
    monkeypatch.setattr(set_up, "find_pip", lambda _: (["python", "-m", "pip"], {}))
    monkeypatch.setattr(set_up, "succeeds", lambda *_, **__: False)
    monkeypatch.setattr(set_up, "run", run)
    monkeypatch.setattr(set_up, "say", lambda what: steps.append(f"said: {what.strip()}"))

    set_up.main()

    said = [step.startswith("said: ") for step in steps]
    assert said[:2] == [True, True]  # with what, and the first step
    assert [steps[at - 1] for at, is_said in enumerate(said) if not is_said] == [
        "said: installing uv, which installs the rest",
        steps[2],
        "said: creating .venv",
        next(step for step in steps if "packages" in step),
        "said: installing this repository",
    ]
