"""Decodes the JSON of the API server, which takes 10,000 nested levels where the decoder takes fewer than 1,000."""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

import msgspec

LEVELS_KEPT: Final = 128
"""Nested levels of an answer that are kept if it has more than can be decoded. No object that is used has half as many."""

TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
"""A string, or one end of a list or of an object."""

T = TypeVar("T")


def decode(text: bytes | bytearray | msgspec.Raw, form: type[T]) -> T:
    """Return the decoded *text*. Values below `LEVELS_KEPT` become 0 if it is nested too deeply to be decoded."""
    try:
        return msgspec.json.decode(text, type=form)
    except RecursionError:
        return msgspec.json.decode(shallow(bytes(text)), type=form)


async def decodable(text: bytes | bytearray) -> bytes | bytearray:
    """Return the *text*, or a shallow one if it is nested too deeply. The event loop runs on, since megabytes take half a second."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except RecursionError:
        return await asyncio.to_thread(shallow, bytes(text))
    except msgspec.DecodeError:
        pass  # Whoever decodes it reports that.
    return text


def shallow(text: bytes, levels: int = LEVELS_KEPT) -> bytes:
    """Return the JSON *text* with 0 for each value below so many *levels*. It reads the text once, without recursion."""
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
