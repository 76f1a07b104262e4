"""Makes docs/reference/conditions.md from the reasons that conditions and Events give."""

from pyncette.clock import SECOND
from pyncette.controller.reasons import Reason
from pyncette.controller.status import pool_phase, pool_status, task_status
from pyncette.controller.status.events import WINDOW
from pyncette.controller.status.task_phase import PENDING_MAX, SETTLING

HEAD = """\
<!-- Made from the code by `make generate`. -->

# Conditions and Events

`kubectl describe pyncettetask NAME` shows both, and so does `kubectl describe pyncetteworkerpool NAME`. A condition says how an object stands now: its status, a reason for programs, a message for
people, and since when the status has been so. An Event tells of a change, and is gone after an hour or so.

## Conditions of a PyncetteTask

| condition | True when |
|---|---|
"""

KSTATUS = f"""
`Reconciling` and `Stalled` are in the list only while they are true, as [kstatus](https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus)
has it, which Flux and others read: `Stalled` is *Failed*, `Reconciling` is *InProgress*, and without both, *Current*.

A handler that no worker has registered is waited for: up to {PENDING_MAX // SECOND // 60} minutes while the pool is being rolled out, has no worker yet, or is not there; {SETTLING // SECOND} seconds
while its workers run and nothing is rolled out. So a task and the image with its handler can be changed in one commit. Whenever a worker registers it, the
task is well by itself. A task that is suspended or over needs no handler.

Once a generation is in the backend, neither an outage of that nor workers that are gone make its task unready: those are conditions of the pool.
"""

POOLS_HEAD = """
## Conditions of a PyncetteWorkerPool

| condition | True when |
|---|---|
"""

POOLS = f"""
A rollout is over when `kubectl rollout status` says so of the pool's Deployment. Past `progressDeadlineSeconds` it is stalled; so are workers that were
ready and have not been for as long, unless the backend is away. The operator sees neither pods nor Secrets, so the message says what to look at.

Workers that are ready have {pool_phase.SETTLING // SECOND} seconds to register. If none does, their Secret points to another database than the operator's. A pool without a
worker that others start (`external`) is neither stalled nor on its way: its `Ready` is Unknown.
"""

REASONS_TITLE = """
## Reasons

"""

REASONS_HEAD = """\
| reason | Event | meaning |
|---|---|---|
"""

EVENTS = f"""
## Events

Events tell of transitions: that a task got stuck or is well again, waits for its backend, its handler or its move, is suspended, goes on, or is over; that
its runs began to fail, or succeed again; that the first occurrence was dead-lettered; that something asked for by annotation was done. They do not tell of each run, nor that a wait is over, nor
of a task that is seen for the first time, unless it is stuck. Of pools they tell alike: stuck, workers that fail later, rolled out, scaled to zero, the backend away
and back. The same is told once in {WINDOW // SECOND // 60} minutes.
"""


def conditions_reference() -> str:
    """Return the page."""
    tasks, pools = (
        "".join(f"| `{name}` | {meaning} |\n" for name, meaning in module.CONDITIONS.items())
        for module in (task_status, pool_status)
    )
    reasons = "".join(
        f"| `{reason.value}` | {reason.event or '–'} | {reason.meaning} |\n"
        for reason in sorted(Reason, key=lambda reason: reason.value)
    )
    return (
        HEAD + tasks + KSTATUS + POOLS_HEAD + pools + POOLS + REASONS_TITLE + REASONS_HEAD + reasons + EVENTS
    )
