"""The address of a MySQL or MariaDB database, from a URL or from settings."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import check_fragment

PORT: Final = 3306

URL_FORM: Final = "mysql://USER:PASSWORD@HOST:PORT/DATABASE"

VERIFIED: Final = "verify-identity"
"""The mode that verifies the chain of the certificate and the host name."""

SSL_MODES: Final = ("disabled", "preferred", "required", "verify-ca", VERIFIED)
"""The values of `--ssl-mode` of MySQL's own programs."""

OPTIONS: Final = ("socket", "ssl-mode", "ssl-ca")


class Address(NamedTuple):
    """A database of a server. Its text shows no password."""

    host: str
    user: str
    password: str
    database: str
    port: int = PORT
    socket: str = ""
    """The path of a local socket, which replaces host and port."""
    ssl_mode: str = "disabled"
    ssl_ca: str = ""
    """A file with the certificates to trust; empty for those of the system."""

    @property
    def knows_server(self) -> bool:
        """True if no other server can take the place of this one: it is on this machine, or proves its host name."""
        return bool(self.socket) or self.ssl_mode == VERIFIED

    def __str__(self) -> str:
        return f"MySQL at {self.socket or f'{self.host}:{self.port}'}/{self.database}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def read_address(url: str) -> Address:
    """Return the address in *url*. Raises ConfigurationError, whose message repeats nothing of a password."""
    check_fragment(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            "invalid host or port; percent-encode special characters in the user and the password"
        ) from None
    database = unquote(parts.path[1:])
    if not re.fullmatch(r"[^/]+", database) or parts.netloc.count("@") > 1:
        raise ConfigurationError(
            f"write {URL_FORM}; percent-encode special characters in the user and the password"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise ConfigurationError(f"unknown parameter; known are {', '.join(OPTIONS)}")
    mode = options.get("ssl-mode", "disabled").lower().replace("_", "-")
    if mode not in SSL_MODES:
        raise ConfigurationError(f"ssl-mode must be one of {', '.join(SSL_MODES)}")
    return Address(
        host=parts.hostname or "localhost",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=database,
        port=PORT if port is None else port,
        socket=options.get("socket", ""),
        ssl_mode=mode,
        ssl_ca=options.get("ssl-ca", ""),
    )
