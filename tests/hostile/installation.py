"""One operator on a real API server, with two teams on honest databases, and a team for each kind of hostile database."""

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pyncette.coordination.identity import IDENTITY_REALM
from pyncette.coordination.members import MEMBERS_REALM
from pyncette.core.record import Partition
from pyncette.store.backend import read_backend
from tests.apiserver.operating import CLUSTER, HANDLER, LIMIT_MIB, OperatorProcess, Process, pool, task
from tests.hostile.lying import ENTRY_POINTS, FOLDER_VARIABLE, KINDS, PREFIX
from tests.hostile.raw_rows import RawDatabase

ROOT = Path(__file__).resolve().parents[2]

OBSERVED_SECONDS_MAX = 10.0
"""It takes a tenth of a second; the machine of the tests may be busy."""

RECOVERED_SECONDS_MAX = 60.0
"""A backend that was unavailable is tried again after 15 seconds at the latest."""

NOTICED_SECONDS_MAX = 150.0
"""Scans take at most a twentieth of the time, and one takes seconds while the machine is busy."""

OWN = "own"
"""The task of each attacker."""

PROOFS = Partition(IDENTITY_REALM, "proof")
"""Values by which the operator recognizes a database, for a moment."""

TASKS = ("payroll", "moving", "report")
"""The tasks of each victim."""

MODULE = f'''\
import json, os
from pyncette import Context, Pyncette

app = Pyncette()


@app.handler("{HANDLER}")
async def send(context: Context) -> None:
    """Write down the arguments."""
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(json.dumps(context.args) + "\\n")
'''


class Team(NamedTuple):
    """A namespace, its backend, and the database behind that."""

    namespace: str
    backend: str
    raw: RawDatabase

    @property
    def url(self):
        return self.raw.url

    @property
    def realm(self):
        return f"{CLUSTER}/{self.namespace}/default"


class Installation:
    """
    The operator, its teams, and what is measured of them.

    *shop* is a team that may use the databases of the attackers, too, and *bank* one that may not. The *archive* is another
    database of *shop*, to which its tasks move. *attackers* are teams by the kinds of their databases.
    """

    def __init__(self, folder, apiserver, shop, bank, archive, attackers):
        self.folder = folder
        self.shop, self.bank, self.archive, self.attackers = shop, bank, archive, attackers
        self._client = apiserver.admin
        (folder / "hostile.dist-info").mkdir()
        (folder / "hostile.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
        (folder / "sending.py").write_text(MODULE)
        (folder / "realms").write_text("")
        self._tell("Honest")
        backends = [
            self._backend(shop.backend, shop.url, shop.namespace),
            self._backend(archive.backend, archive.url, shop.namespace),
            self._backend(bank.backend, bank.url, bank.namespace),
            *(
                self._backend(team.backend, PREFIX + team.url, team.namespace, shop.namespace)
                for team in attackers.values()
            ),
        ]
        self.operator = OperatorProcess(
            folder,
            apiserver.kubeconfig,
            "sqlite://",
            environment={
                FOLDER_VARIABLE: str(folder),
                "PYTHONPATH": os.pathsep.join(
                    filter(None, (str(folder), str(ROOT), os.environ.get("PYTHONPATH")))
                ),
            },
            backends=backends,
            namespaces=[team.namespace for team in self.teams],
        )
        self._workers = [self._worker(team) for team in self.victims]

    @property
    def teams(self):
        return [*self.victims, *self.attackers.values()]

    @property
    def victims(self):
        return [self.shop, self.bank]

    @property
    def now(self):
        return time.time_ns() // 1000

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.operator)
            for worker in self._workers:
                stack.enter_context(worker)
            for team in self.teams:
                self._create(
                    team, pool() | {"spec": {"external": True, "backendRef": {"name": team.backend}}}
                )
            archive = pool() | {"spec": {"external": True, "backendRef": {"name": self.archive.backend}}}
            self._create(self.shop, archive | {"metadata": {"name": "archive"}})
            for team in self.victims:
                for name in TASKS:
                    self._create(team, task(name, args={"to": "staff"}))
            for team in self.attackers.values():
                self._create(team, task(OWN))
            until(lambda: all(self.is_settled(team) for team in self.teams), 90, self._complaint)
            stack.pop_all()
        return self

    def __exit__(self, *error):
        for process in (*self._workers, self.operator):
            process.__exit__(*error)

    # --- Lies --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def told(self, lie, least=2):
        """Have all attackers tell *lie* until the end of the block; each has told it some times when the block begins."""
        self._tell(lie)
        try:
            self._edit_attackers()
            until(lambda: all(self._times(kind) >= least for kind in KINDS), 60, self._complaint)
            yield
        finally:
            self._tell("Honest")

    @contextlib.contextmanager
    def told_from_the_start(self, lie, least):
        """Like `told`, by databases that lie when the operator starts; it starts again after the block."""
        self.operator.stop()
        self._tell(lie)
        self.operator.start()
        try:
            with self.told(lie, least):
                yield
        finally:
            self.operator.stop()
            self.operator.start()

    @contextlib.contextmanager
    def written(self, rows_of):
        """Have all attackers write the rows of *rows_of*, called with each team; they are gone after the block."""
        with self.kept():
            for team in self.attackers.values():
                team.raw.insert(rows_of(team))
            self.noticed()
            yield

    @contextlib.contextmanager
    def kept(self):
        """Put the rows of all attackers back at the end of the block."""
        for team in self.attackers.values():
            team.raw.keep()
        try:
            yield
        finally:
            for team in self.attackers.values():
                team.raw.restore()

    def noticed(self):
        """Wait until each database of an attacker was scanned twice, or is unavailable: then its rows are known."""
        before = {kind: self._scans(kind) for kind in KINDS}

        def is_noticed(kind):
            is_up = self.operator.metrics()["backend_up", self.attackers[kind].backend]
            return not is_up or self._scans(kind) >= before[kind] + 2

        until(lambda: all(map(is_noticed, KINDS)), NOTICED_SECONDS_MAX, self._complaint)

    def _tell(self, lie):
        for kind in KINDS:
            (self.folder / kind).write_bytes(b"")
        (self.folder / "lie.new").write_text(lie)
        (self.folder / "lie.new").rename(self.folder / "lie")

    def _times(self, kind):
        return (self.folder / kind).stat().st_size

    def _scans(self, kind):
        return self.operator.metrics()["backend_duration_seconds_count", self.attackers[kind].backend, "look"]

    # --- What must not change ----------------------------------------------------------------------------------------

    def records(self, team):
        """Return all records of the database of *team*, by their keys, but for those that come and go by themselves."""
        return asyncio.run(all_records(team.url, team.raw.realms()))

    def runs(self):
        """Return the arguments of all runs of the victims."""
        found = []
        for team in self.victims:
            with contextlib.suppress(FileNotFoundError):
                found += map(json.loads, (self.folder / f"{team.namespace}.runs").read_text().splitlines())
        return found

    def edit(self, team, name, **spec):
        """Change a task, wait until that is observed, and return the seconds that it took."""
        began = time.monotonic()
        generation = self._patch(team, name, {"spec": spec})["metadata"]["generation"]
        until(lambda: self._observed(team, name) == generation, 30, self._complaint)
        return time.monotonic() - began

    def create(self, team, name, **spec):
        self._create(team, task(name, **spec))
        until(lambda: self._observed(team, name) == 1, 30, self._complaint)

    def delete(self, team, name):
        self._client.delete(self._named(team, name))

    def request_run(self, team, name):
        """Request a run, and wait until it has ended."""
        before = len(self.runs())
        self._patch(team, name, {"metadata": {"annotations": {"pyncette.dev/run-requested-at": str(before)}}})
        until(lambda: len(self.runs()) > before, 30, self._complaint)

    def status(self, team, name):
        return self._client.read(self._named(team, name)).get("status", {})

    def is_settled(self, team):
        return all(self._observed(team, name) for name in (TASKS if team in self.victims else (OWN,)))

    def check_operator(self):
        """Fail unless the operator lives, and has stayed within its memory."""
        self.operator.check()
        assert self.operator.peak_mib() < LIMIT_MIB

    def recover(self):
        """Wait until the attackers' own tasks are observed again, which tell no lies any more."""
        wanted = self._edit_attackers()
        until(
            lambda: all(self._observed(self.attackers[kind], OWN) == wanted[kind] for kind in KINDS),
            RECOVERED_SECONDS_MAX,
            self._complaint,
        )

    def until_foreign_realms_are_counted(self):
        """Wait until the operator has counted the one realm on each hostile database that is not open to its namespace."""
        wanted = {team.backend: 0.0 for team in self.victims} | {
            team.backend: 1.0 for team in self.attackers.values()
        }
        until(lambda: self.foreign_realms() == wanted, 60, self._complaint)

    def until_copies_are_reported(self):
        """Wait until each hostile database counts as a copy of another one."""
        backends = [team.backend for team in self.attackers.values()]
        until(
            lambda: all(self.operator.metrics()["database_copied", name] for name in backends),
            60,
            self._complaint,
        )

    def until_moved(self, before, after, name):
        """Wait until the record of a task is on the database of the team *after*, and no more on that of *before*."""

        def is_moved():
            old, new = ({key.task for key in self.records(team)} for team in (before, after))
            return name not in old and name in new

        until(is_moved, 60, self._complaint)

    def foreign_realms(self):
        """Return how many foreign realms the operator has counted on each backend."""
        found = self.operator.metrics()
        return {team.backend: found["foreign_realms", team.backend] for team in self.teams}

    def events(self, team, reason):
        return [
            event["note"]
            for event in self._client.list("events.k8s.io/v1", "Event", team.namespace)
            if event["reason"] == reason
        ]

    # --- Objects -----------------------------------------------------------------------------------------------------

    def _edit_attackers(self):
        return {
            kind: self._patch(team, OWN, {"spec": {"args": {"at": self.now}}})["metadata"]["generation"]
            for kind, team in self.attackers.items()
        }

    def _observed(self, team, name):
        """Return the generation of a task that its status reports as written to its record."""
        status = self.status(team, name)
        is_written = any(
            (condition["type"], condition["status"]) == ("Scheduled", "True")
            for condition in status.get("conditions", ())
        )
        return status["observedGeneration"] if is_written else None

    def _create(self, team, manifest):
        metadata = {**manifest["metadata"], "namespace": team.namespace}
        self._client.create({**manifest, "metadata": metadata})

    def _patch(self, team, name, change):
        return self._client.patch(self._named(team, name), change)

    def _named(self, team, name):
        return {**task(name), "metadata": {"name": name, "namespace": team.namespace}}

    def _backend(self, name, url, *namespaces):
        (self.folder / f"{name}.url").write_text(url)
        return {
            "name": name,
            "urlFile": str(self.folder / f"{name}.url"),
            "namespaces": list(namespaces),
            "tls": "Disabled",
        }

    def _worker(self, team):
        environment = {
            "PYNCETTE_BACKEND": team.url,
            "PYNCETTE_REALM": team.realm,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH")))),
            "RUNS": str(self.folder / f"{team.namespace}.runs"),
        }
        command = (sys.executable, "-m", "pyncette.cli", "worker", "sending")
        return Process(command, self.folder / f"{team.namespace}.log", environment)

    def _complaint(self):
        self.operator.check()
        return self.operator.log.read_text(errors="replace")[-4000:]


async def all_records(url, realms):
    found = {}
    async with read_backend(url).new_store(create=False) as store:
        for realm in realms:
            for partition in await store.partitions(realm) if realm != MEMBERS_REALM else ():
                if partition == PROOFS:
                    continue
                after = None
                while page := await store.scan(partition, None, after, 500):
                    found |= {record.key: record for record in page}
                    after = page[-1].key
    return found


def until(holds, seconds, why, pause=0.1):
    """Return once it *holds*; fail with *why* after *seconds*."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, why()
        time.sleep(pause)
