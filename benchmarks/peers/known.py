"""What a user may pick instead of us: in which version, with which settings, and what each keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.peers.environments import (
    Command,
    db_scheduler_program,
    node_program,
    python_program,
    river_program,
)


class Peer(NamedTuple):
    """
    A program that runs jobs when they are due, and how it is measured.

    *drained* is what it drains in three to six seconds, *scheduled_a_second* what scheduling surely reaches. *keeps* has a
    sentence for each of KEPT. The worker is started *ahead* seconds before the due instant, and its CPU counted from then on:
    enough for what it does with jobs before they are due, and no more, since polling costs CPU too.
    """

    name: str
    version: str
    store: str
    settings: str
    page: str
    program: Callable[[], Command]
    drained: int
    scheduled_a_second: int
    keeps: tuple[str, ...]
    ahead: float = 1


KEPT = (
    "a schedule with a time zone, for each item",
    "a renewed lease for each run",
    "after a crash of the worker",
    "history of runs",
    "scheduling in bulk",
)
"""What a peer keeps or does not: heads of the table."""

OURS_KEEPS = (
    "yes",
    "yes",
    "another worker takes over when the lease expires",
    "yes, if enabled",
    "yes",
)

_APSCHEDULER = partial(python_program, "apscheduler_peer.py", "peers")
_APSCHEDULER_PAGE = "https://apscheduler.readthedocs.io/en/3.x/userguide.html"
_APSCHEDULER_SETTINGS = "asyncio on uvloop, `misfire_grace_time` none"
_ITS_OWN_SCHEDULER = "no: one process owns the store"

PEERS = (
    Peer(
        "graphile-worker",
        "0.18.0",
        "postgres",
        "`concurrentJobs` 24, `localQueue.size` 500, `completeJobBatchDelay` 0, `pollInterval` 10 ms (2 s by default)",
        "https://worker.graphile.org/docs/performance",
        partial(node_program, "graphile_worker.mjs"),
        drained=150_000,
        scheduled_a_second=10_000,
        keeps=(
            "no: one crontab for all, in UTC",
            "no: locked for 4 hours",
            "runs again after 4 hours",
            "no: finished rows are deleted",
            "yes",
        ),
    ),
    Peer(
        "River",
        "0.51.2",
        "postgres",
        "those of `river bench`: `MaxWorkers` 2,000, `FetchCooldown` 2 ms, `FetchPollInterval` 20 ms",
        "https://riverqueue.com/docs/benchmarks",
        river_program,
        drained=60_000,
        scheduled_a_second=8_000,
        keeps=(
            "no: the program defines the periodic jobs",
            "no: rescued after an hour",
            "runs again after an hour",
            "yes, for a day",
            "yes",
        ),
        # Its leader looks ahead 5 s, and takes 10,000 at a time.
        ahead=9.5,
    ),
    Peer(
        "db-scheduler",
        "16.12.0",
        "postgres",
        "20 threads, `pollUsingLockAndFetch(4.0, 20.0)`, polling every 10 ms (10 s by default), `reWriteBatchedInserts`",
        "https://github.com/kagkarlsson/db-scheduler/blob/master/docs/performance.md",
        db_scheduler_program,
        drained=25_000,
        scheduled_a_second=4_000,
        keeps=(
            "yes, if the program stores the schedule with its data",
            "yes: a heartbeat every 5 min",
            "another worker takes over after 6 missed heartbeats, 30 min",
            "no: for recurring tasks, the last success and failure",
            "yes",
        ),
    ),
    Peer(
        "APScheduler, PostgreSQL",
        "3.11.3",
        "postgres",
        _APSCHEDULER_SETTINGS,
        _APSCHEDULER_PAGE,
        _APSCHEDULER,
        drained=3_000,
        scheduled_a_second=200,
        keeps=("yes", _ITS_OWN_SCHEDULER, "lost: deleted from the table before it has run", "no", "no"),
    ),
    Peer(
        "BullMQ",
        "6.7.0",
        "redis",
        "`concurrency` 100, `removeOnComplete`, `addBulk`; its waits are as precise as the `hz` setting of the server, 10 by default",
        "https://docs.bullmq.io/guide/workers/concurrency",
        partial(node_program, "bullmq.mjs"),
        drained=30_000,
        scheduled_a_second=3_000,
        keeps=(
            "yes: job schedulers",
            "yes: 30 s",
            "another worker takes over after 30 to 60 s",
            "yes, unless removed as here",
            "yes",
        ),
    ),
    Peer(
        "arq",
        "0.28.0",
        "redis",
        "`max_jobs` 100, `poll_delay` 5 ms (500 ms by default), `queue_read_limit` 500, `keep_result` 0, uvloop",
        "https://arq-docs.helpmanual.io/",
        partial(python_program, "arq_peer.py", "peers-arq"),
        drained=10_000,
        scheduled_a_second=700,
        keeps=(
            "no: the program defines the crons",
            "no: locked for `job_timeout`",
            "runs again after `job_timeout`, 310 s by default",
            "results, unless disabled as here",
            "no",
        ),
    ),
    Peer(
        "Celery with eta",
        "5.7.0",
        "redis",
        "prefork of 1, `worker_prefetch_multiplier` 128, `task_ignore_result`, early acknowledgement, no gossip, mingle or heartbeat",
        "https://docs.celeryq.dev/en/stable/userguide/optimizing.html",
        partial(python_program, "celery_peer.py", "peers"),
        drained=6_000,
        scheduled_a_second=500,
        keeps=(
            "no: one beat process, one time zone",
            "no: a visibility timeout of an hour; tasks due later than that may run twice",
            "lost once started, unless `acks_late`",
            "results, unless disabled as here",
            "no",
        ),
        # It comes up in some seconds, and receives all that is to come.
        ahead=12,
    ),
    Peer(
        "APScheduler, memory",
        "3.11.3",
        "redis",
        _APSCHEDULER_SETTINGS,
        _APSCHEDULER_PAGE,
        _APSCHEDULER,
        drained=30_000,
        scheduled_a_second=4_000,
        keeps=("yes", _ITS_OWN_SCHEDULER, "everything is lost", "no", "no"),
    ),
)


def beside(store: str) -> list[Peer]:
    """The peers that are measured with *store*; what keeps its jobs in memory counts with Redis."""
    return [peer for peer in PEERS if peer.store == store]
