"""What scheduling does to an instance that exists."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pyncette.app.defaults import Defaults


class Edit(Enum):
    """What scheduling does to an instance that exists."""

    REPLACE = "replace"
    """The new schedule replaces the old one. A running instance is refused."""
    KEEP_SOONER = "keep sooner"
    """The earlier of the old and the new next time is kept. A running instance is refused."""
    OVERWRITE = "overwrite"
    """Everything is replaced, and a running handler loses its lease (`force`)."""


def edit_of(defaults: Defaults, options: dict[str, Any], *, force: bool) -> Edit:
    """
    Return what a call that schedules does to an existing instance, and remove `keep_sooner` from its *options*.

    With loose keywords, `keep_sooner` is an argument. Raises ValueError.
    """
    keep_sooner = defaults.keep_sooner
    if not defaults.loose_keywords:
        keep_sooner = options.pop("keep_sooner", keep_sooner)
        for name, value in (("force", force), ("keep_sooner", keep_sooner)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")  # noqa: TRY004 - what is refused is a ValueError
        if force and keep_sooner:
            raise ValueError("force and keep_sooner are mutually exclusive: force replaces the schedule")
    if force:
        return Edit.OVERWRITE
    return Edit.KEEP_SOONER if keep_sooner else Edit.REPLACE
