"""Reads the URL of a backend from a file for each new connection, so that a new password needs no restart."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyncette.core.log_messages import naming_logger
from pyncette.errors import ConfigurationError
from pyncette.store.backend import EXAMPLES, Backend, is_scheme, read_backend
from pyncette.store.tls import CA_FILE, Tls

logger = naming_logger(__name__)

BYTES_MAX: Final = 16 * 1024
"""Longer than any URL. A file that is named by mistake may be large."""


def read_backend_file(path: str, tls: Tls | None = None) -> Backend:
    """
    Return the backend whose URL is in the file *path*, which is read again for each new connection.

    White space around the URL is ignored. With *tls*, the URL is held to it, and the file `ca.crt` beside it, if there is
    one, has the authorities to trust. Without it, the URL alone decides. Raises ConfigurationError, whose message repeats
    nothing of the file.
    """
    return _File(Path(path), tls).first()


class _File:
    """A file with a URL, and the last valid backend that was read from it."""

    def __init__(self, path: Path, tls: Tls | None) -> None:
        self._path = path
        self._tls = tls
        self._latest: Backend | None = None
        self._problem = ""

    def first(self) -> Backend:
        return self._accept(self._read())

    def reread(self) -> Backend:
        """Return the backend in the file, or the last valid one: the file may be being replaced at this moment."""
        assert self._latest is not None
        try:
            backend = self._read()
            _check_place(backend, self._latest)
        except ConfigurationError as error:
            self._warn(str(error))
            return self._latest
        self._problem = ""
        if backend == self._latest:
            return self._latest
        logger.info("read new credentials from the file of the backend", extra={"file": str(self._path)})
        return self._accept(backend)

    def _accept(self, backend: Backend) -> Backend:
        backend.reread = self.reread
        self._latest = backend
        return backend

    def _warn(self, problem: str) -> None:
        """Log *problem* once: a store that cannot connect rereads the file again and again."""
        if problem != self._problem:
            logger.warning(
                "could not use the file of the backend; using the URL that it had before",
                extra={"file": str(self._path), "error": problem},
            )
        self._problem = problem

    def _read(self) -> Backend:
        try:
            with self._path.open("rb") as file:
                content = file.read(BYTES_MAX + 1)
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read: {error.strerror}") from None
        try:
            backend = read_backend(_url_in(content))
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path} does not contain the URL of a backend: {error}") from None
        if self._tls is None:
            return backend
        authorities = self._path.with_name(CA_FILE)
        try:
            return backend.with_tls(self._tls, str(authorities) if authorities.exists() else "")
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._path}: {error}") from None


def _url_in(content: bytes) -> str:
    """Return the URL that is all of *content*. Raises ConfigurationError."""
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise ConfigurationError("not valid UTF-8") from None
    if not text:
        raise ConfigurationError("it is empty")
    if len(content) > BYTES_MAX or len(text.splitlines()) > 1:
        raise ConfigurationError("it must contain the URL and nothing else")
    # Text without a known scheme may be a password, so the message does not repeat it.
    scheme, separator, _ = text.partition("://")
    if not separator or not is_scheme(scheme):
        raise ConfigurationError(f"write {EXAMPLES}")
    return text


def _check_place(backend: Backend, latest: Backend) -> None:
    """Raise ConfigurationError if *backend* is another place: a worker cannot split its records between two places."""
    if type(backend) is not type(latest) or str(backend) != str(latest):
        raise ConfigurationError(f"it names another place than {latest}: restart to use it")
