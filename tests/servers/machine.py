"""What servers need of the machine: a free port, packages, an unprivileged user, and an end after a crash."""

import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE_LOCK_SECONDS = 300
"""How long to wait for another installation to end; a whole distribution upgrade may take longer, a test may not."""


def free_port() -> int:
    """A loopback port that nothing listens on now. Another program may take it first, so starting may need a retry."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def can_install_packages() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_package(name: str) -> bool:
    """Install a package of Debian or Ubuntu, with fresh lists only if the present ones do not do; true if it worked."""
    install = ("install", "--yes", "--no-install-recommends", name)
    # Tests run in several processes, and apt waits for others to install, but not for others to fetch its lists.
    with locked(Path(tempfile.gettempdir()) / "pyncette-tests-apt.lock"):
        print(f"installing {name} for the tests, with apt-get", file=sys.stderr, flush=True)
        return apt_get(*install) or (apt_get("update") and apt_get(*install))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one who is here with this *path*, of all processes of this machine."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def apt_get(*arguments: str) -> bool:
    command = ["apt-get", "--quiet", "-o", f"DPkg::Lock::Timeout={PACKAGE_LOCK_SECONDS}", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr, flush=True)
    return done.returncode == 0


def docker_runs() -> bool:
    return (
        bool(shutil.which("docker"))
        and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as: ourselves, or somebody unprivileged where we are root."""

    uid: int
    gid: int

    def run(
        self, *command: str | Path, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, with output kept; it is for the caller to look at the return code."""
        return subprocess.run(
            command,
            cwd="/",
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **self.identity(),
        )

    def identity(self) -> dict[str, Any]:
        """What subprocess needs to change to this user, which is nothing if we are it."""
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def our_account() -> Account:
    return Account(os.geteuid(), os.getegid())


def account_for(*preferred: str) -> Account:
    """Ourselves; for root, the first of *preferred* that exists, since database servers refuse to run as root."""
    if os.geteuid() != 0:
        return our_account()
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = next(known[name] for name in (*preferred, "nobody") if name in known)
    return Account(user.pw_uid, user.pw_gid)


def folder_of(account: Account, prefix: str) -> Path:
    """A new temporary folder that belongs to *account*."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    if os.geteuid() == 0:
        os.chown(folder, account.uid, account.gid)
    return folder


class Watchdog:
    """
    Runs a shell command once this process is gone, however it went: SIGKILL closes a pipe, too.

    It is a shell, since the unprivileged user may not be able to start our Python, and in a session of its own, since
    a ctrl-C at the terminal must not end it before us.
    """

    def __init__(self, command: str, *arguments: str | Path, account: Account) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", f"cat >/dev/null; {command}", "watchdog", *map(str, arguments)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **account.identity(),
        )

    def fire(self, timeout_seconds: float = 60) -> None:
        """Run the command now, and wait until it is done."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(timeout_seconds)
