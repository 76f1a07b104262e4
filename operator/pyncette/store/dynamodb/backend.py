"""Reads URLs of DynamoDB: dynamodb://region/table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from pyncette.errors import ConfigurationError
from pyncette.store.backend import Backend, check_fragment, needing
from pyncette.store.base import Store
from pyncette.store.dynamodb.limits import LIMITS, Limits
from pyncette.store.dynamodb.schema import SHARDS, Table, check_table
from pyncette.store.tls import Tls, tls_refusal, with_parameters

FORM: Final = "dynamodb://REGION/TABLE, such as dynamodb://eu-west-1/pyncette"


class DynamoBackend(Backend):
    """
    A table in a region. Credentials come from the usual sources of AWS programs, never from the URL.

    With *tls_required*, an endpoint that the environment names must have TLS, too.
    """

    def __init__(self, url: str, *, tls_required: bool = False) -> None:
        super().__init__(url)
        check_fragment(url)
        try:
            parts = urlsplit(url)
            region = parts.hostname
            is_plain = not (parts.username or parts.password or parts.port)
        except ValueError:
            raise ConfigurationError(f"not a valid URL; write {FORM}") from None
        if not is_plain:
            raise ConfigurationError(
                f"credentials and ports are not allowed; write {FORM}. Credentials come from the environment,"
                " a profile or a role, as for all AWS programs"
            )
        self._region = region
        self._table = parts.path.strip("/")
        if not self._table or "/" in self._table:
            raise ConfigurationError(f"the name of a table is missing; write {FORM}")
        self._options = _options(parts.query)
        self._tls_required = tls_required
        try:
            check_table(
                Table(self._table, self._options.get("prefix", ""), self._options.get("shards", SHARDS))
            )
        except ValueError as error:
            raise ConfigurationError(str(error)) from None

    def with_tls(self, tls: Tls, ca_file: str = "") -> Self:
        if tls is not Tls.REQUIRED:
            return self  # the scheme of the endpoint leaves nothing open
        endpoint = self._options.get("endpoint", "")
        if urlsplit(endpoint).scheme == "http":
            raise tls_refusal("the endpoint in the URL begins with http://", "write https://")
        own = not ca_file or "ca" in self._options
        return type(self)(
            self.url if own else with_parameters(self.url, {"ca": ca_file}),
            tls_required=True,
        )

    def new_store(self, *, create: bool = True, limits: Limits = LIMITS) -> Store:
        with needing("aioboto3", "DynamoDB", "dynamodb"):
            from pyncette.store.dynamodb.store import DynamoStore  # noqa: PLC0415 - the driver is an extra

        return DynamoStore(
            self._region,
            self._table,
            create=create,
            limits=limits,
            tls_required=self._tls_required,
            **self._options,
        )

    def __str__(self) -> str:
        endpoint = self._options.get("endpoint")
        where = f" at {urlsplit(endpoint).netloc.rpartition('@')[2]}" if endpoint else ""
        return f"the DynamoDB table {self._table} in {self._region or 'the region of the environment'}{where}"


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, values in parse_qs(query, keep_blank_values=True).items():
        if name not in _READ:
            # The message does not repeat the name, which may be a part of a password in endpoint that contains &.
            raise ConfigurationError(f"unknown parameter; known are {', '.join(_READ)}")
        option, read = _READ[name]
        options[option] = read(values[-1])
    return options


def _endpoint(text: str) -> str:
    if urlsplit(text).scheme not in {"http", "https"}:
        raise ConfigurationError("endpoint must be a URL such as http://localhost:8000")
    return text


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError("shards must be a number")
    return int(text)


def _switch(text: str) -> bool:
    if text not in {"on", "off"}:
        raise ConfigurationError("batches must be on or off")
    return text == "on"


_READ: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "endpoint": ("endpoint", _endpoint),
    "ca": ("ca", str),
    "prefix": ("prefix", str),
    "shards": ("shards", _number),
    "batches": ("batches", _switch),
}
