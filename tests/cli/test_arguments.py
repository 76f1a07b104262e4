"""A password that a command was given as an argument is soon hidden from others, and no page tells to give one so."""

import re
import socket
import time
from pathlib import Path

import pytest

from pyncette.testing.faults import SECRET
from tests.cli import Program

ROOT = Path(__file__).resolve().parents[2]

PASSWORD = re.compile(r"://[^\s/:@'\"]*:[^\s/@'\"]+@")

PAGES = sorted(
    page
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/**/*.md",
        "charts/**/*.md",
        "charts/**/NOTES.txt",
        "charts/**/*.yaml",
    )
    for page in ROOT.glob(pattern)
    if page.name != "CHANGELOG.md"
)


@pytest.fixture
def port():
    """The port of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def shown(program):
    """Return what other users of the machine see of the arguments of *program*."""
    return Path(f"/proc/{program.process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backend", "postgresql://shop:hunter2@127.0.0.1:{port}/shop"],
        ["--backend=postgresql://shop:hunter2@127.0.0.1:{port}/shop"],
        ["--backend", "postgresql://127.0.0.1:{port}/shop?user=shop&password=hunter2"],
        ["--backend", "redis+sentinel://127.0.0.1:{port}/shop?sentinel_password=hunter2"],
    ],
)
def test_a_password_among_the_arguments_is_overwritten_and_the_rest_stays(port, arguments):
    with Program("workers", *(argument.format(port=port) for argument in arguments)) as program:
        deadline = time.monotonic() + 20
        while SECRET in shown(program):
            assert time.monotonic() < deadline
            time.sleep(0.02)

        assert f"127.0.0.1:{port}/shop" in shown(program)
        assert "pyncette.cli workers --backend" in shown(program)
        assert program.process.poll() is None


def test_arguments_without_a_secret_stay_as_they_were(port):
    with Program("workers", "--backend", f"postgresql://127.0.0.1:{port}/shop") as program:
        before = shown(program)
        time.sleep(3)

        assert shown(program) == before
        assert before.endswith(f"-m pyncette.cli workers --backend postgresql://127.0.0.1:{port}/shop ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_documented_command_has_a_password_in_an_argument(page: Path):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [
        line
        for line in text.splitlines()
        if re.search(r"(?:^|[\s`|])(?:kubectl|pyncette|helm) .*(?:--|=)", line) and not line.startswith("| `")
    ]

    found = [line for line in commands if PASSWORD.search(line) or "--from-literal" in line]
    assert not found
