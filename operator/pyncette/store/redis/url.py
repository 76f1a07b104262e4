"""Reads URLs of Redis and Valkey: of a single server, of servers behind Sentinel, and of a cluster. Needs no driver."""

from __future__ import annotations

import math
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from pyncette.core.suggestions import did_you_mean
from pyncette.errors import ConfigurationError

TIMEOUT_SECONDS: Final = 10.0
"""A server that has not answered by then is down, or too busy to be of use."""

PORT: Final = 6379
SENTINEL_PORT: Final = 26379

URL_FORM: Final = "redis://USER:PASSWORD@HOST:PORT/DATABASE"
SENTINEL_FORM: Final = "redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE"

OPTIONS: Final = frozenset({
    "db", "namespace", "timeout",
    "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
    "sentinel_username", "sentinel_password",
})  # fmt: skip
"""The valid parameters of a URL."""


class Kind(Enum):
    """The way in which the server is found."""

    SERVER = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_KIND_TEXT: Final = {Kind.SERVER: "", Kind.SENTINEL: " by Sentinel", Kind.CLUSTER: " Cluster"}

_PRODUCTS: Final = {
    "redis": ("Redis", False),
    "rediss": ("Redis", True),
    "valkey": ("Valkey", False),
    "valkeys": ("Valkey", True),
}
"""The product and TLS, by the first word of the scheme. Both schemes work with both products."""

SCHEMES: Final = frozenset(
    f"{product}+{kind.value}" if kind.value else product for product in _PRODUCTS for kind in Kind
)


class Address(NamedTuple):
    """The server or servers, and the settings, of a URL."""

    product: str
    """The product that the scheme names, which may not be the one that runs."""
    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    database: int
    service: str
    """The name that Sentinel knows the servers by; empty without Sentinel."""
    namespace: str
    timeout_seconds: float
    tls_options: dict[str, str]
    sentinel_username: str | None
    sentinel_password: str | None

    def __str__(self) -> str:
        """Return the text for people, without the user and the password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        rest = f"/{self.service or self.database}" if self.service or self.database else ""
        return f"{self.product}{_KIND_TEXT[self.kind]} at {hosts}{rest}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def read_url(url: str) -> Address:
    """Return the address in *url*. Raises ConfigurationError, whose message repeats nothing of a password."""
    scheme, _, rest = url.strip().partition("://")
    if scheme.lower() not in SCHEMES:
        raise ConfigurationError(f"redis_url is not a valid URL; write {URL_FORM}")
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
        raise ConfigurationError(f"redis_url has no name of a service for Sentinel; write {SENTINEL_FORM}")
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
    """Return *seconds*. Raises ConfigurationError unless it is a valid timeout."""
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"the timeout of Redis must be a number of seconds above 0, not {seconds}")
    return seconds


def _options(query: str) -> dict[str, str]:
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ConfigurationError("the parameters of redis_url cannot be read") from None
    for name in options:
        if name not in OPTIONS:
            fix = did_you_mean(name, OPTIONS, f"known are {', '.join(sorted(OPTIONS))}")
            raise ConfigurationError(f"redis_url has an unknown parameter; {fix}")
    return options


def _hosts(text: str, port: int, *, one: bool) -> tuple[tuple[str, int], ...]:
    hosts = tuple(_host(part, port) for part in text.split(","))
    if one and len(hosts) > 1:
        raise ConfigurationError(
            "redis_url has several hosts, which only redis+sentinel:// and redis+cluster:// can use"
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
            "invalid host or port; percent-encode special characters in the user and the password"
        )
    return unquote(host) or "localhost", int(number)


def _database(text: str, kind: Kind) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise ConfigurationError(f"the database in redis_url must be a number; write {URL_FORM}")
    if kind is Kind.CLUSTER and int(text):
        raise ConfigurationError(
            "a Redis Cluster has the database 0 only; use ?namespace=NAME: to separate records"
        )
    return int(text)


def _timeout(text: str | None) -> float:
    if text is None:
        return TIMEOUT_SECONDS
    try:
        return check_timeout(float(text))
    except ValueError:
        raise ConfigurationError("timeout in redis_url must be a number of seconds above 0") from None
