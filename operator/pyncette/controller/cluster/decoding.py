"""Decodes the JSON of the API server, which allows 10,000 nested levels. The decoder allows fewer than 1,000."""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

import msgspec

LEVELS_KEPT: Final = 128
"""Nested levels that are kept of a text with more levels than can be decoded. No real object has half as many."""

TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
"""A string, or one end of a list or of an object."""

T = TypeVar("T")


def decode(text: bytes | bytearray | msgspec.Raw, form: type[T]) -> T:
    """Return the decoded *text*. If it is nested too deeply to be decoded, values below `LEVELS_KEPT` become 0."""
    try:
        return msgspec.json.decode(text, type=form)
    except RecursionError:
        return msgspec.json.decode(shallow(bytes(text)), type=form)


async def decodable(text: bytes | bytearray) -> bytes | bytearray:
    """Return *text*, made `shallow` in a thread if it is nested too deeply: some megabytes would block the loop for half a second."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except RecursionError:
        return await asyncio.to_thread(shallow, bytes(text))
    except msgspec.DecodeError:
        pass  # `decode` reports it
    return text


def shallow(text: bytes, levels: int = LEVELS_KEPT) -> bytes:
    """Replace each value of the JSON *text* below so many *levels* by 0, in one pass without recursion."""
    kept: list[bytes] = []
    level = begun = 0
    for token in TOKEN.finditer(text):
        first = text[token.start()]
        if first in b"[{":
            level += 1
            if level == levels + 1:
                kept += (text[begun : token.start()], b"0")
        elif first in b"]}":
            if level == levels + 1:
                begun = token.end()
            level -= 1
    return b"".join((*kept, text[begun:]))
