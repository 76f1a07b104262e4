"""Redacts the secrets of backend URLs, and of the environment, from error messages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

MARK: Final = "…"
"""Replaces what was redacted."""

CHARACTERS_MAX: Final = 400
"""The longest message. Longer ones contain the state of a driver, or a request that a server repeats."""

SEARCHED_MAX: Final = 64 * 1024
"""Characters of a message that are searched for known secrets. A hostile server may send megabytes."""

READ_MAX: Final = 4 * CHARACTERS_MAX
"""Characters of the rest that are searched for text that looks like a secret."""

WORD_CHARACTERS_MAX: Final = 3
"""A secret of at most this length is redacted as a whole word only, since it may be a part of any word."""

VARIABLES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MYSQL_PWD",
    "PGPASSWORD",
)
"""Variables from which drivers read credentials, besides the URL."""

_SECRET_NAME: Final = re.compile(r"pass|pwd|secret|token|credential|auth", re.IGNORECASE)
_USERINFO: Final = re.compile(r"://[^\s'\"<>]*@")
_ASSIGNED: Final = re.compile(
    r"""(?ix) ( (?:pass(?:word|wd)|pwd|secret|token|credential)[\w-]{0,40} ["']? \s? (?:=|:(?=["'\w./+-]{8})|(?<=["']):) \s? )
    (?: "[^"]*" | '[^']*' | [^\s,;&)>]+ )"""
)
_ADDRESS: Final = re.compile(r" (?:object )?at 0x[0-9a-f]+")
"""The address of a Python object, which differs at each attempt."""


def without_secrets(message: str, urls: Iterable[str] = ()) -> str:
    """
    Return the *message* of an error on one printable line, without the secrets of *urls* and of the environment.

    Redacted are each URL, its user with the password, the password, and parameters that are named like a secret, both as
    written and decoded; and what looks like any of these. The name of a user stays: servers report whose login failed.
    """
    text = _one_line(message[:SEARCHED_MAX])
    for secret in sorted(_secrets(urls), key=len, reverse=True):
        text = _without(text, secret)
    text = text[:READ_MAX]
    text = _USERINFO.sub(f"://{MARK}@", text)
    text = _ASSIGNED.sub(rf"\g<1>{MARK}", text)
    text = _ADDRESS.sub("", text)
    return text if len(text) <= CHARACTERS_MAX else f"{text[: CHARACTERS_MAX - 1]}{MARK}"


def _without(text: str, secret: str) -> str:
    if len(secret) > WORD_CHARACTERS_MAX:
        return text.replace(secret, MARK)
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MARK, text)


def _secrets(urls: Iterable[str]) -> set[str]:
    found = {os.environ.get(name, "") for name in VARIABLES}
    for url in urls:
        for secret in _secrets_of(url.strip()):
            found |= {secret, unquote(secret), unquote_plus(secret)}
    return {_one_line(secret) for secret in found} - {""}


def _one_line(text: str) -> str:
    """Return *text* without line ends and control characters."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _secrets_of(url: str) -> Iterator[str]:
    """Yield the secrets of *url* by its form alone, since it may be invalid."""
    yield url
    _, separator, rest = url.partition("://")
    if not separator:
        return
    if "@" in rest:
        yield rest
    before, question, query = rest.partition("?")
    # A password that is not percent-encoded may contain / ? # @, so the last @ ends it.
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
