"""Deployments as the API server holds them at points of their lives."""


def deployment(
    wanted=1,
    *,
    updated=0,
    there=None,
    ready=None,
    available=None,
    observed=2,
    reason="",
    trouble="",
    progressed_at="",
):
    """Of generation 2. *there* counts those of before as well; all that are updated are ready, if nothing is said."""
    up = updated if available is None else available
    status = {
        "observedGeneration": observed,
        "replicas": updated if there is None else there,
        "updatedReplicas": updated,
        "readyReplicas": up if ready is None else ready,
        "availableReplicas": up,
        "conditions": [],
    }
    if reason:
        status["conditions"].append({"type": "Progressing", "status": "True", "reason": reason})
    if progressed_at:
        status["conditions"].append(
            {
                "type": "Progressing",
                "status": "True",
                "reason": "ReplicaSetUpdated",
                "lastUpdateTime": progressed_at,
            }
        )
    if trouble:
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": trouble}
        status["conditions"].append(failure)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "pyncette-reports", "namespace": "shop", "generation": 2},
        "spec": {"replicas": wanted},
        # The API server leaves out what is 0.
        "status": {name: value for name, value in status.items() if value},
    }


COMPLETE = "NewReplicaSetAvailable"
LATE = "ProgressDeadlineExceeded"

NEW = deployment(observed=0)
STARTING = deployment(updated=1, available=0, reason="ReplicaSetUpdated")
DONE = deployment(updated=1, reason=COMPLETE)
NONE = deployment(0, reason=COMPLETE)

ROLLING_OUT = {
    "a Deployment that nobody has looked at": NEW,
    "an edit that nobody has looked at": deployment(updated=1, observed=1, reason=COMPLETE),
    "no worker of this template": deployment(3, there=3, available=3),
    "some workers of this template": deployment(3, updated=2, there=4),
    "workers of before that are left": deployment(3, updated=3, there=4),
    "workers that are not available": deployment(3, updated=3, available=2),
    "one worker that starts": STARTING,
    "workers that are too many": deployment(0, there=1),
    "a deadline that has passed": deployment(updated=1, reason=LATE),
}

ROLLED_OUT = {
    "one worker": DONE,
    "no worker": NONE,
    "three workers": deployment(3, updated=3, reason=COMPLETE),
    "a Deployment that says nothing of progress": deployment(updated=1),
    "more workers than are wanted, all of this template": deployment(1, updated=2, there=2),
}
