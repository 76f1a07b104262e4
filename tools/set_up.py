"""
Sets up .tools (uv, pinned and hashed) and .venv (everything else) for `make`, without touching the system's Python.

Started by the Python that .venv is to run on, before anything is installed: the standard library is all there is.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
UV = TOOLS / "bin" / "uv"

NO_PIP = """\
This Python ({python}) comes without ensurepip and without pip, so nothing can be installed with it. Either
  - install what it lacks (Debian, Ubuntu: apt-get install python3-venv), or
  - name another Python >= 3.11:  make PYTHON=/path/to/python3
and say the same again."""


def main() -> None:
    say(f"setting up .tools and .venv with Python {sys.version.split()[0]} ({sys.executable})")
    install_uv()
    install_requirements()


def install_uv() -> None:
    pinned = ROOT / "requirements" / "uv.txt"
    installed = TOOLS / "uv.txt"
    if UV.exists() and installed.exists() and installed.read_bytes() == pinned.read_bytes():
        return
    say("  installing uv, which installs the rest")
    shutil.rmtree(TOOLS, ignore_errors=True)
    # Without pip, since Debian's Python without python3-venv makes no other kind.
    run(sys.executable, "-m", "venv", "--without-pip", TOOLS)
    with tempfile.TemporaryDirectory() as scratch:
        pip, environment = find_pip(Path(scratch))
        run(
            *pip, "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location", "--no-cache-dir",
            "--require-hashes", "--only-binary=:all:", "-r", pinned,
            env=environment,
        )  # fmt: skip
    shutil.copy(pinned, installed)


def find_pip(scratch: Path) -> tuple[list[str], dict[str, str]]:
    """A command, and its environment, that is pip for the Python in .tools; pip itself is not put there."""
    python = str(TOOLS / "bin" / "python")
    for wheel in (bundled_pip, pip_of_the_distribution, pip_from_the_distributions_archive):
        found = wheel(scratch)
        if found:
            return [python, "-m", "pip"], {**os.environ, "PYTHONPATH": str(found)}
    if succeeds(sys.executable, "-m", "pip", "--python", python, "--version"):
        return [sys.executable, "-m", "pip", "--python", python], dict(os.environ)
    sys.exit(NO_PIP.format(python=sys.executable))


def bundled_pip(scratch: Path) -> Path | None:
    """The wheel inside ensurepip, which every Python has, but for those of distributions that cut it out."""
    try:
        import ensurepip
    except ImportError:
        return None
    return newest_pip(Path(ensurepip.__file__).parent / "_bundled")


def pip_of_the_distribution(scratch: Path) -> Path | None:
    """Where Debian keeps the wheels of its python3-pip-whl, and Fedora those of its python-pip-wheel."""
    return newest_pip(Path("/usr/share/python-wheels"))


def pip_from_the_distributions_archive(scratch: Path) -> Path | None:
    """Debian's python3-pip-whl, unpacked in *scratch* and not installed; apt's lists are fetched there if missing."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    say("this Python has no ensurepip; unpacking the distribution's pip for once")
    lists, archives = scratch / "lists", scratch / "archives"
    (lists / "partial").mkdir(parents=True)
    archives.mkdir()
    private = [
        "-q",
        "-o",
        f"Dir::State::lists={lists}",
        "-o",
        f"Dir::Cache={archives}",
        "-o",
        "APT::Sandbox::User=",
    ]
    for options in ([], private):
        if options and not succeeds("apt-get", *options, "update"):
            return None
        if succeeds("apt-get", *options, "download", "python3-pip-whl", cwd=scratch):
            break
    for package in scratch.glob("python3-pip-whl_*.deb"):
        run("dpkg-deb", "--extract", package, scratch)
    return newest_pip(scratch / "usr" / "share" / "python-wheels")


def newest_pip(folder: Path) -> Path | None:
    wheels = sorted(folder.glob("pip-*.whl"), key=lambda wheel: wheel.stat().st_mtime)
    return wheels[-1] if wheels else None


def install_requirements() -> None:
    python = VENV / "bin" / "python"
    # Only what is asked for: no Python that uv would download, no setting or index of the surroundings' projects.
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_CONFIG": "1", "UV_SYSTEM_CERTS": "1"}
    environment.pop("VIRTUAL_ENV", None)
    pinned = ROOT / "requirements" / "dev.txt"
    if not succeeds(python, "-c", "pass") or version_of(python) != version_of(sys.executable):
        say("  creating .venv")
        run(
            UV,
            "venv",
            "--quiet",
            "--clear",
            "--no-project",
            "--python",
            sys.executable,
            VENV,
            env=environment,
        )
    packages = sum(
        "==" in line and not line.startswith((" ", "#")) for line in pinned.read_text().splitlines()
    )
    say(f"  installing {packages} packages, which takes half a minute if they have to be downloaded")
    run(
        UV, "pip", "sync", "--quiet", "--require-hashes", "--python", python, pinned,
        env=environment,
    )  # fmt: skip
    say("  installing this repository")
    run(
        UV, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--python", python, "--editable", ROOT,
        env=environment,
    )  # fmt: skip


def version_of(python: str | Path) -> str:
    command = [str(python), "-c", "import sys; print(sys.version, sys.base_prefix)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def succeeds(*command: str | Path, cwd: Path | None = None) -> bool:
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(command, check=True, env=env, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        sys.exit(f"set-up stopped: `{' '.join(map(str, command))}` ended with {error.returncode}")


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
