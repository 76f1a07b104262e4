"""What the service is set to, from the environment."""

import os
from pathlib import Path
from typing import Any

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
"""Where Pyncette keeps the schedules: a file, or postgresql://user:password@host/database."""


def backend() -> dict[str, Any]:
    """Return BACKEND in the words of `Pyncette(…)`."""
    scheme, _, rest = BACKEND.partition("://")
    if scheme == "sqlite":
        return {"sqlite_database": rest.removeprefix("/")}
    from pyncette.postgres import postgres_repository

    return {
        "repository_factory": postgres_repository,
        "postgres_url": BACKEND,
        "postgres_table_name": "reminders",
    }
