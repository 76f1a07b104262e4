"""Reads URLs of Redis or Valkey, of a server by itself, behind Sentinel, or of a cluster; without the driver, and without a look at the network."""

from __future__ import annotations

import math
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from pyncette.core.suggestions import did_you_mean
from pyncette.errors import ConfigurationError

TIMEOUT_SECONDS: Final = 10.0
"""A server that has not answered by then is down, or so busy that it makes no difference."""

PORT: Final = 6379
SENTINEL_PORT: Final = 26379

URL_FORM: Final = "redis://USER:PASSWORD@HOST:PORT/DATABASE"
SENTINEL_FORM: Final = "redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE"

OPTIONS: Final = frozenset({
    "db", "namespace", "timeout",
    "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
    "sentinel_username", "sentinel_password",
})  # fmt: skip
"""What may stand behind the question mark."""


class Kind(Enum):
    """How a server is found."""

    SERVER = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_KIND_TOLD: Final = {Kind.SERVER: "", Kind.SENTINEL: " by Sentinel", Kind.CLUSTER: " Cluster"}

_PRODUCTS: Final = {
    "redis": ("Redis", False),
    "rediss": ("Redis", True),
    "valkey": ("Valkey", False),
    "valkeys": ("Valkey", True),
}
"""What the first word of a scheme says: whose server, and whether by TLS. One takes what the other is called for, too."""

SCHEMES: Final = frozenset(
    f"{product}+{kind.value}" if kind.value else product for product in _PRODUCTS for kind in Kind
)


class Address(NamedTuple):
    """What a URL says."""

    product: str
    """What the URL calls the server, which may be the other one."""
    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    database: int
    service: str
    """What Sentinel calls the servers; empty without it."""
    namespace: str
    timeout_seconds: float
    tls_options: dict[str, str]
    sentinel_username: str | None
    sentinel_password: str | None

    def __str__(self) -> str:
        """Return what may be said of it: no user, no password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        rest = f"/{self.service or self.database}" if self.service or self.database else ""
        return f"{self.product}{_KIND_TOLD[self.kind]} at {hosts}{rest}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def read_url(url: str) -> Address:
    """Return what *url* says. Raises ConfigurationError, whose message repeats nothing that may be a password."""
    scheme, _, rest = url.strip().partition("://")
    if scheme.lower() not in SCHEMES:
        raise ConfigurationError(f"redis_url cannot be used; write {URL_FORM}")
    name, _, way = scheme.lower().partition("+")
    (product, tls), kind = _PRODUCTS[name], Kind(way)
    location, _, query = rest.partition("?")
    authority, _, path = location.partition("/")
    user_info, _, hosts = authority.rpartition("@")
    username, separator, password = user_info.partition(":")
    options = _options(query)
    sentinel = kind is Kind.SENTINEL
    service, _, database = unquote(path).partition("/") if sentinel else ("", "", unquote(path))
    if sentinel and not service:
        raise ConfigurationError(
            f"redis_url does not say which servers Sentinel is to find; write {SENTINEL_FORM}"
        )
    return Address(
        product,
        kind,
        tls,
        _hosts(hosts, SENTINEL_PORT if sentinel else PORT, one=kind is Kind.SERVER),
        unquote(username) or None,
        unquote(password) if separator else None,
        _database(database or options.pop("db", ""), kind),
        service,
        options.pop("namespace", ""),
        _timeout(options.pop("timeout", None)),
        {name: value for name, value in options.items() if name.startswith("ssl_")},
        options.get("sentinel_username"),
        options.get("sentinel_password"),
    )


def check_timeout(seconds: float) -> float:
    """Return *seconds*. Raises ConfigurationError unless one can wait for so long."""
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"the timeout of Redis must be a number of seconds above 0, not {seconds}")
    return seconds


def _options(query: str) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ConfigurationError("what stands behind the question mark in redis_url cannot be read") from None
    for name in options:
        if name not in OPTIONS:
            mend = did_you_mean(name, OPTIONS, f"known are {', '.join(sorted(OPTIONS))}")
            raise ConfigurationError(f"redis_url has an option that nobody knows; {mend}")
    return options


def _hosts(text: str, port: int, *, one: bool) -> tuple[tuple[str, int], ...]:
    hosts = tuple(_host(part, port) for part in text.split(","))
    if one and len(hosts) > 1:
        raise ConfigurationError(
            "redis_url names several hosts, which only redis+sentinel:// and redis+cluster:// can make use of"
        )
    return hosts


def _host(text: str, port: int) -> tuple[str, int]:
    host, bracket, rest = text.removeprefix("[").partition("]") if text.startswith("[") else ("", "", "")
    if not bracket:
        host, colon, rest = text.partition(":")
        rest = colon + rest
    number = rest.removeprefix(":") or str(port)
    if (rest and not rest.startswith(":")) or not number.isdecimal() or not 0 < int(number) < 2**16:
        raise ConfigurationError(
            "its host or port cannot be read; what is special in a user or password has to be percent-encoded"
        )
    return unquote(host) or "localhost", int(number)


def _database(text: str, kind: Kind) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise ConfigurationError(f"redis_url names its database by a number; write {URL_FORM}")
    if kind is Kind.CLUSTER and int(text):
        raise ConfigurationError(
            "a Redis Cluster has one database, 0; use ?namespace=NAME: to keep things apart"
        )
    return int(text)


def _timeout(text: str | None) -> float:
    if text is None:
        return TIMEOUT_SECONDS
    try:
        return check_timeout(float(text))
    except ValueError:
        raise ConfigurationError("timeout in redis_url must be a number of seconds above 0") from None
