"""
A team floods the operator in all ways that it can, on a real API server, while another team edits its tasks.

The flood is what the role `edit` and the credential of a database allow: it neither ends nor pauses until all edits are
measured. The number of its tasks is in the variable PYNCETTE_FLOOD_TASKS; the API server takes some minutes for many more:

    PYNCETTE_FLOOD_TASKS=10000 pytest -m cluster tests/hostile/test_floods.py
"""

import asyncio
import json
import os
import sqlite3
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import cycle

import pytest
import yaml

from pyncette.coordination.members import migrate
from pyncette.resources.arguments import ARGS_BYTES_MAX, ARGS_KEYS_MAX
from pyncette.store.backend import read_backend
from tests.apiserver.operating import LIMIT_MIB, POOL, Crowd, OperatorProcess, name_of, pool, until
from tests.chart.rendering import CHART
from tests.servers.kubernetes_client import Client

TASKS = int(os.environ.get("PYNCETTE_FLOOD_TASKS", "2000"))

BUSY, LARGE = 500, 60
"""Numbers of tasks in the flood: edited without pause, and as large as the API server accepts."""

ROWS, ROW_BYTES = 500, 1_000_000

EDITS, LANES = 200, 4
"""Numbers of edits of the other team: in all, and at once. Concurrent edits are of different tasks."""

SECONDS_MAX = 5.0
"""Time limit at the 99th percentile for an edit to be observed, without the latency of the API server."""

BESIDE_SECONDS = 0.1
"""Pause between two edits of the ConfigMap that measures the latency of the API server."""

PATIENCE_SECONDS = 180

pytestmark = pytest.mark.timeout(900)

DEEP = '{"a":' * 9_980 + "1" + "}" * 9_980
"""A value with nearly as many nested levels as the API server accepts."""

LARGEST = {f"{number:02}": "x" * ARGS_BYTES_MAX for number in range(ARGS_KEYS_MAX)}
"""One MiB."""

EDITOR = [
    {"apiGroups": ["pyncette.dev"], "resources": ["pyncettetasks", "pyncetteworkerpools"], "verbs": ["*"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]},
]


@dataclass
class Team:
    """A tenant with a namespace and a database of its own."""

    namespace: str
    client: Client
    crowd: Crowd
    database: str

    def pool(self, name, **spec):
        given = pool()
        return {
            **given,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**given["spec"], **spec},
        }

    def flood_database(self):
        """Copy a record of its own hundreds of times, each a megabyte long, as anyone with the credential can."""
        with sqlite3.connect(self.database, timeout=60) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(pyncette_tasks)")][1:]
            kept = ", ".join(name for name in columns if name not in {"task", "spec"})
            query = f"SELECT spec FROM pyncette_tasks WHERE task = '{name_of(0)}' LIMIT 1"
            (spec,) = connection.execute(query).fetchone()
            spec = json.dumps({**json.loads(spec), "args": {"k": "x" * ROW_BYTES}})
            connection.executemany(
                f"INSERT INTO pyncette_tasks ({kept}, task, spec) SELECT {kept}, ?, ? FROM pyncette_tasks "
                f"WHERE task = '{name_of(0)}' LIMIT 1",
                [(f"row-{number}", spec) for number in range(ROWS)],
            )

    async def flood(self):
        """Edit without pause, from many connections, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in range(8):
                group.create_task(
                    self._edit_without_pause(range(lane, BUSY, 8), lambda turn: {"turn": str(turn)})
                )
            group.create_task(self._edit_without_pause(range(TASKS, TASKS + LARGE), self._largest))

    async def _edit_without_pause(self, numbers, args):
        for turn, number in enumerate(cycle(numbers)):
            await self.crowd.edit(name_of(number), args=args(turn))

    def _largest(self, turn):
        return {**LARGEST, "00": f"{turn}"}


@asynccontextmanager
async def teams(apiserver, folder):
    """An operator with the rights of the chart, two teams, and a database for each."""
    async with AsyncExitStack() as stack:
        found, backends = [], []
        for name in ("noisy", "quiet"):
            namespace = stack.enter_context(apiserver.fresh_namespace())
            account = apiserver.account(namespace, rules=EDITOR)
            crowd = await stack.enter_async_context(Crowd.of(apiserver, namespace, account.token))
            team = Team(namespace, account.client, crowd, f"{folder}/{name}.db")
            (folder / f"{name}.url").write_text(f"sqlite:///{team.database}")
            await migrate(read_backend(f"sqlite:///{team.database}"))
            backends.append({"name": name, "urlFile": str(folder / f"{name}.url"), "namespaces": [namespace]})
            account.client.create(team.pool(POOL, backendRef={"name": name}))
            found.append(team)
        rules = yaml.safe_load((CHART / "files" / "permissions.yaml").read_text())
        account = apiserver.account(
            found[1].namespace, cluster_rules=[rule for scope in rules.values() for rule in scope]
        )
        operator = OperatorProcess(
            folder, account.kubeconfig, "", backends=backends, namespaces=[team.namespace for team in found]
        )
        stack.enter_context(operator)
        yield operator, *found


async def observed(team, number, generation):
    """Wait until a task of *team* was observed in that *generation*."""

    async def is_observed():
        status = (await team.crowd.get(name_of(number))).get("status", {})
        return status.get("observedGeneration", 0) >= generation

    await until(is_observed, PATIENCE_SECONDS, pause=0.05)


async def edited(team, watched, lane, number):
    """
    Edit a task, and return the seconds until the edit was observed.

    Subtract the latency of the API server: the time until a watch of another client shows the edit, and the slowest
    concurrent edit of an object that no operator observes.
    """
    async with slowest_beside(team, lane) as slowest:
        metadata = await team.crowd.edit(name_of(lane), args={"edit": str(number)})
        shown_at = await watched.shown(metadata)
        await observed(team, lane, metadata["generation"])
        observed_at = time.monotonic()
    return max(0.0, observed_at - shown_at - slowest())


class Watched:
    """The times at which a watch of another client showed each edit of a crowd."""

    def __init__(self):
        self._shown_at = {}
        self._changed = asyncio.Condition()

    async def run(self, crowd):
        async for task in crowd.changes():
            metadata = task["metadata"]
            async with self._changed:
                self._shown_at.setdefault((metadata["name"], metadata["generation"]), time.monotonic())
                self._changed.notify_all()

    async def shown(self, metadata):
        """Wait until the watch shows that generation, and return the time at which it did."""
        edit = (metadata["name"], metadata["generation"])
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: edit in self._shown_at)
        return self._shown_at[edit]


def beside(lane):
    return f"beside-{lane}"


@asynccontextmanager
async def slowest_beside(team, lane):
    """Edit a ConfigMap repeatedly, and yield a function that returns the seconds of the slowest edit."""
    took, done = [], asyncio.Event()

    async def edit():
        while not done.is_set():
            started_at = time.monotonic()
            await team.crowd.edit_config_map(beside(lane), edit=str(started_at))
            took.append(time.monotonic() - started_at)
            await asyncio.sleep(BESIDE_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(edit())
        yield lambda: max(took)
        done.set()


async def test_an_edit_is_observed_within_seconds_while_another_team_floods_the_operator(apiserver, tmp_path):
    async with teams(apiserver, tmp_path) as (operator, noisy, quiet):
        for lane in range(LANES):
            metadata = {"name": beside(lane), "namespace": quiet.namespace}
            apiserver.admin.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        await quiet.crowd.create(range(LANES))
        await noisy.crowd.create(range(TASKS))
        await noisy.crowd.create(range(TASKS, TASKS + LARGE), args=LARGEST)
        await asyncio.gather(*(observed(team, 0, 1) for team in (noisy, quiet)))
        await asyncio.to_thread(noisy.flood_database)
        watched = Watched()
        watch = asyncio.create_task(watched.run(quiet.crowd))
        flood = asyncio.create_task(noisy.flood())

        async def edits(lane):
            return [await edited(quiet, watched, lane, number) for number in range(EDITS // LANES)]

        lanes = await asyncio.gather(*map(edits, range(LANES)))
        flooded = not flood.done()
        flood.cancel()
        watch.cancel()
        await asyncio.gather(flood, watch, return_exceptions=True)

        late = sorted(seconds for lane in lanes for seconds in lane)
        print(
            "seconds until an edit is observed:",
            *(f"{late[int(at * EDITS) - 1]:.2f}" for at in (0.5, 0.9, 0.99)),
        )
        assert flooded, flood
        assert late[int(0.99 * EDITS) - 1] < SECONDS_MAX
        assert operator.peak_mib() < LIMIT_MIB


async def test_an_object_of_thousands_of_nested_levels_stops_no_other_team(apiserver, tmp_path):
    async with teams(apiserver, tmp_path) as (operator, noisy, quiet):
        await quiet.crowd.create(range(1))
        await observed(quiet, 0, 1)
        with a_deep_pool(apiserver, noisy) as is_stalled:
            await until(is_stalled, PATIENCE_SECONDS)
            await edited_once(quiet)
            await asyncio.to_thread(operator.stop)
            operator.start()
            await edited_once(quiet)


@contextmanager
def a_deep_pool(apiserver, team):
    """A pool that clients cannot decode, so it is gone afterwards. Yields whether the operator has reported it as invalid."""
    deep = json.dumps(team.pool("deep", template={"spec": {"deep": "DEEP"}})).replace('"DEEP"', DEEP)
    there = ("pyp/deep", f"--namespace={team.namespace}")
    message = "--output=jsonpath={.status.conditions[?(@.type=='Stalled')].message}"

    async def is_stalled():
        return "nested in more than 64 levels" in await asyncio.to_thread(
            apiserver.kubectl, "get", *there, message
        )

    apiserver.kubectl("create", "--filename=-", stdin=deep)
    try:
        yield is_stalled
    finally:
        apiserver.kubectl("delete", *there, "--wait=false")


async def edited_once(team):
    metadata = await team.crowd.edit(name_of(0), args={"edit": str(time.monotonic())})
    await observed(team, 0, metadata["generation"])
