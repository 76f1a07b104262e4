"""Worker processes that tests start, kill, freeze, wake and stop, and whose words they can read."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.processes.accounted import FOLDER_VARIABLE
from tests.processes.shifted_clock import ShiftedClock
from tests.servers.machine import free_port

ROOT = Path(__file__).resolve().parents[2]

MODULE = "tests.processes.accounted"

STOP_SECONDS = 30
"""A worker that drains lets its runs end; none of these tests has one that takes longer."""


class WorkerProcess:
    """One `pyncette worker`."""

    def __init__(
        self, name: str, folder: Path, backend: str, *options: str, clock: ShiftedClock | None = None
    ) -> None:
        self.name = name
        wrapper = [] if clock is None else ["-m", "tests.processes.shifted_clock"]
        self._port = free_port()
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *(wrapper or ["-m"]), "pyncette.cli", "worker", MODULE, *options],
                cwd=ROOT,
                env={
                    **environment(folder, backend, self._port),
                    **({} if clock is None else clock.environment),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        self._asked_to_end = False

    # --- What is done to it --------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it as a crash does."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does, and return once it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal that is to end it."""
        self._asked_to_end = True
        self._process.send_signal(number)

    def stop(self) -> int:
        """Ask it to drain, and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Return its exit code, once it has one."""
        self._asked_to_end = True
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} has not ended within {seconds:g} s:\n{self.last_words()}"
            ) from None

    # --- What is seen of it --------------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it says that it is, where the kubelet asks."""
        return self._answers_well("readyz")

    @property
    def is_live(self) -> bool:
        """Whether it says that it need not be started anew."""
        return self._answers_well("healthz")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def entries(self, message: str) -> list[dict[str, Any]]:
        """The log entries whose sentence has *message* in it."""
        lines = [line for line in self.log.splitlines() if message in line]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def last_words(self) -> str:
        return f"--- the end of the log of {self.name} ---\n" + "\n".join(self.log.splitlines()[-30:])

    def _answers_well(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def check(self) -> None:
        """Fail if it ended although nobody asked it to."""
        code = self._process.poll()
        if code is not None and not self._asked_to_end:
            raise AssertionError(f"{self.name} ended by itself with {code}:\n{self.last_words()}")


def environment(folder: Path, backend: str, port: int = 0) -> Mapping[str, str]:
    paths: Iterable[str] = (str(ROOT / "operator"), str(ROOT))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYNCETTE_BACKEND": backend,
        "PYNCETTE_HEALTH": f"127.0.0.1:{port}",
        "PYNCETTE_LOG_FORMAT": "json",
        FOLDER_VARIABLE: str(folder),
    }
