"""Passwords as PostgreSQL stores them (SCRAM-SHA-256, RFC 7677), so that no statement and no log has them in clear text."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from typing import Final

ITERATIONS: Final = 4096
"""The server's own default."""

SALT_BYTES: Final = 16

METHOD: Final = "SCRAM-SHA-256"


def verifier_of(password: str) -> str:
    """Return what the server stores for *password*, with a new salt."""
    return _verifier(password, secrets.token_bytes(SALT_BYTES), ITERATIONS)


def is_verifier_of(verifier: str | None, password: str) -> bool:
    """Return whether the server that stores *verifier* takes *password*. One that it stores in another form counts as another."""
    method, _, rest = (verifier or "").partition("$")
    iterations, _, rest = rest.partition(":")
    if method != METHOD or not iterations.isdecimal():
        return False
    salt = b64decode(rest.partition("$")[0])
    return hmac.compare_digest(_verifier(password, salt, int(iterations)), verifier or "")


def _verifier(password: str, salt: bytes, iterations: int) -> str:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (b64encode(part).decode() for part in (salt, stored, server))
    return f"{METHOD}${iterations}:{salt_text}${stored_text}:{server_text}"
