"""Takes out of an error's words what may be a secret of the URL that it came from, before people are shown them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

MARK: Final = "…"
"""Stands where something was taken out."""

CHARACTERS_MAX: Final = 400
"""Of an error's words. Longer ones are a driver's inner state, or the request that a server repeats."""

HEARD_MAX: Final = 64 * 1024
"""Characters of an error's words that are looked at for what is known to be secret. A hostile server may send megabytes."""

READ_MAX: Final = 4 * CHARACTERS_MAX
"""Characters of the rest that are looked at for what seems to be secret."""

WORD_CHARACTERS_MAX: Final = 3
"""A secret that is no longer is taken out only where it is a word: it may be a part of any other."""

VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MYSQL_PWD",
    "PGPASSWORD",
)
"""Where drivers find credentials beside the URL."""

_SECRET_NAME: Final = re.compile(r"pass|pwd|secret|token|credential|auth", re.IGNORECASE)
_USERINFO: Final = re.compile(r"://[^\s'\"<>]*@")
_ASSIGNED: Final = re.compile(
    r"""(?ix) ( (?:pass(?:word|wd)|pwd|secret|token|credential)[\w-]{0,40} ["']? \s? (?:=|:(?=["'\w./+-]{8})|(?<=["']):) \s? )
    (?: "[^"]*" | '[^']*' | [^\s,;&)>]+ )"""
)
_ADDRESS: Final = re.compile(r" (?:object )?at 0x[0-9a-f]+")
"""Of a Python object: another one at each try."""


def without_secrets(words: str, urls: Iterable[str] = ()) -> str:
    """
    Return *words* of an error on one printable line, without what *urls* and the environment hold that opens a backend.

    Taken out are each URL, its user with the password, the password, and parameters that are named like a secret, as they
    are written and decoded; and what looks like any of these. The name of a user stays: servers tell it to say who failed.
    """
    said = _one_line(words[:HEARD_MAX])
    for secret in sorted(_secrets(urls), key=len, reverse=True):
        said = _without(said, secret)
    said = said[:READ_MAX]
    said = _USERINFO.sub(f"://{MARK}@", said)
    said = _ASSIGNED.sub(rf"\g<1>{MARK}", said)
    said = _ADDRESS.sub("", said)
    return said if len(said) <= CHARACTERS_MAX else f"{said[: CHARACTERS_MAX - 1]}{MARK}"


def _without(said: str, secret: str) -> str:
    if len(secret) > WORD_CHARACTERS_MAX:
        return said.replace(secret, MARK)
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MARK, said)


def _secrets(urls: Iterable[str]) -> set[str]:
    found = {os.environ.get(name, "") for name in VARIABLES}
    for url in urls:
        for secret in _secrets_of(url.strip()):
            found |= {secret, unquote(secret), unquote_plus(secret)}
    return {_one_line(secret) for secret in found} - {""}


def _one_line(text: str) -> str:
    """Return *text* without what ends a line or moves the cursor of a terminal."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _secrets_of(url: str) -> Iterator[str]:
    """Yield what is secret in *url*, by its form alone: it may be one that no driver can read."""
    yield url
    _, separator, rest = url.partition("://")
    if not separator:
        return
    if "@" in rest:
        yield rest
    before, question, query = rest.partition("?")
    # A password that is not encoded as it should be may hold any of / ? # @, so the last @ ends it.
    for text in (before, rest):
        userinfo, at, _ = text.rpartition("@")
        if at:
            yield userinfo
            yield userinfo.partition(":")[2]
    for part in query.split("&") if question else ():
        name, _, value = part.partition("=")
        if _SECRET_NAME.search(unquote(name)):
            yield value
        for inner in {value, unquote(value)}:
            if "://" in inner and "@" in inner:  # the URL of an endpoint, with a user
                yield from _secrets_of(inner)
