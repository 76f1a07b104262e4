"""Makes untrusted text safe to print, so that it cannot control a terminal, reorder a line, or begin a new line."""

from __future__ import annotations

from typing import Final

JOINERS: Final = frozenset("\u200c\u200d")
"""The zero-width joiner and non-joiner. Scripts and emoji need them, and they do not reorder text."""


def printable(text: str) -> str:
    r"""
    Return *text* with an escape, such as `\x1b`, in place of each unprintable character, so that it is one line.

    This includes control characters, line ends, bidirectional marks, other invisible characters and lone surrogates. All
    text for terminals, text logs, conditions and Events passes through this function.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in JOINERS else _escaped(one) for one in text)


def one_line(text: str) -> str:
    """Return printable *text* with white space collapsed to single spaces, for tables, conditions and Events."""
    return printable(" ".join(text.split()))


def printable_json(text: str) -> str:
    r"""Return the JSON *text* with an escape, such as `\u202e`, for each unprintable character. It decodes to the same value."""
    if text.isprintable():
        return text
    # A line end is the only unprintable character outside the strings of JSON, and never occurs inside them.
    return "".join(
        one if one.isprintable() or one in JOINERS or one == "\n" else _escaped_in_json(one) for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _escaped_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
