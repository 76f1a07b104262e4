"""Says where a MySQL or MariaDB server is and how it is spoken to, as a URL or settings name it."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pyncette.errors import ConfigurationError

PORT: Final = 3306

URL_FORM: Final = "mysql://USER:PASSWORD@HOST:PORT/DATABASE"

SSL_MODES: Final = ("disabled", "required", "verify-ca", "verify-identity")
"""As the `--ssl-mode` of MySQL's own programs, but for `preferred`, which gives in to whoever stands in between."""

OPTIONS: Final = ("socket", "ssl-mode", "ssl-ca")


class Address(NamedTuple):
    """A database of a server. Printed, it shows no password."""

    host: str
    user: str
    password: str
    database: str
    port: int = PORT
    socket: str = ""
    """The path of a local socket, which then stands in the place of host and port."""
    ssl_mode: str = "disabled"
    ssl_ca: str = ""
    """A file with the certificates to trust; empty: those that the system trusts."""

    def __str__(self) -> str:
        return f"MySQL at {self.socket or f'{self.host}:{self.port}'}/{self.database}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def read_address(url: str) -> Address:
    """Return what *url* names. Raises ConfigurationError, whose message repeats nothing that may be a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(
            "its host or port cannot be read; what is special in a user or password has to be percent-encoded"
        ) from None
    database = unquote(parts.path[1:])
    if parts.fragment or not re.fullmatch(r"[^/]+", database) or (parts.netloc.count("@") > 1):
        raise ConfigurationError(
            f"write {URL_FORM}; what is special in a user or password has to be percent-encoded"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise ConfigurationError(f"it has an option that is none of {', '.join(OPTIONS)}")
    mode = options.get("ssl-mode", "disabled").lower().replace("_", "-")
    if mode not in SSL_MODES:
        raise ConfigurationError(f"its ssl-mode must be one of {', '.join(SSL_MODES)}")
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
