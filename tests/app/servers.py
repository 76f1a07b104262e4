"""Runs a web server with a program, in a process of its own."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tests.app.harness import free_port

SOURCE = Path(__file__).resolve().parents[2] / "operator"


class Server:
    """A server that has been started. *output* is what it and its handlers have printed."""

    def __init__(self, command, folder, backend):
        self.port = free_port()
        self._log = folder / f"output-{self.port}.txt"
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYNCETTE_BACKEND": backend}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=self.port) for part in command)],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self):
        return self._log.read_text()

    def request(self, method, path, body=None):
        """Return the status and the text of the response."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_until(self, condition, seconds=40):
        """Wait until *condition*, which may fail to connect at first."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s, exit code {self.process.poll()}:\n{self.output}")

    def stop(self, seconds=30):
        """Send SIGTERM, and return the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)


@contextmanager
def serving(command, folder, backend):
    server = Server(command, folder, backend)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
