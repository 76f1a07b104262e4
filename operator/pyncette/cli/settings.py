"""The settings of the commands, from options and the environment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyncette.core.record import check_realm
from pyncette.core.suggestions import nearest
from pyncette.errors import ConfigurationError
from pyncette.store.backend import EXAMPLES, Backend, read_backend
from pyncette.store.backend_file import read_backend_file
from pyncette.store.base import PARTITION_BYTES_MAX
from pyncette.store.tls import Tls
from pyncette.telemetry.logs import FORMATS, LEVELS

PREFIX: Final = "PYNCETTE_"

OF_THE_TESTS: Final = "PYNCETTE_TEST_"
"""Prefix of the variables of this project's tests."""

OPERATOR_CONFIG: Final = "PYNCETTE_OPERATOR_CONFIG"
"""Variable with the path of the operator's settings."""

OPERATOR_FILE: Final = Path("/etc/pyncette/operator.yaml")
"""The default of that path."""

CONCURRENCY_MAX: Final = 100_000
"""A larger number is a mistake: a process cannot run that many handlers at the same time."""

DRAIN_SECONDS: Final = 30.0
SECONDS_MAX: Final = 86_400.0

STALL_SECONDS_MIN: Final = 5.0
"""The event loop reports every second, or later on a busy machine."""

STALL_SECONDS: Final = 300.0
"""A handler may block the event loop for a while, though it should not. A longer stall is taken for permanent."""


class Address(NamedTuple):
    """The address of a server."""

    host: str | None
    """None: all addresses."""
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the commands."""

    backend: Backend | None = None
    """None: not configured."""
    realm: str | None = None
    """None: the task module's, which is empty by default."""
    concurrency: int | None = None
    """Handlers that run at the same time; None: the number in the task module, which is 100 by default."""
    drain_seconds: float = DRAIN_SECONDS
    health: Address | None = None
    """None: health is not served."""
    metrics: Address | None = None
    """None: metrics are not served."""
    stall_seconds: float = STALL_SECONDS
    """A worker is not live after its event loop has stalled for longer; 0: no limit."""
    log_format: str = "text"
    log_level: str = "INFO"
    warnings: tuple[str, ...] = ()
    """Unknown variables in the environment that begin with PYNCETTE_."""


class Setting(NamedTuple):
    """One setting; *read* parses the text of its option or variable, or raises ConfigurationError."""

    name: str
    """The field of `Settings`; the option is `--name-with-dashes`."""
    variable: str
    read: Callable[[str], Any]
    meaning: str
    shown: str
    """The placeholder of the value in help texts."""

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def read_settings(environment: Mapping[str, str], options: Mapping[str, str | None]) -> Settings:
    """
    Return the settings of *options* (by name; None: not passed), and of *environment* for the others.

    Raises one ConfigurationError for all invalid settings.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    environment, options = _one_backend(environment, options, faults)
    for setting in sorted(SETTINGS, key=lambda setting: setting is not BACKEND_TLS):
        option = options.get(setting.name)
        text = environment.get(setting.variable) if option is None else option
        if text is None or (option is None and not text.strip()):
            continue  # an empty variable counts as not set
        try:
            values[setting.name] = _reader(setting, values.get(BACKEND_TLS.name), environment)(text)
        except ConfigurationError as error:
            faults.append(f"{setting.variable if option is None else setting.option}: {error}")
    if faults:
        raise ConfigurationError("; ".join(faults))
    values.pop(BACKEND_TLS.name, None)
    if BACKEND_FILE.name in values:
        values[BACKEND.name] = values.pop(BACKEND_FILE.name)
    return Settings(**values, warnings=tuple(_unknown(environment)))


def _one_backend(
    environment: Mapping[str, str], options: Mapping[str, str | None], faults: list[str]
) -> tuple[Mapping[str, str], Mapping[str, str | None]]:
    """Drop the variables of the backend if an option configures it. Add to *faults* if it is configured twice."""
    both = (BACKEND, BACKEND_FILE)
    given = [setting.option for setting in both if options.get(setting.name) is not None]
    inherited = [setting.variable for setting in both if environment.get(setting.variable, "").strip()]
    sources = given or inherited
    if len(sources) > 1:
        faults.append(f"{' and '.join(sources)} are mutually exclusive: set one of them")
    if len(sources) > 1 or given:
        variables = {setting.variable for setting in both}
        environment = {name: text for name, text in environment.items() if name not in variables}
    if len(given) > 1:
        options = {name: text for name, text in options.items() if name not in {s.name for s in both}}
    return environment, options


def _reader(setting: Setting, tls: Tls | None, environment: Mapping[str, str]) -> Callable[[str], Any]:
    """Return what parses the text of *setting*. A backend is held to *tls*, if that is configured."""
    if tls is not None and setting is BACKEND:
        return lambda text: read_backend(text).with_tls(tls)
    if setting is BACKEND_FILE:
        return lambda text: read_backend_file(text, tls or _tls_of_operator(text, environment))
    return setting.read


def _tls_of_operator(file: str, environment: Mapping[str, str]) -> Tls | None:
    """
    Return the TLS that the operator's settings demand of the backend whose URL is in *file*.

    None: there are no such settings, or they do not name *file*. Raises ConfigurationError if they cannot be read, or if
    a file that the environment names does not exist.
    """
    named = environment.get(OPERATOR_CONFIG)
    if not named and not OPERATOR_FILE.exists():
        return None
    config = Path(named or OPERATOR_FILE)
    from pyncette.controller.settings import load_settings  # noqa: PLC0415 - no command but those in its pod waits for it

    return load_settings(config, environment).tls_of(Path(file))


def _unknown(environment: Mapping[str, str]) -> list[str]:
    variables = [*(setting.variable for setting in SETTINGS), OPERATOR_CONFIG]
    known = {variable.removeprefix(PREFIX): variable for variable in variables}
    warnings = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name.startswith(OF_THE_TESTS) or name in known.values():
            continue
        close = nearest(name.removeprefix(PREFIX), known, similarity=0.5)
        hint = f"did you mean {known[close]}?" if close else f"valid settings: {', '.join(known.values())}"
        warnings.append(f"{name} is not a setting and has no effect; {hint}")
    return warnings


# --- Reading ---------------------------------------------------------------------------------------------------------


def _realm(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    if size < 0 or "\0" in text or size > PARTITION_BYTES_MAX // 2:
        raise ConfigurationError(f"must be at most {PARTITION_BYTES_MAX // 2} bytes of text, without NUL")
    try:
        check_realm(text)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return text


def _concurrency(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= CONCURRENCY_MAX:
        raise ConfigurationError(f"must be a whole number from 1 to {CONCURRENCY_MAX}, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= SECONDS_MAX:
        raise ConfigurationError(f"must be a number of seconds from 0 to {SECONDS_MAX:g}, not {text!r}")
    return seconds


def _stall_seconds(text: str) -> float:
    seconds = _seconds(text)
    if 0 < seconds < STALL_SECONDS_MIN:
        raise ConfigurationError(f"must be 0, or at least {STALL_SECONDS_MIN:g} seconds, not {text!r}")
    return seconds


def _address(text: str) -> Address:
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ConfigurationError(f"must be a port or HOST:PORT, such as 8080 or 127.0.0.1:8080, not {text!r}")
    return Address(host.removeprefix("[").removesuffix("]") or None, int(port))


def _one_of(names: tuple[str, ...], change: Callable[[str], str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if change(text.strip()) not in names:
            raise ConfigurationError(f"must be one of {', '.join(names)}, not {text!r}")
        return change(text.strip())

    return read


def _tls(text: str) -> Tls:
    return Tls(_one_of(tuple(level.value for level in Tls), str.capitalize)(text))


BACKEND: Final = Setting(
    "backend", "PYNCETTE_BACKEND", read_backend, f"The backend that stores records: {EXAMPLES}.", "URL"
)
BACKEND_FILE: Final = Setting(
    "backend_file",
    "PYNCETTE_BACKEND_FILE",
    read_backend_file,
    "A file with the URL of the backend. Each new connection reads it again, so the password may change.",
    "FILE",
)
BACKEND_TLS: Final = Setting(
    "backend_tls",
    "PYNCETTE_BACKEND_TLS",
    _tls,
    "required: verify certificate and host name of the backend, and trust ca.crt beside the file of the backend, if it is there. "
    "preferred: encrypt if the server can. disabled: do not. By default the operator's settings decide, if they name the file, "
    "or else the URL. The URL may always ask for more.",
    "LEVEL",
)

SETTINGS: Final = (
    BACKEND,
    BACKEND_FILE,
    BACKEND_TLS,
    Setting(
        "realm",
        "PYNCETTE_REALM",
        _realm,
        "The realm: separates applications that share a database. By default that of the task module, which is empty.",
        "NAME",
    ),
    Setting(
        "concurrency",
        "PYNCETTE_CONCURRENCY",
        _concurrency,
        "The number of handlers that can run at the same time. By default that of the task module, which is 100.",
        "N",
    ),
    Setting(
        "drain_seconds",
        "PYNCETTE_DRAIN_SECONDS",
        _seconds,
        "Time for running handlers to finish after SIGTERM. The rest are cancelled and become due again. By default 30.",
        "SECONDS",
    ),
    Setting(
        "health",
        "PYNCETTE_HEALTH",
        _address,
        "The address for /healthz and /readyz. By default they are not served.",
        "[HOST:]PORT",
    ),
    Setting(
        "metrics",
        "PYNCETTE_METRICS",
        _address,
        "The address for /metrics, for Prometheus. By default it is not served.",
        "[HOST:]PORT",
    ),
    Setting(
        "stall_seconds",
        "PYNCETTE_STALL_SECONDS",
        _stall_seconds,
        "Fail /healthz when the event loop has been blocked for longer; 0: never. By default 300.",
        "SECONDS",
    ),
    Setting(
        "log_format",
        "PYNCETTE_LOG_FORMAT",
        _one_of(tuple(FORMATS), str.lower),
        "text, or json for one JSON object per line. By default text.",
        "FORMAT",
    ),
    Setting(
        "log_level",
        "LOG_LEVEL",
        _one_of(LEVELS, str.upper),
        "DEBUG, INFO, WARNING, ERROR or CRITICAL. By default INFO.",
        "LEVEL",
    ),
)
