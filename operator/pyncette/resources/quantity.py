"""Reads quantities of Kubernetes, such as `500m` and `1.5Gi`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from pyncette.resources.modelling import refusal

SUFFIXES: Final[Mapping[str, Decimal]] = (
    {"": Decimal(1)}
    | {name: Decimal(1000) ** -power for power, name in enumerate("mun", start=1)}
    | {name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", start=1)}
    | {f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", start=1)}
)

FINEST: Final = Decimal("1e-9")
"""The API server rounds up finer quantities."""


def number_of(quantity: Any) -> Decimal:
    """Return the number that *quantity*, a text or a number, stands for. Raises InvalidOperation if it is none."""
    text = str(quantity).strip()
    digits = text.rstrip("numkKMGTPEi")
    suffix = text[len(digits) :]
    if suffix not in SUFFIXES:
        raise InvalidOperation
    return (Decimal(digits) * SUFFIXES[suffix]).quantize(FINEST, ROUND_CEILING)


def _text(given: Any) -> Any:
    """Return a number as text: YAML reads `cpu: 1` as a number."""
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


def _checked(text: str) -> str:
    try:
        number = number_of(text)
    except InvalidOperation:
        number = Decimal(-1)
    if number < 0:
        raise refusal("must be a quantity of Kubernetes, such as 500m, 0.5 or 256Mi")
    return text


Quantity = Annotated[str, BeforeValidator(_text), Field(max_length=64), AfterValidator(_checked)]
"""A quantity that is not negative, as text."""
