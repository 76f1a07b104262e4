"""The certificate that a server of this process shows, read again when its files change."""

from __future__ import annotations

import logging
import ssl
import threading
from pathlib import Path
from typing import Final

from pyncette.errors import ConfigurationError

logger = logging.getLogger(__name__)

CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
"""Names of the files, which are the keys of a Secret of the type kubernetes.io/tls."""

Version = tuple[tuple[int, int], ...]


class ServerCertificate:
    """A certificate and its key in *folder*. To create it raises ConfigurationError if they cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._files = (folder / CERTIFICATE_FILE, folder / KEY_FILE)
        self._lock = threading.Lock()
        try:
            self._version = self._current_version()
            self._context = self._load()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the certificate in {folder} cannot be used: {error}; it needs {CERTIFICATE_FILE} and {KEY_FILE}"
            ) from error

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. A certificate that cannot be used leaves the one before in place."""
        with self._lock:
            try:
                version = self._current_version()
                if version != self._version:
                    self._version = version
                    self._context = self._load()
                    logger.info("the certificate of the server has changed")
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                logger.warning("could not reload the certificate", extra={"error": str(error)})
            return self._context

    def _current_version(self) -> Version:
        return tuple((status.st_ino, status.st_mtime_ns) for status in (file.stat() for file in self._files))

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*self._files)
        return context
