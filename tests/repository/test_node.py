"""That the node's build is done once, whoever asks and however it ends."""

import os
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).resolve().parents[1] / "cluster" / "node"

GO = """\
#!/bin/sh
# Stands for Go: writes what it was asked to build, slowly, and tells that it was asked.
echo asked >>"$ASKED"
while [ "$1" != -o ]; do shift; done
echo half >"$2"
sleep 0.5
[ -z "$FAILS" ] || exit 1
printf '#!/bin/sh\\n' >"$2"
chmod +x "$2"
"""


@pytest.fixture
def build(tmp_path):
    """Begins a build of the API server, with a Go that takes half a second."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "go").write_text(GO)
    (tmp_path / "bin" / "go").chmod(0o755)

    def begin(**environment: str) -> subprocess.Popen[bytes]:
        surroundings = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "NODE_CACHE": str(tmp_path / "cache"),
            "ASKED": str(tmp_path / "asked"),
            **environment,
        }
        with (tmp_path / "said").open("w") as said:
            return subprocess.Popen([NODE / "build", "apiserver"], env=surroundings, stderr=said)

    return begin


def asked(folder: Path) -> int:
    return len((folder / "asked").read_text().splitlines())


def test_two_who_ask_at_once_get_one_build(build, tmp_path):
    both = [build(), build()]

    assert [process.wait(30) for process in both] == [0, 0]
    assert asked(tmp_path) == 1
    for program in ("etcd", "kube-apiserver", "kubectl"):
        assert subprocess.run([tmp_path / "cache" / "bin" / program]).returncode == 0


def test_a_build_that_fails_leaves_nothing_that_could_be_run_and_is_made_again(build, tmp_path):
    assert build(FAILS="yes").wait(30) != 0
    assert not (tmp_path / "cache" / "bin" / "kube-apiserver").exists()

    assert build().wait(30) == 0
    assert asked(tmp_path) == 2


def test_without_go_the_message_says_what_to_do(build, tmp_path):
    (tmp_path / "bin" / "go").unlink()

    assert build(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin").wait(30) == 1
    assert "install it (https://go.dev/dl)" in (tmp_path / "said").read_text()
