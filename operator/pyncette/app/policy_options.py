"""Reads the options for the policies of a task or of an instance, and checks that they go together."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from pyncette.app.behaviour import EXHAUSTIONS, HEARTBEATS, MISSED, OVERLAPS, Behaviour, missed_of
from pyncette.app.modes import A_MICROSECOND, ExecutionMode, FailureMode, as_timedelta, datetime_of
from pyncette.app.retries import Retry, stored_retry
from pyncette.clock import LONGEST
from pyncette.core.schedule import Once, Schedule
from pyncette.core.suggestions import did_you_mean

OLD_POLICIES: Final = frozenset(
    {"fast_forward", "failure_mode", "execution_mode", "lease_duration", "heartbeat"}
)
"""The options for policies in an app with the defaults of 1.x, where all others are arguments."""

CATCH_UP_RUNS_MAX: Final = 10_000
HISTORY_MAX: Final = 1000
JITTER_MAX: Final = datetime.timedelta(days=1)
"""The bounds of a PyncetteTask."""

_Reader: TypeAlias = Callable[[str, Any], Any]
"""Returns the checked value of an option. Raises ValueError."""


def pop_policies(options: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """
    Remove the options for policies that are *known* from *options*, and return them, each checked by itself.

    Raises ValueError, also for two options for one policy.
    """
    if known.isdisjoint(options):  # perf: as for most of the instances, of which there may be millions
        return {}
    named = known & options.keys()
    given = {name: read(name, options.pop(name)) for name, read in _READERS.items() if name in named}
    for old, new in (("fast_forward", "missed"), ("failure_mode", "retry")):
        if old in given and new in given:
            raise ValueError(f"{old} and {new} are mutually exclusive: keep {new}")
    return given


def updated(behaviour: Behaviour, given: Mapping[str, Any]) -> Behaviour:
    """
    Return *behaviour* with the *given* options for policies, from `pop_policies`.

    Each replaces its own field alone, with two exceptions: `retry` and `failure_mode` replace each other, and so do `missed`
    and `fast_forward`, with `max_catch_up_runs`. Raises ValueError if the result contradicts itself.
    """
    if not given:
        return behaviour
    fields = dict(given)
    if "retry" in given:
        fields |= {"retry": stored_retry(given["retry"]), "failure_mode": FailureMode.NONE}
    if "failure_mode" in given:
        fields["retry"] = None
    if "missed" in given:
        fields = {"fast_forward": False, "max_catch_up_runs": None} | fields
    if "fast_forward" in given:
        fields = {"missed": None, "max_catch_up_runs": None} | fields
    after = behaviour._replace(**fields)
    if after.execution_mode is ExecutionMode.AT_MOST_ONCE:
        _check_at_most_once(after, given)
    if given.get("max_catch_up_runs") is not None and missed_of(after) != "all":
        raise ValueError('max_catch_up_runs is only applicable with missed="all": remove one of them')
    return after


def check_window(behaviour: Behaviour, schedule: Schedule | None) -> None:
    """Raise ValueError if the window of *behaviour* is empty, or leaves out the only time of *schedule*."""
    first, last = behaviour.not_before, behaviour.not_after
    if first is not None and last is not None and first >= last:
        raise ValueError(f"not_after must be later than not_before: {last} is not later than {first}")
    if isinstance(schedule, Once):
        at = datetime_of(schedule.at)
        if (first is not None and at < first) or (last is not None and at > last):
            raise ValueError(
                f"execute_at lies outside of not_before and not_after, so it would never run: {at}"
            )


def _check_at_most_once(behaviour: Behaviour, given: Mapping[str, Any]) -> None:
    if behaviour.failure_mode is not FailureMode.NONE:
        raise ValueError("failure_mode is not applicable when execution_mode is AT_MOST_ONCE")
    if "retry" in given:
        raise ValueError(
            "retry is not applicable when execution_mode is AT_MOST_ONCE, which never retries: remove one of them"
        )


def _as_given(option: str, value: Any) -> Any:
    del option
    return value


def _instance(kind: type[Any], option: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{option} must be a {kind.__name__}, not {value!r}")  # noqa: TRY004 - what is refused at declaration is a ValueError
    return value


def _one_of(names: Iterable[str], option: str, value: Any) -> str:
    known = tuple(names)
    if isinstance(value, str) and value in known:
        return value
    *others, last = map(repr, known)
    hint = did_you_mean(str(value), known)
    raise ValueError(
        f"{option} must be {', '.join(others)} or {last}, not {value!r}" + (f"; {hint}" if hint else "")
    )


def _flag(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be True or False, not {value!r}")  # noqa: TRY004 - as above
    return value


def _integer(least: int, most: int, option: str, value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{option} must be an integer from {least} to {most}, or None, not {value!r}")
    return value


def _timedelta(option: str, value: Any) -> datetime.timedelta:
    if isinstance(value, datetime.timedelta):
        return value
    raise ValueError(f"{option} must be a timedelta, not {value!r}{as_timedelta(value)}")


def _duration(option: str, value: Any) -> datetime.timedelta:
    duration = _timedelta(option, value)
    if not 0 < duration // A_MICROSECOND <= LONGEST:
        raise ValueError(f"{option} must be longer than zero and at most a century, not {duration}")
    return duration


def _deadline(option: str, value: Any) -> datetime.timedelta | None:
    return None if value is None else _duration(option, value)


def _jitter(option: str, value: Any) -> datetime.timedelta:
    jitter = _timedelta(option, value)
    if not datetime.timedelta() <= jitter <= JITTER_MAX:
        raise ValueError(f"{option} must be from zero to a day, not {jitter}")
    return jitter


def _moment(option: str, value: Any) -> datetime.datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime.datetime):
        raise ValueError(f"{option} must be a datetime with a time zone, not {value!r}")  # noqa: TRY004 - as above
    if value.utcoffset() is None:
        raise ValueError(f"{option} needs a time zone, as in datetime(…, tzinfo=UTC), and {value} has none")
    return value.astimezone(datetime.UTC)


_READERS: Final[Mapping[str, _Reader]] = {
    "fast_forward": _as_given,
    "failure_mode": partial(_instance, FailureMode),
    "execution_mode": partial(_instance, ExecutionMode),
    "lease_duration": _duration,
    "heartbeat": partial(_one_of, HEARTBEATS),
    "retry": partial(_instance, Retry),
    "missed": partial(_one_of, MISSED),
    "max_catch_up_runs": partial(_integer, 1, CATCH_UP_RUNS_MAX),
    "overlap": partial(_one_of, OVERLAPS),
    "starting_deadline": _deadline,
    "timeout": _deadline,
    "jitter": _jitter,
    "not_before": _moment,
    "not_after": _moment,
    "on_exhausted": partial(_one_of, EXHAUSTIONS),
    "suspend": _flag,
    "successful_runs_history_limit": partial(_integer, 0, HISTORY_MAX),
    "failed_runs_history_limit": partial(_integer, 0, HISTORY_MAX),
}

POLICIES: Final = frozenset(_READERS)
"""All options for policies."""

NEW_POLICIES: Final = POLICIES - OLD_POLICIES
"""Those that are arguments in an app with the defaults of 1.x."""
