"""Programs of Debian unstable, unpacked into a cache folder instead of installed: so that nothing is installed on the machine."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers import machine

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

COMPLETE = "complete"
"""A file that is written last: a folder without it is of an attempt that was interrupted."""


def unpacked(package: str) -> Path | None:
    """
    Return the folder that *package* and all that it depends on are unpacked in, as if it were `/`; None if it cannot be had.

    It takes some seconds and about 60 MB of downloads, once: the folder is kept outside of this repository, and made
    again when it is gone. Several processes may ask at once. Nothing is installed, and no rights are needed; only what
    Debian signed is unpacked.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None or not KEYRING.exists():
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyncette-tests"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / package
    with machine.locked(cache / f"{package}.lock"):
        if not (folder / COMPLETE).exists():
            mirror = _mirror()
            if mirror is None:
                return None
            print(f"unpacking {package} of Debian unstable for the tests", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="pyncette-apt-") as state:
                if not _unpack(package, mirror, Path(state), folder):
                    return None
            (folder / COMPLETE).touch()
    return folder


def _mirror() -> str | None:
    """Return where this machine gets Debian's packages from."""
    said = _run(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"
    )
    for line in (said or "").splitlines():
        origin, component, place = line.split(" ", 2)
        if (origin, component) == ("Debian", "main") and "security" not in place:
            return place
    return None


def _unpack(package: str, mirror: str, state: Path, folder: Path) -> bool:
    """Let apt find and fetch what is needed on a machine that has nothing yet, in a folder of its own."""
    for name in ("lists/partial", "cache/archives/partial", "empty"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} unstable main\n")
    (state / "apt.conf").write_text(
        f"""\
Dir::State "{state}";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Etc::sourcelist "{state}/sources.list";
Dir::Etc::sourceparts "{state}/empty";
Dir::Etc::preferencesparts "{state}/empty";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "true";
"""
    )
    apt = ("apt-get", "--quiet", "--yes")
    for command in ((*apt, "update"), (*apt, "--download-only", "install", package)):
        if _run(*command, configuration=state / "apt.conf") is None:
            return False
    archives = sorted((state / "cache" / "archives").glob("*.deb"))
    return all(_run("dpkg-deb", "--extract", str(archive), str(folder)) is not None for archive in archives)


def _run(*command: str, configuration: Path | None = None) -> str | None:
    """Return what a command said, or None if it failed."""
    environment = {**os.environ, **({"APT_CONFIG": str(configuration)} if configuration else {})}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr, flush=True)
        return None
    return done.stdout
