"""Suggests which known name a misspelled one was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

SIMILARITY: Final = 0.6
"""How alike two names must be, from 0 to 1, for one to be suggested for the other."""


def nearest(name: str, known: Iterable[str], similarity: float = SIMILARITY) -> str | None:
    """Return the one of *known* that is most like *name*, ignoring case; None if none reaches *similarity*."""
    names = {item.lower(): item for item in known}
    close = get_close_matches(name.lower(), list(names), 1, similarity)
    return names[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the question that suggests one of *known* instead of *name*; *otherwise*, if none is close."""
    close = nearest(name, known)
    return f"did you mean {close}?" if close else otherwise
