"""All settings of the commands: read from options and the environment, checked as a whole, and never changed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pyncette.core.record import check_realm
from pyncette.core.suggestions import nearest
from pyncette.errors import ConfigurationError
from pyncette.store.backend import EXAMPLES, Backend, read_backend
from pyncette.store.backend_file import read_backend_file
from pyncette.store.base import PARTITION_BYTES_MAX
from pyncette.telemetry.logs import FORMATS, LEVELS

PREFIX: Final = "PYNCETTE_"

OF_THE_TESTS: Final = "PYNCETTE_TEST_"
"""Variables that the tests of this project read."""

OPERATOR_CONFIG: Final = "PYNCETTE_OPERATOR_CONFIG"
"""The variable that names the file of the operator's settings."""

CONCURRENCY_MAX: Final = 100_000
"""A process has no use for more handlers at once, and a number above is a mistake."""

DRAIN_SECONDS: Final = 30.0
SECONDS_MAX: Final = 86_400.0

STALL_SECONDS_MIN: Final = 5.0
"""Each loop says each second that it turns, if the machine lets it."""

STALL_SECONDS: Final = 300.0
"""A handler may block its loop for a while, which it should not; what stands still for longer does not come back."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str | None
    """None: on all addresses."""
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What the commands are set to."""

    backend: Backend | None = None
    """None: it was not said."""
    realm: str | None = None
    """None: the task module's, which is empty by default."""
    concurrency: int | None = None
    """Handlers at once; None: as many as the task module says, 100 if it says nothing."""
    drain_seconds: float = DRAIN_SECONDS
    health: Address | None = None
    """None: health is not served."""
    metrics: Address | None = None
    """None: metrics are not served."""
    stall_seconds: float = STALL_SECONDS
    """A worker whose loop stands still for longer is no longer live; 0: it is, however long."""
    log_format: str = "text"
    log_level: str = "INFO"
    warnings: tuple[str, ...] = ()
    """What the environment holds that may be meant for us, and is not known."""


class Setting(NamedTuple):
    """How one setting is read: the text of its option or variable becomes a value, or ConfigurationError says why not."""

    name: str
    """Of the field of `Settings`; the option is `--name-with-dashes`."""
    variable: str
    read: Callable[[str], Any]
    meaning: str
    shown: str
    """What stands for the value in help texts."""

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def read_settings(environment: Mapping[str, str], options: Mapping[str, str | None]) -> Settings:
    """
    Return the settings that *options* (by name; None: not given) and then *environment* say.

    Raises ConfigurationError that tells of everything that is wrong, not only of the first.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    environment, options = _one_backend(environment, options, faults)
    for setting in SETTINGS:
        option = options.get(setting.name)
        text = environment.get(setting.variable) if option is None else option
        if text is None or (option is None and not text.strip()):
            continue  # an empty variable is one that was not set, as in most deployments
        try:
            values[setting.name] = setting.read(text)
        except ConfigurationError as error:
            faults.append(f"{setting.variable if option is None else setting.option}: {error}")
    if faults:
        raise ConfigurationError("; ".join(faults))
    if BACKEND_FILE.name in values:
        values[BACKEND.name] = values.pop(BACKEND_FILE.name)
    return Settings(**values, warnings=tuple(_unknown(environment)))


def _one_backend(
    environment: Mapping[str, str], options: Mapping[str, str | None], faults: list[str]
) -> tuple[Mapping[str, str], Mapping[str, str | None]]:
    """Leave out what is said of a backend where an option says it; two that count the same are one of the *faults*."""
    both = (BACKEND, BACKEND_FILE)
    given = [setting.option for setting in both if options.get(setting.name) is not None]
    told = [setting.variable for setting in both if environment.get(setting.variable, "").strip()]
    counting = given or told
    if len(counting) > 1:
        faults.append(f"{' and '.join(counting)} each say where records are kept: give one of them")
    if len(counting) > 1 or given:
        variables = {setting.variable for setting in both}
        environment = {name: text for name, text in environment.items() if name not in variables}
    if len(given) > 1:
        options = {name: text for name, text in options.items() if name not in {s.name for s in both}}
    return environment, options


def _unknown(environment: Mapping[str, str]) -> list[str]:
    variables = [*(setting.variable for setting in SETTINGS), OPERATOR_CONFIG]
    known = {variable.removeprefix(PREFIX): variable for variable in variables}
    warnings = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name.startswith(OF_THE_TESTS) or name in known.values():
            continue
        close = nearest(name.removeprefix(PREFIX), known, similarity=0.5)
        mend = f"did you mean {known[close]}?" if close else f"known are {', '.join(known.values())}"
        warnings.append(f"{name} is not a setting, and has no effect; {mend}")
    return warnings


# --- Reading ---------------------------------------------------------------------------------------------------------


def _realm(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    if size < 0 or "\0" in text or size > PARTITION_BYTES_MAX // 2:
        raise ConfigurationError(f"a realm is any text of up to {PARTITION_BYTES_MAX // 2} bytes")
    try:
        check_realm(text)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return text


def _concurrency(text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= CONCURRENCY_MAX:
        raise ConfigurationError(f"it must be a whole number from 1 to {CONCURRENCY_MAX}, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= SECONDS_MAX:
        raise ConfigurationError(f"it must be a number of seconds from 0 to {SECONDS_MAX:g}, not {text!r}")
    return seconds


def _stall_seconds(text: str) -> float:
    seconds = _seconds(text)
    if 0 < seconds < STALL_SECONDS_MIN:
        raise ConfigurationError(f"it must be 0, or at least {STALL_SECONDS_MIN:g} seconds, not {text!r}")
    return seconds


def _address(text: str) -> Address:
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise ConfigurationError(
            f"it must be a port or HOST:PORT, such as 8080 or 127.0.0.1:8080, not {text!r}"
        )
    return Address(host.removeprefix("[").removesuffix("]") or None, int(port))


def _one_of(names: tuple[str, ...], change: Callable[[str], str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if change(text.strip()) not in names:
            raise ConfigurationError(f"it can be {', '.join(names)}, not {text!r}")
        return change(text.strip())

    return read


BACKEND: Final = Setting(
    "backend", "PYNCETTE_BACKEND", read_backend, f"Where records are kept: {EXAMPLES}.", "URL"
)
BACKEND_FILE: Final = Setting(
    "backend_file",
    "PYNCETTE_BACKEND_FILE",
    read_backend_file,
    "A file that holds the URL, instead; it is read again whenever a connection is made, so its password may change.",
    "FILE",
)

SETTINGS: Final = (
    BACKEND,
    BACKEND_FILE,
    Setting(
        "realm",
        "PYNCETTE_REALM",
        _realm,
        "Keeps apart those who share a database; by default the task module's, which is empty.",
        "NAME",
    ),
    Setting(
        "concurrency",
        "PYNCETTE_CONCURRENCY",
        _concurrency,
        "Handlers that run at once; by default as many as the task module says (100).",
        "N",
    ),
    Setting(
        "drain_seconds",
        "PYNCETTE_DRAIN_SECONDS",
        _seconds,
        "How long handlers may go on after SIGTERM; then they are cancelled, and due again. By default 30.",
        "SECONDS",
    ),
    Setting(
        "health",
        "PYNCETTE_HEALTH",
        _address,
        "Serve /healthz and /readyz there; by default nowhere.",
        "[HOST:]PORT",
    ),
    Setting(
        "metrics",
        "PYNCETTE_METRICS",
        _address,
        "Serve /metrics for Prometheus there; by default nowhere.",
        "[HOST:]PORT",
    ),
    Setting(
        "stall_seconds",
        "PYNCETTE_STALL_SECONDS",
        _stall_seconds,
        "Fail /healthz once the event loop has stood still for longer; 0: never. By default 300.",
        "SECONDS",
    ),
    Setting(
        "log_format",
        "PYNCETTE_LOG_FORMAT",
        _one_of(tuple(FORMATS), str.lower),
        "text, or json: an object a line.",
        "FORMAT",
    ),
    Setting(
        "log_level",
        "LOG_LEVEL",
        _one_of(LEVELS, str.upper),
        "DEBUG, INFO, WARNING, ERROR or CRITICAL.",
        "LEVEL",
    ),
)
