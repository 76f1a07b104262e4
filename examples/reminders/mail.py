"""Writes messages, and hands them to an SMTP server over a few connections that stay open."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from email.mime.text import MIMEText
from email.utils import format_datetime

import aiosmtplib

from examples.reminders.database import Habit, Person

SENDER = "Habits <reminders@habits.example>"

OUR_NAME = "habits.example"
"""What we introduce ourselves as. Left out, DNS is asked for it, and may take its time."""

CONNECTIONS_MAX = 10
"""What a mail server allows one client, commonly. Whoever needs a connection beyond waits for one."""

TIMEOUT_SECONDS = 20
"""For each answer of the server. One that hangs costs an attempt."""


class AddressRefusedError(Exception):
    """The server will never deliver to this address: there is no such mailbox (any more)."""


def reminder(
    person: Person, habits: Sequence[Habit], scheduled_at: datetime.datetime, message_id: str
) -> MIMEText:
    """Write a reminder. Its date is when it was due, in the person's own time, however often it is tried."""
    lines = [f"- {habit.title} ({habit.days_done} of the last 7 days)" for habit in habits]
    text = f"It is {scheduled_at:%H:%M} in {person.zone}. Today:\n\n" + "\n".join(lines) + "\n"
    # Not an EmailMessage, which parses each header that it is given: six times the CPU, more than all else that is done
    # for a reminder here.
    message = MIMEText(text)
    message["From"] = SENDER
    message["To"] = person.address
    message["Subject"] = f"Your habits for {scheduled_at:%A}"
    message["Date"] = format_datetime(scheduled_at)
    message["Message-ID"] = message_id
    # So that no autoresponder answers (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    return message


class Mailer:
    """Sends messages, at most CONNECTIONS_MAX at once."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[aiosmtplib.SMTP] = []
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)

    async def send(self, message: MIMEText) -> None:
        """
        Return once the server has taken responsibility for *message*.

        Raises AddressRefusedError if it never will. Anything else (SMTPException, OSError) may go better later.
        """
        async with self._places:
            connection = await self._connection()
            try:
                await connection.send_message(message)
            except aiosmtplib.SMTPRecipientsRefused as refused:
                self._idle.append(connection)  # it said no, but it is there
                (reply,) = refused.recipients
                if reply.code >= 500:
                    raise AddressRefusedError(f"{reply.code} {reply.message}") from refused
                raise
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    async def close(self) -> None:
        """Say goodbye on all connections."""
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.quit()
            except aiosmtplib.SMTPException:
                connection.close()

    async def _connection(self) -> aiosmtplib.SMTP:
        """Return a connection that is open still, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected:
                return connection
        # A server elsewhere wants more: start_tls or use_tls, username and password.
        connection = aiosmtplib.SMTP(
            hostname=self._host, port=self._port, timeout=TIMEOUT_SECONDS, local_hostname=OUR_NAME
        )
        await connection.connect()
        return connection
