"""The Lua scripts of the verbs on Redis, which contain only what has to be atomic."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple

from pyncette.store.base import KEY_BYTES_MAX, SPEC_BYTES_MAX, STATE_BYTES_MAX

VALUE_BYTES_MAX: Final = SPEC_BYTES_MAX + STATE_BYTES_MAX + 4096
"""Maximum length of a packed record: its texts, its numbers, and the names in its lease."""

_LIMITS: Final = {
    "SPEC_BYTES_MAX": SPEC_BYTES_MAX,
    "STATE_BYTES_MAX": STATE_BYTES_MAX,
    "VALUE_BYTES_MAX": VALUE_BYTES_MAX,
    "NAME_BYTES_MAX": KEY_BYTES_MAX + len("\0\0"),
}
"""The limits in all scripts, so that a server does not send values that no store would read."""

_FOLDER: Final = files("pyncette.store.redis") / "lua"


class Script(NamedTuple):
    """A script, and the digest under which a server caches it."""

    source: str
    sha: str


def _read(name: str) -> Script:
    limits = f"local {', '.join(_LIMITS)} = {', '.join(map(str, _LIMITS.values()))}"
    parts = [(_FOLDER / part).read_text("utf-8") for part in ("common.lua", f"{name}.lua")]
    source = "\n".join([limits, *parts])
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


CLAIM: Final = _read("claim")
COUNT: Final = _read("count")
CREATE: Final = _read("create")
HISTORY: Final = _read("history")
LOAD: Final = _read("load")
PARTITIONS: Final = _read("partitions")
REBUILD: Final = _read("rebuild")
RENEW: Final = _read("renew")
SCAN: Final = _read("scan")
SWAP: Final = _read("swap")
