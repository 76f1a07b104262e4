"""Celery with eta: one process that receives, and one child that runs."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from datetime import UTC, datetime

from celery import Celery
from celery.signals import worker_ready
from measuring import asked, begins, ended

SETTLING_SECONDS = 0.5
"""For the main process to hear of the last run, which it would else wait for at its end."""

wanted = asked()
late: list[float] = []
"""Grows in the child, which hands it over when it has all."""
receiving, handing_over = os.pipe()

app = Celery("peer", broker=wanted.place)
app.conf.update(
    worker_prefetch_multiplier=128,
    task_ignore_result=True,
    worker_disable_rate_limits=True,
    worker_redirect_stdouts=False,
    worker_hijack_root_logger=False,
)


@app.task(name="tick")
def tick(due: float) -> None:
    late.append(time.time() - due)
    if len(late) == wanted.number:
        with os.fdopen(handing_over, "w") as pipe:
            print(json.dumps(late), file=pipe)


@worker_ready.connect
def looks_for_work(**_: object) -> None:
    begins()


def wait_for_the_child() -> None:
    with os.fdopen(receiving) as pipe:
        late.extend(json.loads(pipe.readline() or "[]"))
    time.sleep(SETTLING_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    with app.producer_pool.acquire() as producer:
        for due in wanted.due():
            tick.apply_async((due,), eta=datetime.fromtimestamp(due, UTC), producer=producer)
    wanted.all_scheduled()
    threading.Thread(target=wait_for_the_child, daemon=True).start()
    worker = app.Worker(
        pool="prefork",
        concurrency=1,
        optimization="fair",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    ended(late)


if __name__ == "__main__":
    main()
