"""What runs when a reminder is due. It knows nothing of the web, so `pyncette worker tasks` can run it, too."""

import os

from pyncette import Context, Pyncette, Retry
from pyncette.backend import backend_repository

BACKEND = os.environ.get("PYNCETTE_BACKEND", "sqlite:///reminders.sqlite")

app = Pyncette(backend_repository, defaults="safe", backend_url=BACKEND)


async def send(user: str, text: str) -> None:
    """Stand in for your mail or push service."""
    print(f"{user}: {text}", flush=True)


# After an outage, "latest" sends each reminder once, and not once for each day. An unknown user is not tried again.
@app.dynamic_task(missed="latest", retry=Retry(max_attempts=4, give_up_on=LookupError))
async def remind(context: Context, user: str, text: str) -> None:
    await send(user, text)
