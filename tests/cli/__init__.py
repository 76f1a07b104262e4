"""What the tests of the commands share: programs that really run, and folders for them."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from functools import partial
from pathlib import Path
from textwrap import dedent

SECONDS_MAX = 30
"""What a program that works takes a moment for; a loaded machine needs more."""

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\r")

COMMAND = (sys.executable, "-m", "pyncette.cli")


def environment(**more):
    """That of this process, without what would set a program to something."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYNCETTE_")}
    kept.pop("LOG_LEVEL", None)
    return kept | {"COLUMNS": "160", "PYTHONPATH": str(Path(__file__).parents[2] / "operator")} | more


def _as_in_a_shell(terminal):
    """Let a ctrl-C be what it is to people: a signal that nobody ignores, to all in the foreground of the terminal."""
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # tests that run in the background ignore it, and so would their children
    if terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Program:
    """A command that runs. Its output is what it has printed so far, on stdout and stderr alike."""

    def __init__(self, *args, cwd=None, terminal=False, command=COMMAND, **variables):
        self._text = ""
        self._changed = threading.Condition()
        theirs = None
        if terminal:
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        else:
            ours, theirs = os.pipe()
        self.process = subprocess.Popen(
            [*command, *map(str, args)],
            cwd=cwd,
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm-256color", **variables),
            start_new_session=True,
            preexec_fn=partial(_as_in_a_shell, terminal),  # noqa: PLW1509
        )
        os.close(theirs)
        self._ours = ours
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while data := os.read(self._ours, 65536):
                with self._changed:
                    self._text += data.decode("utf-8", "replace")
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self):
        return ESCAPE.sub("", self._text)

    def expect(self, pattern, within=SECONDS_MAX, after=0):
        """Wait until *pattern* is in the output from *after* on; return where it ends."""
        deadline = time.monotonic() + within
        with self._changed:
            while True:
                found = re.compile(pattern, re.MULTILINE).search(self.output, after)
                if found:
                    return found.end()
                left = deadline - time.monotonic()
                over = self.process.poll() is not None and not self._reader.is_alive()
                assert not over, f"no {pattern!r} until the end of:\n{self.output[after:]}"
                assert left > 0, f"no {pattern!r} within {within} s in:\n{self.output[after:]}"
                self._changed.wait(min(left, 0.2))

    def signal(self, number):
        self.process.send_signal(number)

    def interrupt(self):
        self.signal(signal.SIGINT)

    def ended(self, within=SECONDS_MAX):
        """Wait for its end, and return its exit code."""
        code = self.process.wait(within)
        self._reader.join(5)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)
        os.close(self._ours)


def called(*args, cwd=None, **variables):
    """Run a command to its end; return its exit code and its output."""
    with Program(*args, cwd=cwd, **variables) as program:
        code = program.ended()
        return code, program.output


class TaskFolder:
    """A folder of a module and manifests."""

    def __init__(self, path):
        self.path = path

    def write(self, name, text):
        (self.path / name).write_text(dedent(text).lstrip(), encoding="utf-8")
        return self

    def task(self, name, **fields):
        """Write a manifest for the task *name* into a file of that name."""
        spec = "".join(f"\n  {field}: {value}" for field, value in ({"handler": "greet"} | fields).items())
        return self.write(
            f"{name}.yaml",
            f"apiVersion: pyncette.dev/v1alpha1\nkind: PyncetteTask\nmetadata:\n  name: {name}\nspec:{spec}\n",
        )

    def __truediv__(self, name):
        return self.path / name


MODULE = """
    from pyncette import Pyncette

    app = Pyncette()

    @app.handler()
    async def greet(context):
        print("greetings", context.args.get("name", "you"), flush=True)
"""


def children_of(pid):
    """The processes that *pid* has started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def is_gone(pid, within=10):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        select.select([], [], [], 0.05)
    return False
