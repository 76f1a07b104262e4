"""Reads and checks the options of a task."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from pyncette.app.behaviour import Behaviour
from pyncette.app.defaults import Defaults
from pyncette.app.handlers import Handler
from pyncette.app.keywords import refusal, warn_of_loose
from pyncette.app.modes import A_MICROSECOND, as_timedelta
from pyncette.app.policy_options import OLD_POLICIES, POLICIES, check_window, pop_policies, updated
from pyncette.app.retries import ALL_ERRORS, RetriedErrors, errors_of
from pyncette.app.signatures import Arguments, arguments_by_signature
from pyncette.core.schedule import Cron, Interval, Once, Schedule, check, seeded, seeded_cron
from pyncette.core.schedule_hints import check_cron
from pyncette.core.spec import CONCURRENT_RUNS_MAX, EMPTY_ARGS
from pyncette.core.times import instant_of
from pyncette.store.base import ARGS_BYTES_MAX

PartitionSelector: TypeAlias = Callable[[int, str], int]
"""Returns the partition of an instance, from 0, for the number of partitions and the name. It must be deterministic."""

TASK_NAME_BYTES_MAX: Final = 250
INSTANCE_NAME_BYTES_MAX: Final = 650
"""Both together leave room in a key (`KEY_BYTES_MAX`) for the occurrence of a side run."""

CRONS_MAX: Final = 8192
"""The size of the cache of checked schedules. Checking one again takes some microseconds."""

ALSO_ARGUMENTS: Final = ("heartbeat", "concurrency_limit", "max_concurrent_runs")
"""Options that Pyncette 1.x did not have: it passed them as arguments, so handlers still receive them as arguments too."""

ONE_SCHEDULE: Final = "Exactly one of the following must be specified: schedule, interval, execute_at"

OF_THE_TASK_ALONE: Final = frozenset({"name", "enabled", "concurrency_limit", "max_concurrent_runs", "force"})
"""Options that an instance cannot have. They are refused, so that they are not taken for arguments."""

_T = TypeVar("_T")


class Options(NamedTuple):
    """All options of a task, read and checked."""

    defaults: Defaults
    """Those of its app, by which the options of its instances are read, too."""
    enabled: bool
    concurrency_limit: int | None
    max_concurrent_runs: int | None
    behaviour: Behaviour
    schedule: Schedule | None
    args: msgspec.Raw
    arguments: Arguments | None
    """The arguments that the handler takes by its signature; None if it takes the context alone."""
    errors: RetriedErrors
    """The exceptions that are retried. They are not stored."""


def read_options(given: Mapping[str, Any], defaults: Defaults, handler: Handler) -> Options:
    """Read the options of a decorator of *handler*. Its name is read by the caller. Raises ValueError."""
    options = dict(given)
    options.pop("name", None)
    shown = shown_as_arguments(options, defaults)
    enabled = options.pop("enabled", True)
    limit = options.pop("concurrency_limit", None)
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"concurrency_limit must be an integer of at least 1, not {limit!r}")
    most = options.pop("max_concurrent_runs", None)
    if most is not None and (not isinstance(most, int) or not 1 <= most <= CONCURRENT_RUNS_MAX):
        raise ValueError(
            f"max_concurrent_runs must be an integer from 1 to {CONCURRENT_RUNS_MAX}, not {most!r}"
        )
    given = pop_policies(options, policy_options(defaults))
    behaviour = updated(defaults.behaviour, given)
    schedule = pop_schedule(options)
    check_window(behaviour, schedule)
    arguments = arguments_by_signature(handler, all_parameters=not defaults.loose_keywords)
    args = encode_args(as_stored(pop_args(options, defaults) | shown, arguments))
    errors = errors_of(given["retry"]) if "retry" in given else ALL_ERRORS
    return Options(defaults, bool(enabled), limit, most, behaviour, schedule, args, arguments, errors)


def policy_options(defaults: Defaults) -> frozenset[str]:
    """Return the options for policies in an app with these *defaults*; all others are arguments, or unknown."""
    return OLD_POLICIES if defaults.loose_keywords else POLICIES


def as_stored(args: dict[str, Any], arguments: Arguments | None) -> dict[str, Any]:
    """Return *args* as JSON values, if the handler says by its signature what they are. Raises ValueError."""
    return args if arguments is None else arguments.stored(args)


def shown_as_arguments(options: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Return the *options* that are also arguments."""
    if not defaults.loose_keywords:
        return {}
    return {name: options[name] for name in ALSO_ARGUMENTS if name in options}


def pop_args(options: dict[str, Any], defaults: Defaults) -> dict[str, Any]:
    """
    Remove the arguments from *options*, from which all known options were removed before, and return them.

    Raises ValueError for an unknown option, unless the *defaults* take loose keywords for arguments.
    """
    if defaults.loose_keywords:
        warn_of_loose(options)
        return options
    args = options.pop("args", None)
    if options:
        raise refusal(options)
    if args is None:
        return {}
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise ValueError(f"args must be a dictionary of arguments by name, not {args!r}")
    return dict(args)


def pop_schedule(options: dict[str, Any]) -> Schedule | None:
    """Remove the schedule from *options* and return it, checked; None if there is none. Raises ValueError."""
    expression = options.pop("schedule", None)
    interval = options.pop("interval", None)
    execute_at = options.pop("execute_at", None)
    timezone = options.pop("timezone", None)
    if (expression is not None) + (interval is not None) + (execute_at is not None) > 1:
        raise ValueError(f"{ONE_SCHEDULE}; they are mutually exclusive")
    if expression is not None:
        _require("schedule", expression, str)
        return _cron(expression, "UTC" if timezone is None else _require("timezone", timezone, str))
    if timezone is not None:
        raise ValueError("Timezone may only be specified when cron schedule is used; add a schedule")
    if interval is not None:
        return _checked(Interval(_require("interval", interval, datetime.timedelta) // A_MICROSECOND))
    if execute_at is not None:
        return _checked(Once(instant_of(_require("execute_at", execute_at, datetime.datetime))))
    return None


def arguments_of(args: msgspec.Raw) -> dict[str, Any]:
    """Parse stored arguments."""
    arguments: dict[str, Any] = msgspec.json.decode(args)
    return arguments


def encode_args(args: Mapping[str, Any]) -> msgspec.Raw:
    """Return *args* in stored form. Raises ValueError if they are not JSON, or too large."""
    if not args:
        return EMPTY_ARGS
    try:
        text = _encode(args).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Extra parameters must be JSON serializable ({error}). Name the argument in the signature of the handler, as "
            "in `at: datetime`, to have it converted"
        ) from error
    if len(text) > ARGS_BYTES_MAX:
        raise ValueError(
            f"Extra parameters have {len(text):,} bytes as JSON; at most {ARGS_BYTES_MAX:,} are allowed: "
            "store large data elsewhere, and pass a reference to it"
        )
    return msgspec.Raw(text)


def check_task_name(name: Any) -> None:
    """Raise ValueError if *name* is not a valid name of a task."""
    _check_name("a task", name, TASK_NAME_BYTES_MAX)


def check_instance_name(name: Any) -> None:
    """Raise ValueError if *name* is not a valid name of an instance."""
    _check_name("an instance", name, INSTANCE_NAME_BYTES_MAX)


_encode: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def _check_name(of: str, name: Any, limit: int) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"The name of {of} must be a non-empty string, not {name!r}")
    if "\0" in name:
        raise ValueError(f"The name of {of} must not contain a NUL character: {name!r}")
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"The name of {of} cannot be written as UTF-8: {name!r}") from None
    if size > limit:
        raise ValueError(f"The name of {of} has {size:,} bytes; the limit is {limit}: {name[:40]!r}…")


def seeded_by(schedule: Schedule, key: str) -> Schedule:
    """Return *schedule* with *key* as the seed of its `H`, if it uses that. Raises ValueError if it then is never due."""
    with_seed = seeded(schedule, key)
    if with_seed is not schedule:
        check(with_seed)
    return with_seed


@lru_cache(maxsize=CRONS_MAX)
def _cron(expression: str, zone: str) -> Cron:
    cron = Cron(expression, zone)
    check_cron(seeded_cron(cron, "any"))  # `seeded_by` sets the seed, and checks it
    return cron


def _checked(schedule: Schedule) -> Schedule:
    check(schedule)
    return schedule


def _require(option: str, value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"{option} must be a {kind.__name__}, not {value!r}{_hint(value, kind)}")  # noqa: TRY004 - what is refused at declaration is a ValueError
    return value


def _hint(value: Any, kind: type[Any]) -> str:
    """Return what to write instead of *value*, if that is known."""
    if kind is datetime.timedelta:
        return as_timedelta(value)
    if isinstance(value, ZoneInfo) and value.key:
        return f": write {value.key!r}"
    return ""
