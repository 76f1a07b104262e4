"""Two handlers of an application. tasks.yaml says when they run, and Dockerfile builds their image."""

import asyncio
import logging

from pyncette import Context, Pyncette

logger = logging.getLogger("shop")

app = Pyncette(defaults="safe")


@app.handler()
async def greet(context: Context) -> None:
    """Say hello: `kubectl logs` shows the line with its task."""
    logger.info("Hello, %s!", context.args["name"])


@app.handler()
async def send_report(context: Context) -> None:
    """Do something that takes a moment. A worker that is stopped meanwhile lets it finish first."""
    await asyncio.sleep(2)
    logger.info(
        "report sent", extra={"audience": context.args["audience"], "for_day": f"{context.scheduled_at:%F}"}
    )
