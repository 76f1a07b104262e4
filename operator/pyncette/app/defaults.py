"""The defaults of an app: those of Pyncette 1.x, or the safe ones."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pyncette.app.behaviour import BEHAVIOUR_OF_1_X, SAFE_BEHAVIOUR, Behaviour
from pyncette.core.suggestions import did_you_mean
from pyncette.errors import ConfigurationError

DefaultsName: TypeAlias = Literal["1.x", "safe"]
"""The values of `Pyncette(defaults=…)`."""


class Defaults(NamedTuple):
    """What the tasks and instances of an app do unless their options say otherwise."""

    name: DefaultsName
    loose_keywords: bool
    """
    True: an unknown keyword is an argument, and so are the options that Pyncette 1.x did not have.

    False: arguments are passed in `args`, and an unknown keyword is refused.
    """
    keep_sooner: bool
    """True: an edit of an instance keeps the earlier of the old and the new next time. False: it replaces the old one."""
    behaviour: Behaviour


DEFAULTS_OF_1_X: Final = Defaults("1.x", loose_keywords=True, keep_sooner=True, behaviour=BEHAVIOUR_OF_1_X)
SAFE_DEFAULTS: Final = Defaults("safe", loose_keywords=False, keep_sooner=False, behaviour=SAFE_BEHAVIOUR)


def defaults_named(name: Any) -> Defaults:
    """Return the defaults with this *name*. Raises ConfigurationError."""
    for defaults in (DEFAULTS_OF_1_X, SAFE_DEFAULTS):
        if name == defaults.name:
            return defaults
    suggestion = did_you_mean(str(name), ["1.x", "safe"], "write '1.x' or 'safe'")
    raise ConfigurationError(f"unknown defaults {name!r}; {suggestion}")
