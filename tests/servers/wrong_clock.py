"""Gives a server a clock that differs from ours, as that of a standby may."""

from datetime import timedelta
from pathlib import Path

from tests.servers import machine
from tests.servers.errors import MissingServerError

HOW_TO_GET_A_WRONG_CLOCK = """\
A server whose clock differs has to be an installed one, and needs libfaketime:

  Debian, Ubuntu   sudo apt-get install libfaketime      (as root, the tests do this by themselves)
  Fedora           sudo dnf install libfaketime
  macOS            brew install libfaketime"""

PLACES = {
    "/usr/lib": "*/faketime/libfaketime.so.1",
    "/usr/lib64": "faketime/libfaketime.so.1",
    "/opt/homebrew/opt": "libfaketime/lib/faketime/libfaketime.1.dylib",
    "/usr/local/opt": "libfaketime/lib/faketime/libfaketime.1.dylib",
}
"""Where Debian, Fedora and Homebrew (on either processor) keep the library."""


def wrong_clock(ahead: timedelta) -> dict[str, str]:
    """
    The environment in which a program's time of day is *ahead* of ours, or behind it if that is negative.

    It is the real program with libfaketime loaded into it. Only the time of day is shifted: the monotonic clock, and so
    waits and timeouts, are left alone. Raises MissingServerError with the command that installs the library.
    """
    library = _library()
    if library is None and machine.can_install_packages() and machine.install_package("libfaketime"):
        library = _library()
    if library is None:
        raise MissingServerError(HOW_TO_GET_A_WRONG_CLOCK)
    preload = "DYLD_INSERT_LIBRARIES" if library.suffix == ".dylib" else "LD_PRELOAD"
    return {
        preload: str(library),
        "FAKETIME": f"{ahead.total_seconds():+.6f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _library() -> Path | None:
    return next((found for place, name in PLACES.items() for found in Path(place).glob(name)), None)
