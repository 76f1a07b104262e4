"""The base of all custom resource models: camelCase names, bounds, and rules written once for Python and CEL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

from pyncette.clock import SECOND, Duration, Instant

INVALID: Final = "Invalid"
"""The reason of a problem that has no reason of its own."""


class Rule(NamedTuple):
    """A requirement across fields of a model: Python holds manifests to it, and the API server everything else."""

    cel: str
    """The requirement as the API server evaluates it; `self` is the model."""
    message: str
    """The problem, and the fix."""
    holds: Callable[[Any], bool]
    """The same requirement, of an instance of the model."""
    blames: tuple[str, ...] = ()
    """Fields, by their Python names, dots in between; the first that was given is the one to point at."""
    reason: str = INVALID
    """PascalCase, as the condition of a stalled resource gives it."""


class Transition(NamedTuple):
    """A requirement on a change: `self` and `oldSelf` in CEL are the model after and before it."""

    cel: str
    message: str
    holds: Callable[[Any, Any], bool]
    """Of the model before and the model after the change."""
    blames: tuple[str, ...]


class Finding(NamedTuple):
    """A problem that no schema can express, found by the operator and `pyncette dev`."""

    blames: str
    message: str
    reason: str = INVALID
    """PascalCase, as the condition of a stalled resource gives it."""


class Model(BaseModel):
    """
    A part of a custom resource. What stands under a field becomes its text in `kubectl explain`.

    None as the default of a field means that the schema has none: what then holds, the operator decides. Types are
    those of JSON and nothing is converted, as the API server does it; a null is a field that was not given.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    transitions: ClassVar[tuple[Transition, ...]] = ()
    instead: ClassVar[dict[str, str]] = {}
    """What to write instead of fields that other resources have and this one has not."""

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong beyond types, bounds and rules, which all hold when this is asked."""
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None}
        return given

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [
            Finding(self._culprit(rule.blames), rule.message, rule.reason)
            for rule in self.rules
            if not rule.holds(self)
        ]
        found = broken or list(self.findings())
        if found:
            raise ValidationError.from_exception_data(
                type(self).__name__, [self._detail(item) for item in found]
            )
        return self

    def _culprit(self, blames: tuple[str, ...]) -> str:
        given = [name for name in blames if name.partition(".")[0] in self.model_fields_set]
        return next(iter(given or blames), "")

    def _detail(self, finding: Finding) -> InitErrorDetails:
        path = tuple(map(to_camel, finding.blames.split("."))) if finding.blames else ()
        return InitErrorDetails(type=refusal(finding.message, finding.reason), loc=path, input=None)


def refused_change(
    before: Model, after: Model, at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path and the message of every transition, here and in the models within, that a change breaks."""
    for transition in after.transitions:
        if not transition.holds(before, after):
            yield (*at, to_camel(transition.blames[0])), transition.message
    for name in type(after).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, Model) and isinstance(new, Model):
            yield from refused_change(old, new, (*at, to_camel(name)))


def refusal(message: str, reason: str = INVALID) -> PydanticCustomError:
    """Return an error for a validator to raise, whose *message* is shown as it is."""
    return PydanticCustomError(reason, "{message}", {"message": message})


# --- Types -----------------------------------------------------------------------------------------------------------

SECONDS_MAX: Final = 10 * 366 * 86_400
"""Ten years: longer than any interval that makes sense, and within 32 bits."""

COUNT_MAX: Final = 2**53 - 1
"""The largest integer that every reader of JSON keeps exact."""

INT32_MAX: Final = 2**31 - 1

Seconds = Annotated[int, Field(ge=1, le=SECONDS_MAX)]
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]

LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

Label = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL)]
"""A DNS label of Kubernetes: the name of a namespace, or a value that must fit into a label."""

Subdomain = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN)]
"""A DNS subdomain of Kubernetes: the name of most objects."""

PATTERNS: Final[dict[str, str]] = {
    LABEL: "a name of lower-case letters, digits and '-' that begins and ends with a letter or digit",
    SUBDOMAIN: "a name of lower-case letters, digits, '-' and '.' that begins and ends with a letter or digit",
}
"""The description of each schema pattern. Every new pattern needs one."""

RFC3339: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""Stricter than the RFC where the API server, which compares instants, is stricter: upper case, and offsets of less than a day."""
RFC3339_LENGTH_MAX: Final = 35

_INSTANT = re.compile(RFC3339, re.ASCII)
_WALL_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?", re.ASCII)


def _instant(given: Any) -> datetime:
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise refusal("has no offset from UTC, so it is not an instant")
        return given
    if not isinstance(given, str):
        raise PydanticCustomError("string_type", "must be text")
    if _INSTANT.fullmatch(given) is None:
        raise refusal(_not_an_instant(given))
    try:
        return datetime.fromisoformat(given)
    except ValueError as error:
        raise refusal(f"is not a time: {error}") from None


def _not_an_instant(given: str) -> str:
    if _INSTANT.fullmatch(given.upper()):
        return f"has T or Z in lower case: write {given.upper()}"
    if _WALL_TIME.fullmatch(given) is None:
        return "is not an RFC 3339 time, for example 2030-01-31T09:00:00+01:00"
    wall = given.replace(" ", "T") + (":00" if given.count(":") == 1 else "")
    return (
        f"has no offset from UTC, so it is not an instant: write {wall}Z, or {wall}+01:00 with another offset"
    )


def _written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


Instant3339 = Annotated[
    datetime,
    BeforeValidator(_instant),
    PlainSerializer(_written, when_used="json"),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "pattern": RFC3339, "maxLength": RFC3339_LENGTH_MAX}
    ),
]
"""An instant with its offset, as RFC 3339 writes it; digits beyond microseconds are cut off."""


def whole_second(at: Instant) -> Instant:
    """Return *at* as Kubernetes tells times: what is measured from one of a status is then the same in each pass."""
    return at - at % SECOND


def duration_of(seconds: int) -> Duration:
    """Return *seconds* as the core counts time."""
    return seconds * SECOND


def listed(names: Iterable[str], word: str = "and") -> str:
    """Return *names* as a sentence lists them: `a, b and c`."""
    *most, last = list(names) or ["none"]
    return f"{', '.join(most)} {word} {last}" if most else last
