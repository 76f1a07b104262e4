"""Reads the URL of a backend from a file, and again whenever a store connects, so that a new password needs no restart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from pyncette.errors import ConfigurationError
from pyncette.store.backend import EXAMPLES, Backend, is_scheme, read_backend

logger = logging.getLogger(__name__)

BYTES_MAX: Final = 16 * 1024
"""Longer than any URL. Who names another file by mistake is not to wait until it is read."""


def read_backend_file(path: str) -> Backend:
    """
    Return the backend whose URL stands in the file *path*, to be read again at each connect.

    Blanks and line ends around the URL do not count. Raises ConfigurationError, whose message repeats nothing of the file.
    """
    return _File(Path(path)).first()


class _File:
    """A file with a URL, and what it said when it was last fit to be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._latest: Backend | None = None
        self._trouble = ""

    def first(self) -> Backend:
        return self._taken(self._read())

    def again(self) -> Backend:
        """Return what the file says now, or said last if that is of no use: it may be being replaced just now."""
        assert self._latest is not None
        try:
            said = self._read()
            _check_place(said, self._latest)
        except ConfigurationError as error:
            self._complain(str(error))
            return self._latest
        self._trouble = ""
        if said == self._latest:
            return self._latest
        logger.info("the file of the backend says other credentials now", extra={"file": str(self._path)})
        return self._taken(said)

    def _taken(self, backend: Backend) -> Backend:
        backend.again = self.again
        self._latest = backend
        return backend

    def _complain(self, trouble: str) -> None:
        """Say it once: a store that cannot connect asks again and again."""
        if trouble != self._trouble:
            logger.warning(
                "the file of the backend is of no use; what it said before still counts",
                extra={"file": str(self._path), "error": trouble},
            )
        self._trouble = trouble

    def _read(self) -> Backend:
        try:
            with self._path.open("rb") as file:
                content = file.read(BYTES_MAX + 1)
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error.strerror}") from None
        try:
            return read_backend(_url_in(content))
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path} holds no URL of a backend: {error}") from None


def _url_in(content: bytes) -> str:
    """Return the URL that is all of *content*. Raises ConfigurationError."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ConfigurationError("it is no text") from None
    if not text:
        raise ConfigurationError("it is empty")
    if len(content) > BYTES_MAX or len(text.splitlines()) > 1:
        raise ConfigurationError("it is to hold the URL, and nothing else")
    # What has no scheme, or none that is known, may be just a password: so it is not repeated.
    scheme, separator, _ = text.partition("://")
    if not separator or not is_scheme(scheme):
        raise ConfigurationError(f"write {EXAMPLES}")
    return text


def _check_place(said: Backend, latest: Backend) -> None:
    """Raise ConfigurationError if *said* is elsewhere: one worker cannot have one half of its records here and one there."""
    if type(said) is not type(latest) or str(said) != str(latest):
        raise ConfigurationError(f"it no longer names {latest}, but another place: that takes a restart")
