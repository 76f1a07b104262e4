"""Makes docs/reference/conditions.md from the reasons that conditions and Events give."""

from pyncette.clock import SECOND
from pyncette.controller.reasons import Reason
from pyncette.controller.status import pool_phase, pool_status, task_status
from pyncette.controller.status.events import WINDOW
from pyncette.controller.status.task_phase import PENDING_MAX, SETTLING

HEAD = """\
<!-- Made from the code by `make generate`. -->

# Conditions and Events

`kubectl describe pyncettetask NAME` and `kubectl describe pyncetteworkerpool NAME` show both. A condition is the current
state of an object: its status, a reason for programs, a message for people, and the time since when it has this status. An
Event reports a change, and is deleted after about an hour.

## Conditions of a PyncetteTask

| condition | True when |
|---|---|
"""

KSTATUS = f"""
`Reconciling` and `Stalled` are listed only while they are true, as in
[kstatus](https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus), which Flux and others use: `Stalled` is *Failed*,
`Reconciling` is *InProgress*, and otherwise the object is *Current*.

The operator waits for a handler that no worker has registered: up to {PENDING_MAX // SECOND // 60} minutes while the pool is rolled out, has no
worker yet, or does not exist; {SETTLING // SECOND} seconds while its workers run and nothing is rolled out. So a task and the image with its
handler can be changed in one commit. When a worker registers the handler, the task recovers automatically. A task that is
suspended or completed needs no handler.

Once a generation is in the backend, an outage of the backend or missing workers do not make its task unready: those are
conditions of the pool.
"""

POOLS_HEAD = """
## Conditions of a PyncetteWorkerPool

| condition | True when |
|---|---|
"""

POOLS = f"""
A rollout is complete when `kubectl rollout status` of the pool's Deployment is. After `progressDeadlineSeconds` it is stalled, and
so are workers that were ready and have not been for as long, unless the backend is unavailable. The operator cannot read pods
and Secrets, so the message says what to check.

Workers that are ready have {pool_phase.SETTLING // SECOND} seconds to register. If none does, their Secret points to another database than the
operator's. A pool whose workers you start yourself (`external`) is neither stalled nor in progress without a worker: its
`Ready` is Unknown.
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

Events report transitions of tasks:

- A task is stalled or has recovered, waits for its backend, its handler or its move, or is suspended, resumed or completed.
- Its runs begin to fail, or succeed again. Its first occurrence is dead-lettered.
- A request by annotation was handled.

They do not report each run, the end of a wait, or a new task, unless it is stalled. Events of pools are similar: stalled, workers
that fail later, rolled out, scaled to zero, the backend unavailable and available again, a copied database. The same Event is sent at most once in
{WINDOW // SECOND // 60} minutes.
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
