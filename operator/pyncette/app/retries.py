"""The retry policy of a task: how often and when an attempt is repeated, and for which exceptions."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from pyncette.app.modes import A_MICROSECOND, as_timedelta
from pyncette.core.spec import Retry as StoredRetry
from pyncette.errors import DoNotRetry, RetryAfter

ATTEMPTS_MAX: Final = 1000
INITIAL_BACKOFF_MAX: Final = datetime.timedelta(days=1)
MAX_BACKOFF_MAX: Final = datetime.timedelta(days=7)
"""The bounds of a PyncetteTask's `retryPolicy`."""

ExceptionTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""A class of exceptions or a tuple of them, as `except` takes it."""


class RetriedErrors(NamedTuple):
    """The exceptions of a handler after which it is called again. It belongs to the process, and is not stored."""

    on: tuple[type[BaseException], ...] = (BaseException,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def include(self, error: BaseException) -> bool:
        """
        Return True if *error* is followed by a retry, as long as attempts are left.

        `DoNotRetry` and `RetryAfter` override the options. A group is retried if all exceptions in it are. If
        the options name its own class, `on` includes all that is in it, and `give_up_on` excludes it.
        """
        if isinstance(error, DoNotRetry):
            return False
        if isinstance(error, RetryAfter):
            return True
        if isinstance(error, BaseExceptionGroup):
            if isinstance(error, _groups_in(self.give_up_on)):
                return False
            inside = self._replace(on=(BaseException,)) if isinstance(error, _groups_in(self.on)) else self
            return all(map(inside.include, error.exceptions))
        return isinstance(error, self.on) and not isinstance(error, self.give_up_on)


ALL_ERRORS: Final = RetriedErrors()


@dataclass(frozen=True, kw_only=True)
class Retry:
    """
    A retry policy. Its defaults are those of a PyncetteTask's `retryPolicy`.

    Raises ValueError for invalid values.
    """

    max_attempts: int | None = 5
    """Attempts of one occurrence, the first included, from 1 to 1000. None: no limit."""
    initial_backoff: datetime.timedelta = datetime.timedelta(seconds=5)
    """The delay after the first attempt, at most a day. It doubles with each further one, and is spread a little."""
    max_backoff: datetime.timedelta = datetime.timedelta(minutes=5)
    """The longest delay, at most seven days."""
    on: ExceptionTypes = BaseException
    """Only these exceptions are retried. A run that exceeds its `timeout` counts as a TimeoutError."""
    give_up_on: ExceptionTypes = ()
    """These exceptions are not retried, even if `on` includes them."""

    def __post_init__(self) -> None:
        attempts = self.max_attempts
        if attempts is not None and not (_is_integer(attempts) and 1 <= attempts <= ATTEMPTS_MAX):
            raise ValueError(
                f"max_attempts must be an integer from 1 to {ATTEMPTS_MAX}, or None for no limit, not {attempts!r}"
            )
        _check_delay("initial_backoff", self.initial_backoff, INITIAL_BACKOFF_MAX)
        _check_delay("max_backoff", self.max_backoff, MAX_BACKOFF_MAX)
        if self.max_backoff < self.initial_backoff:
            raise ValueError(
                f"max_backoff must not be shorter than initial_backoff: {self.max_backoff} < {self.initial_backoff}"
            )
        for name in ("on", "give_up_on"):
            classes = _as_tuple(getattr(self, name))
            _check_exceptions(name, classes)
            object.__setattr__(self, name, classes)  # frozen, and equal however it was written
        if not self.on:
            raise ValueError("on names no exception, so nothing is retried: write max_attempts=1")


def errors_of(retry: Retry) -> RetriedErrors:
    """Return the exceptions that *retry* names."""
    return RetriedErrors(_as_tuple(retry.on), _as_tuple(retry.give_up_on))


def stored_retry(retry: Retry) -> StoredRetry:
    """Return the part of *retry* that is stored: the number of attempts and their delays."""
    return StoredRetry(
        max_attempts=retry.max_attempts or 0,
        initial=retry.initial_backoff // A_MICROSECOND,
        maximum=retry.max_backoff // A_MICROSECOND,
    )


def retry_of(stored: StoredRetry, errors: RetriedErrors) -> Retry | None:
    """Return the policy with the numbers of *stored*; None if only a failure mode stands for it."""
    if stored.wait_for_lease or not stored.jitter or not stored.count_takeovers:
        return None
    return Retry(
        max_attempts=stored.max_attempts or None,
        initial_backoff=stored.initial * A_MICROSECOND,
        max_backoff=stored.maximum * A_MICROSECOND,
        on=errors.on,
        give_up_on=errors.give_up_on,
    )


def errors_of_handler(retry: Retry | None) -> RetriedErrors:
    """Return the exceptions of the *retry* policy of a handler for PyncetteTasks. Raises ValueError for its numbers."""
    if retry is None:
        return ALL_ERRORS
    if not isinstance(retry, Retry):
        raise ValueError(f"retry must be a Retry, not {retry!r}")  # noqa: TRY004 - what is refused at declaration is a ValueError
    if stored_retry(retry) != StoredRetry():
        raise ValueError(
            "The retryPolicy of each PyncetteTask sets max_attempts, initial_backoff and max_backoff of a handler: "
            "write retry=Retry(on=…, give_up_on=…) here"
        )
    return errors_of(retry)


def refuse_exceptions(given: Mapping[str, Any]) -> None:
    """Raise ValueError if the options *given* for an instance name exceptions."""
    retry = given.get("retry")
    if retry is not None and errors_of(retry) != ALL_ERRORS:
        raise ValueError(
            "on and give_up_on are classes of the handler's exceptions, which are not stored: "
            "write them in the retry of the task, not of an instance"
        )


def _groups_in(classes: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    return tuple(one for one in classes if issubclass(one, BaseExceptionGroup))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_delay(name: str, delay: Any, longest: datetime.timedelta) -> None:
    if not isinstance(delay, datetime.timedelta):
        raise ValueError(f"{name} must be a timedelta, not {delay!r}{as_timedelta(delay)}")  # noqa: TRY004 - as above
    if not A_MICROSECOND <= delay <= longest:
        raise ValueError(f"{name} must be longer than zero and at most {longest.days} d, not {delay}")


def _check_exceptions(name: str, classes: tuple[Any, ...]) -> None:
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            message = (
                f"{name} must be an exception class or a tuple of them, as in (TimeoutError,), not {one!r}"
            )
            raise ValueError(message)  # noqa: TRY004 - as above


def _as_tuple(classes: ExceptionTypes) -> tuple[type[BaseException], ...]:
    return classes if isinstance(classes, tuple) else (classes,)
