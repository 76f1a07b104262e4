"""Three handlers. The manifests in this folder say when they run."""

import asyncio
import logging

from pyncette import Context, Pyncette

logger = logging.getLogger("quickstart")

app = Pyncette(defaults="safe")


@app.handler()
async def hello(context: Context) -> None:
    """Greet every minute. The time of the occurrence is in the time zone of its schedule."""
    print(f"Hello, {context.args['name']}: it is {context.scheduled_at:%H:%M %Z}")


@app.handler()
async def measure(context: Context) -> None:
    """Do something that takes a moment. Log lines include the task automatically."""
    await asyncio.sleep(0.2)
    logger.info("measured", extra={"celsius": 20 + context.scheduled_at.second % 5})


@app.handler()
async def welcome(context: Context) -> None:
    """Run only once: not again after a restart."""
    print(f"Welcome! {context.args['message']}")
