"""How the connections of a backend are encrypted, as far as the settings of an installation say that, beside the URL."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, quote, unquote_plus

from pyncette.errors import ConfigurationError

CA_FILE: Final = "ca.crt"
"""The file with the authorities to trust, beside the file with the URL, and the key in the Secret of both."""


class Tls(Enum):
    """What the settings of a backend demand of its connections."""

    REQUIRED = "Required"
    """Verify the chain of the server's certificate, and its host name. A URL that asks for less is refused."""
    PREFERRED = "Preferred"
    """Follow the URL. Where it leaves that open, encrypt if the server can, and verify nothing."""
    DISABLED = "Disabled"
    """Follow the URL. Where it leaves that open, do not encrypt."""


def tls_refusal(problem: str, fix: str) -> ConfigurationError:
    """Return the error for a URL that asks for less than verified TLS where that is required."""
    return ConfigurationError(
        f"TLS is required, but {problem}: {fix}, or set tls of the backend to Preferred or Disabled"
    )


def parameters_of(url: str) -> dict[str, str]:
    """Return the parameters of *url*, decoded; of those that are given twice, the last, as drivers take them."""
    return dict(parse_qsl(url.partition("?")[2], keep_blank_values=True))


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """
    Return *url* with *parameters*, which replace those of the same names.

    A # is written %23. A driver that knows fragments would otherwise ignore all parameters after it.
    """
    rest, _, query = url.replace("#", "%23").partition("?")
    kept = [
        part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) not in parameters
    ]
    added = [f"{name}={quote(value, safe='/')}" for name, value in parameters.items()]
    return f"{rest}?{'&'.join([*kept, *added])}"
