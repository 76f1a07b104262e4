"""Three handlers. When they run is said by the manifests beside this file."""

import asyncio
import logging

from pyncette import Context, Pyncette

logger = logging.getLogger("quickstart")

app = Pyncette()


@app.handler()
async def hello(context: Context) -> None:
    """Greet, each minute: the time of the occurrence is in the time zone of its schedule."""
    print(f"Hello, {context.args['name']}: it is {context.scheduled_at:%H:%M %Z}")


@app.handler()
async def measure(context: Context) -> None:
    """Do something that takes a moment. A log line says by itself which task it is of."""
    await asyncio.sleep(0.2)
    logger.info("measured", extra={"celsius": 20 + context.scheduled_at.second % 5})


@app.handler()
async def welcome(context: Context) -> None:
    """Run once, ever: start this again, and it does not."""
    print(f"Welcome! {context.args['message']}")
