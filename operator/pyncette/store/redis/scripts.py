"""The Lua scripts of the verbs on Redis, which contain only what has to be atomic."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple

_FOLDER: Final = files("pyncette.store.redis") / "lua"


class Script(NamedTuple):
    """A script, and the digest under which a server caches it."""

    source: str
    sha: str


def _read(name: str) -> Script:
    source = "\n".join((_FOLDER / part).read_text("utf-8") for part in ("common.lua", f"{name}.lua"))
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


CLAIM: Final = _read("claim")
COUNT: Final = _read("count")
CREATE: Final = _read("create")
HEAL: Final = _read("heal")
RENEW: Final = _read("renew")
SCAN: Final = _read("scan")
SWAP: Final = _read("swap")
