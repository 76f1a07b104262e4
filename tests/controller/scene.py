"""What the tests of a task's status share: a task that is looked at again and again while its world changes."""

from datetime import UTC, datetime

from pyncette.clock import SECOND
from pyncette.controller.status.observed import ObservedPool, ObservedTask
from pyncette.controller.status.task_context import StoredTask
from pyncette.controller.status.task_status import status_of_task
from pyncette.coordination.members import Member
from pyncette.core import edits
from pyncette.core.accounting import Verdict, with_verdict
from pyncette.core.record import Lease, Outcome, Owner, replace
from pyncette.core.times import instant_of
from pyncette.mirror.conversion import spec_hash, to_key, to_spec
from pyncette.resources.reading import Refusal, read_stored
from pyncette.resources.task import PyncetteTask
from pyncette.resources.task_status import TaskStatus
from tests.controller.kstatus import kstatus
from tests.resources import manifest

MINUTE = 60 * SECOND
EIGHT = instant_of(datetime(2030, 1, 1, 8, 0, tzinfo=UTC))
KNOWING = Member("worker-1", handlers=("send", "tidy_up"))
OTHERS = Member("worker-2", handlers=("sent",))
POOL = ObservedPool("default", wanted=1, members=(KNOWING,))
NO_WORKERS = POOL._replace(members=())


class Scene:
    """A task in the cluster, its pool and its record; `look` is one pass of the operator, whose status is stored."""

    def __init__(self, **spec):
        self.now = EIGHT
        self.generation = 0
        self.uid = "uid-1"
        self.deleting = False
        self.pool = POOL
        self.record = None
        self.observed = ObservedTask()
        self.status = TaskStatus()
        self.again_at = None
        self.edit(**spec)

    def edit(self, **spec):
        """Apply another spec; it is not mirrored by that."""
        times = {"schedule", "intervalSeconds", "executeAt", "dynamic"}
        due = {} if times & spec.keys() else {"intervalSeconds": 60}
        self.spec = {"handler": "send"} | due | spec
        self.generation += 1
        return self

    @property
    def task(self):
        return read_stored(PyncetteTask, manifest(**self.spec))

    def mirror(self):
        """Write this generation to the backend."""
        task = self.task
        assert not isinstance(task, Refusal), task
        spec = to_spec(task)
        owner = Owner(self.uid, self.generation, spec_hash(spec))
        if self.record is None:
            self.record = edits.created(
                to_key(task, "prod/shop/default"),
                spec,
                spec.policies,
                self.now,
                owner=owner,
                requested_at=EIGHT,
            )
        else:
            self.record = edits.edited(self.record, spec, spec.policies, self.now, owner=owner)
        return self

    def ended(self, outcome, message="", **state):
        """Have an occurrence end."""
        verdict = Verdict(outcome, self.record.due_at, self.now, self.now, 1, "worker-1", message)
        summary = with_verdict(self.record.state.summary, verdict)
        self.record = replace(self.record, state=replace(self.record.state, summary=summary, **state))
        return self

    def failed(self, message="ValueError: no", **state):
        return self.ended(Outcome.FAILED, message, **state)

    def finished(self):
        """Have its last occurrence succeed."""
        self.ended(Outcome.SUCCEEDED)
        self.record = replace(self.record, due_at=None, claimable_at=None)
        return self

    def claimed(self):
        lease = Lease("lease", "worker-1", self.now + MINUTE)
        self.record = replace(
            self.record,
            version=self.record.version + 1,
            attempt=1,
            began_at=self.now,
            claimable_at=self.now + MINUTE,
            lease=lease,
        )
        return self

    def to_pool(self, **facts):
        self.pool = self.pool._replace(**facts)
        return self

    def later(self, duration=SECOND):
        self.now += duration
        return self

    def look(self):
        """One pass: what was stored is read back as the API server has it."""
        meta = {"uid": self.uid, "generation": self.generation}
        if self.deleting:
            meta["deletionTimestamp"] = "2030-01-01T08:00:00Z"
        seen = StoredTask.of({"metadata": meta, "spec": self.spec}, self.status)
        facts = self.observed._replace(record=self.record, now=self.now)
        told = status_of_task(self.task, seen, self.pool, facts)
        self.again_at = told.again_at
        self.status = TaskStatus.model_validate(stored(told.status), by_alias=True, by_name=False)
        return self

    def said(self, kind):
        """A condition as text: its status and its reason; None if it is not in the list."""
        condition = self.condition(kind)
        return condition and f"{condition.status} {condition.reason}"

    def condition(self, kind):
        return next((item for item in self.status.conditions if item.type == kind), None)

    @property
    def ready(self):
        return self.said("Ready")

    @property
    def seen_by_flux(self):
        metadata = {"generation": self.generation}
        if self.deleting:
            metadata["deletionTimestamp"] = "2030-01-01T08:00:00Z"
        return kstatus({"metadata": metadata, "status": stored(self.status)})


def stored(status):
    """*status* as the API server holds it."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
