"""Two handlers of an application. When they run is said by tasks.yaml; the image that brings them here is in Dockerfile."""

import asyncio
import logging

from pyncette import Context, Pyncette

logger = logging.getLogger("shop")

app = Pyncette()


@app.handler()
async def greet(context: Context) -> None:
    """Say hello, so that there is something to see soon: `kubectl logs` shows it with the task that it is of."""
    logger.info("Hello, %s!", context.args["name"])


@app.handler()
async def send_report(context: Context) -> None:
    """Do something that takes a moment. A worker that has to stop meanwhile lets it finish first."""
    await asyncio.sleep(2)
    logger.info(
        "report sent", extra={"audience": context.args["audience"], "for_day": f"{context.scheduled_at:%F}"}
    )
