"""The URL of a PostgreSQL database: its parameters, and what is wrong with them. Needs no driver."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import check_fragment
from pyncette.store.tls import parameters_of

CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
"""Parameters of a URL with a fixed set of values."""

VERIFIED: Final = "verify-full"
"""The sslmode that verifies the chain of the certificate and the host name."""

SYSTEM: Final = "system"
"""The sslrootcert for the authorities of the system, as for PostgreSQL's own programs."""

OTHERS: Final = (
    *(
        "host",
        "port",
        "dbname",
        "database",
        "user",
        "password",
        "passfile",
        "service",
        "krbsrvname",
        "gsslib",
    ),
    *("sslcert", "sslkey", "sslrootcert", "sslnegotiation", "sslcrl", "sslpassword"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "application_name", "search_path", "options"),
)
"""Further known parameters. The server treats all others as settings, or refuses them."""


def check_url(url: str) -> None:
    """Raise ConfigurationError, whose message repeats nothing of a password, if *url* is invalid."""
    check_fragment(url)
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        ports = [host.port for host in hosts]
    except ValueError:
        raise ConfigurationError(
            "invalid host or port; percent-encode special characters in the user and the password"
        ) from None
    if parts.netloc.count("@") > 1:
        raise ConfigurationError("more than one @ before the host; write @ in a user or password as %40")
    if any(port is not None and not host.hostname for host, port in zip(hosts, ports, strict=True)):
        raise ConfigurationError("the host before the port is missing")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in CHOICES and value not in CHOICES[name]:
            raise ConfigurationError(f"{name} must be one of {', '.join(CHOICES[name])}")
    given = parameters_of(url)
    if given.get("sslrootcert") == SYSTEM and given.get("sslmode") != VERIFIED:
        raise ConfigurationError(f"sslrootcert={SYSTEM} needs sslmode={VERIFIED}")


def is_by_network(url: str) -> bool:
    """Return whether each host of *url* is reached by the network. Without a host, a local socket comes first."""
    hosts = unquote(urlsplit(url).netloc.rpartition("@")[2]) or parameters_of(url).get("host", "")
    return bool(hosts) and not any(host.startswith("/") or not host for host in hosts.split(","))
