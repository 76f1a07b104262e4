"""The demonstration's mail server: speaks SMTP, keeps what it receives, and is as difficult as mail servers are."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.parser import BytesHeaderParser
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from examples.reminders import settings

GONE = "gone.example"
"""Nobody lives there any more: refused for good."""

GREYLISTING = "greylisting.example"
"""Asks for a second try of each address that it does not know yet, as many servers do to be rid of spam."""

READY = "ready"

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY, message_id TEXT NOT NULL, recipient TEXT NOT NULL, date TEXT NOT NULL, content BLOB NOT NULL
)
"""


class Mailbox:
    """Everybody's mailbox. What comes twice is kept twice, so that it can be counted."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: set[str] = set()

    async def handle_RCPT(  # noqa: N802 - this and the next are called by these names
        self, _: SMTP, __: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.endswith(f"@{GONE}"):
            return "550 5.1.1 No such mailbox here"
        if address.endswith(f"@{GREYLISTING}") and address not in self._known:
            self._known.add(address)
            return "451 4.7.1 Greylisted, please try again"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        headers = BytesHeaderParser().parsebytes(content)
        for recipient in envelope.rcpt_tos:
            row = (headers["Message-ID"], recipient, headers["Date"], content)
            # Committed before the answer, which takes over the responsibility. Without fsync: this is a demonstration.
            self._connection.execute("INSERT INTO messages VALUES (NULL, ?, ?, ?, ?)", row)
        return "250 OK"


def serve(path: Path, host: str, port: int) -> None:
    """Serve until standard input ends, which it does when whoever started this is gone, however that came."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(SCHEMA)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        mailbox = Mailbox(connection)
        server = await loop.create_server(lambda: SMTP(mailbox, hostname="localhost", loop=loop), host, port)
        async with server:
            print(READY, flush=True)
            await loop.run_in_executor(None, sys.stdin.read)

    asyncio.run(run())


@asynccontextmanager
async def running_mail_server() -> AsyncIterator[None]:
    """Run the server in a process of its own, as mail servers do."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.reminders.mail_server",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # ctrl-C is for the worker, which still has messages to send then
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    if (await server.stdout.readline()).decode().strip() != READY:
        sys.exit(
            f"no mail server on {settings.SMTP_HOST}:{settings.SMTP_PORT}; REMINDERS_SMTP names another place"
        )
    try:
        yield
    finally:
        server.stdin.close()
        await server.wait()


if __name__ == "__main__":
    serve(settings.MAILBOX, settings.SMTP_HOST, settings.SMTP_PORT)
