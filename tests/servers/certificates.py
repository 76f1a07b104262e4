"""Certificates for servers of tests: self-signed, so that each is its own authority."""

from pathlib import Path
from typing import NamedTuple

from tests.servers import machine
from tests.servers.errors import ServerDidNotStartError


class Certificate(NamedTuple):
    """A certificate for one host name, and its key."""

    file: Path
    """Also the file with the authority to trust."""
    key: Path


def make_certificate(
    folder: Path, host: str = "localhost", account: machine.Account | None = None
) -> Certificate:
    """Return a new certificate for *host* in *folder*, which belongs to *account*. Raises ServerDidNotStartError."""
    made = Certificate(folder / f"{host}.pem", folder / f"{host}-key.pem")
    done = (account or machine.our_account()).run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}",
        "-keyout", made.key, "-out", made.file,
    )  # fmt: skip
    if done.returncode != 0:
        raise ServerDidNotStartError(done.stderr)
    return made
