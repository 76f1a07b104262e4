"""Makes text that others wrote safe to show: it cannot control a terminal, reorder a line, or start a new one."""

from __future__ import annotations

from typing import Final

JOINERS: Final = frozenset("\u200c\u200d")
"""The zero-width (non-)joiner. Scripts and emoji need them, and they reorder nothing."""


def printable(text: str) -> str:
    r"""
    Return *text* with an escape, such as `\x1b`, in place of each character that is not shown as itself.

    Escaped are control characters, line ends, bidirectional marks, other invisible characters and lone surrogates. The
    result is one line. This is the only function that makes text safe for terminals, text logs, conditions and Events.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in JOINERS else _escaped(one) for one in text)


def one_line(text: str) -> str:
    """Return *text* like `printable`, with a single space in place of white space: for tables, conditions and Events."""
    return printable(" ".join(text.split()))


def printable_json(text: str) -> str:
    r"""Return the JSON *text* with an escape, such as `\u202e`, for each unprintable character. It decodes to the same value."""
    if text.isprintable():
        return text
    # Outside of its strings, JSON has no other unprintable character than a line end, and inside it has none.
    return "".join(
        one if one.isprintable() or one in JOINERS or one == "\n" else _escaped_in_json(one) for one in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _escaped_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
