"""What the service is set to, from the environment."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("REMINDERS_FOLDER", ".pyncette/reminders"))
"""What all is kept in, unless it says otherwise below. Made where missing."""

DATABASE = FOLDER / "service.sqlite"
"""The service's own data: people, habits, reports."""

MAILBOX = FOLDER / "mailbox.sqlite"
"""Where the mail server of the demonstration keeps what it received."""

LOG = FOLDER / "worker.log"
"""Where the demonstration's worker logs."""

SMTP_HOST, _, _port = os.environ.get("REMINDERS_SMTP", "127.0.0.1:2525").rpartition(":")
SMTP_PORT = int(_port)

PEOPLE = int(os.environ.get("REMINDERS_PEOPLE", "100000"))
"""How many people the demonstration makes up."""


BACKEND = os.environ.get("PYNCETTE_BACKEND", f"sqlite:///{FOLDER / 'schedules.sqlite'}")
"""Where Pyncette keeps the schedules: a file, or the URL of any backend."""
