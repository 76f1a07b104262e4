"""Plays the commands of a document in a shell, one after the other, as if somebody pasted them."""

import os
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Final, Self

COMMAND_SECONDS_MAX: Final = 300
"""The longest is an installation."""

_END: Final = "-- end of a command: "


def section(page: Path, heading: str) -> str:
    """Return what stands under a heading of a page, with all that is under the smaller headings in it."""
    (level,) = re.findall(rf"^(#+) {re.escape(heading)}$", page.read_text(), re.MULTILINE)
    after = page.read_text().partition(f"{level} {heading}\n")[2]
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def commands(text: str) -> list[str]:
    """Return the commands of all blocks of shell, each with the lines that it goes on in."""
    blocks = re.findall(r"^```shell\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in re.split(r"(?<!\\)\n", block) if line]


def files(text: str) -> dict[str, str]:
    """Return the files that a text shows, by their names."""
    found = re.findall(r'^```\w+ title="(.*?)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return dict(found)


class CommandFailedError(Exception):
    """A command of a document did not do what it should; the message is the command's own."""


class Shell:
    """A shell that is kept, so that a variable or a folder which one command sets is there for the next; a context manager."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-o", "pipefail"],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()
            self._reader.join()

    def run(self, command: str) -> str:
        """Run a command and return what it printed. Raises CommandFailedError if it fails, or does not end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\necho '{_END}'$?\n")
        self._process.stdin.flush()
        printed = ""
        while True:
            try:
                line = self._lines.get(timeout=COMMAND_SECONDS_MAX)
            except Empty:
                raise CommandFailedError(f"{command}: it does not end\n{printed}") from None
            before, end, code = line.partition(_END)
            printed += before
            if end:
                if code.strip() != "0":
                    raise CommandFailedError(f"{command}: exit code {code.strip()}\n{printed}")
                return printed

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(f"{_END}of the shell\n")
