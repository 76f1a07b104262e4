"""The operator as a process of its own, on a real API server and a real PostgreSQL, and many tasks for it to look after."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.request import urlopen

import aiohttp
import asyncpg
import msgspec
import yaml

from tests.servers import ApiServer, machine
from tests.servers.kubernetes_client import APPLY, JSON, MERGE

CLUSTER: Final = "east"
POOL: Final = "default"
HANDLER: Final = "send"
REALM: Final = f"{CLUSTER}/{{namespace}}/{POOL}"

TASKS_PATH: Final = "/apis/pyncette.dev/v1alpha1/namespaces/{namespace}/pyncettetasks"
TABLE: Final = f"{JSON};as=Table;v=v1;g=meta.k8s.io"
"""What `kubectl get` asks for: the columns alone, which cost a fiftieth of the objects."""

PAGE: Final = 2_000

AT_ONCE: Final = 16
"""Requests under way: as many as several people and a GitOps controller send together."""

EVENT_BYTES_MAX: Final = 4 * 2**20
"""The API server takes objects of up to 3 MB."""

STOP_SECONDS_MAX: Final = 30

LIMIT_MIB: Final = 512
"""The memory limit of the operator's container in the chart."""

TICKS: Final = os.sysconf("SC_CLK_TCK")

MODULE: Final = f'''\
from pyncette import Context, Pyncette

app = Pyncette()


@app.handler("{HANDLER}")
async def send(context: Context) -> None:
    """Do nothing, which takes no time."""
'''


class Process:
    """A program of ours that runs until it is stopped, and what the kernel says of it."""

    def __init__(self, command: Iterable[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self.log = log
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PYNCETTE_")
        } | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS_MAX)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def stop(self) -> int:
        """End it as the kubelet does, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS_MAX)
        self._process = None
        return code

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Fail if it has ended by itself."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text(errors="replace")[-3000:]

    def memory_mib(self) -> float:
        """What it has in memory now."""
        return memory_mib(self.pid)

    def peak_mib(self) -> float:
        """The most that it ever had."""
        return memory_mib(self.pid, "VmHWM")


class OperatorProcess(Process):
    """`pyncette operator` with the rights of a *kubeconfig*. Its *settings* may name other backends than that of a URL."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        backend: str,
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        (folder / "url").write_text(f"{backend}\n")
        self._health, self._metrics = machine.free_port(), machine.free_port()
        file = folder / "operator.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "clusterId": CLUSTER,
                    "backends": [{"urlFile": str(folder / "url"), "namespaces": ["*"], "tls": "Disabled"}],
                    "health": self._health,
                    "metrics": self._metrics,
                    "logLevel": "WARNING",
                    **settings,
                }
            )
        )
        command = (sys.executable, "-m", "pyncette.cli", "operator", "--config", file)
        own = {"KUBECONFIG": str(kubeconfig)}
        super().__init__(command, folder / "operator.log", own | dict(environment or {}))

    @property
    def metrics_port(self) -> int:
        return self._metrics

    def metrics(self) -> Scrape:
        """What it measures of itself; nothing while it does not serve that."""
        try:
            with urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10) as answer:
                return Scrape(answer.read().decode())
        except OSError:
            self.check()
            return Scrape("")

    def is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._health}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            self.check()
            return False

    def is_calm(self) -> bool:
        """Whether all was listed, and nothing waits for a pass or for being written."""
        seen = self.metrics()
        busy = (
            seen["queue_keys", "waiting"] + seen["queue_keys", "in_progress"] + seen["status_writes_waiting"]
        )
        looked = seen["backend_duration_seconds_count", "look"]
        return bool(seen["resync_duration_seconds_count"] and looked and not busy and self.is_ready())

    async def resynced(self, seconds: float, times: int = 1) -> None:
        """Wait until so many more resyncs are over, and what they had looked at has been."""
        wanted = self.metrics()["resync_duration_seconds_count"] + times

        async def over() -> bool:
            return self.metrics()["resync_duration_seconds_count"] >= wanted

        await until(over, seconds)
        await self.calm(seconds, for_seconds=1)

    async def calm(self, seconds: float, for_seconds: float = 3.0) -> None:
        """Wait until it has been calm *for_seconds*; fail if it takes longer than *seconds*."""
        end = time.monotonic() + seconds
        since: float | None = None
        while since is None or time.monotonic() - since < for_seconds:
            assert time.monotonic() < end, "the operator did not come to rest"
            calm = await asyncio.to_thread(self.is_calm)
            since = (since or time.monotonic()) if calm else None
            await asyncio.sleep(0.5)


class Scrape:
    """Metrics of the operator, by name without their prefix, and by values of labels where there are several."""

    LINE: Final = re.compile(r"^pyncette_operator_(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)

    def __init__(self, text: str) -> None:
        self._found = [
            (name, re.findall(r'="([^"]*)"', labels or ""), float(value))
            for name, labels, value in self.LINE.findall(text)
        ]

    def __getitem__(self, asked: str | tuple[str, ...]) -> float:
        name, *wanted = (asked,) if isinstance(asked, str) else asked
        return sum(
            value
            for known, labels, value in self._found
            if known == name and all(label in labels for label in wanted)
        )


async def until(holds: Callable[[], Awaitable[bool]], seconds: float, pause: float = 0.5) -> None:
    """Wait until it *holds*, of which another process makes sure; TimeoutError if it does not in *seconds*."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(pause)


def worker_process(folder: Path, backend: str, namespace: str) -> Process:
    """A worker of the pool that all these tasks are in."""
    (folder / "sending.py").write_text(MODULE)
    environment = {
        "PYNCETTE_BACKEND": backend,
        "PYNCETTE_REALM": REALM.format(namespace=namespace),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    }
    command = (sys.executable, "-m", "pyncette.cli", "worker", "sending")
    return Process(command, folder / "worker.log", environment)


# --- Tasks -----------------------------------------------------------------------------------------------------------


def pool() -> dict[str, Any]:
    return {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteWorkerPool",
        "metadata": {"name": POOL},
        "spec": {"external": True},
    }


def task(name: str, **spec: Any) -> dict[str, Any]:
    """A task as teams have them; it is due next year, so nothing of it changes by itself."""
    return {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteTask",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "reports"}},
        "spec": {
            "handler": HANDLER,
            "schedule": "0 6 1 1 *",
            "timeZone": "Europe/Dublin",
            "args": {"audience": "finance", "template": name, "retention": {"days": 90}},
            **spec,
        },
    }


def name_of(number: int) -> str:
    return f"report-{number:05d}"


class Crowd:
    """Many tasks in one namespace, for a client that costs little and keeps its connections."""

    def __init__(self, session: aiohttp.ClientSession, url: str, namespace: str) -> None:
        self._session = session
        self._url = url
        self._namespace = namespace
        self._path = TASKS_PATH.format(namespace=namespace)
        self._slots = asyncio.Semaphore(AT_ONCE)

    @classmethod
    @asynccontextmanager
    async def of(cls, apiserver: ApiServer, namespace: str, token: str | None = None) -> AsyncIterator[Self]:
        """Yield the tasks of *namespace*, for the account with the *token* or for the administrator."""
        trust = ssl.create_default_context(cafile=str(apiserver.authority))
        headers = {"Authorization": f"Bearer {token or apiserver.token}"}
        connector = aiohttp.TCPConnector(ssl=trust, limit=AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield cls(session, apiserver.url, namespace)

    async def create(self, numbers: Iterable[int], **spec: Any) -> None:
        """Apply tasks as `kubectl apply --server-side` does, some at a time."""
        await asyncio.gather(*(self._apply(name_of(number), spec) for number in numbers))

    async def _apply(self, name: str, spec: Mapping[str, Any]) -> None:
        query = {"fieldManager": "kubectl", "fieldValidation": "Strict"}
        async with self._slots:
            await self._ask("PATCH", f"{self._path}/{name}", task(name, **spec), content=APPLY, **query)

    async def delete(self, numbers: Iterable[int]) -> None:
        """Delete tasks, some at a time: a single request for all would have to answer with all of them."""
        await asyncio.gather(*(self._delete(name_of(number)) for number in numbers))

    async def _delete(self, name: str) -> None:
        async with self._slots:
            await self._ask("DELETE", f"{self._path}/{name}")

    async def edit(self, name: str, **spec: Any) -> Mapping[str, Any]:
        """Change fields of a spec, and return the task's metadata."""
        async with self._slots:
            answer = await self._ask("PATCH", f"{self._path}/{name}", {"spec": spec}, content=MERGE)
        metadata: dict[str, Any] = answer["metadata"]
        return metadata

    async def get(self, name: str) -> dict[str, Any]:
        return await self._ask("GET", f"{self._path}/{name}")

    async def edit_config_map(self, name: str, **data: str) -> None:
        """Change an object that no operator looks after: what that takes is the API server's."""
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{name}"
        await self._ask("PATCH", path, {"data": data}, content=MERGE)

    async def changes(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each task as it is and as it changes, as soon as a watch shows it."""
        options: dict[str, Any] = {
            "params": {"watch": "true"},
            "timeout": aiohttp.ClientTimeout(total=None),
            "read_bufsize": EVENT_BYTES_MAX,
        }
        while True:  # the API server ends a watch after some minutes, or once it has lost track
            async with self._session.get(self._url + self._path, **options) as response:
                assert response.ok, await response.text()
                while line := await response.content.readline():
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        break
                    yield event["object"]

    async def ready(self) -> int:
        """How many tasks are Ready, as `kubectl get` shows it."""
        return sum([row[1] == "True" async for row in self._rows()])

    async def are_ready(self, number: int) -> bool:
        return await self.ready() >= number

    async def versions(self) -> dict[str, str]:
        """The resource version of each task: another one if anybody wrote it, be it the status."""
        return {row[0]: row[2] async for row in self._rows()}

    async def _rows(self) -> AsyncIterator[tuple[str, str, str]]:
        following = ""
        while True:
            query = {"limit": str(PAGE), "includeObject": "Metadata", "continue": following}
            page = await self._ask("GET", self._path, accept=TABLE, **query)
            columns = [column["name"] for column in page["columnDefinitions"]]
            name, ready = columns.index("Name"), columns.index("Ready")
            for row in page["rows"] or ():
                yield (
                    row["cells"][name],
                    row["cells"][ready],
                    row["object"]["metadata"]["resourceVersion"],
                )
            following = page["metadata"].get("continue", "")
            if not following:
                return

    async def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: str = JSON,
        accept: str = JSON,
        **query: str,
    ) -> dict[str, Any]:
        data = None if body is None else io.BytesIO(msgspec.json.encode(body))
        headers = {"Content-Type": content, "Accept": accept}
        async with self._session.request(
            method, self._url + path, data=data, headers=headers, params=query
        ) as response:
            said = await response.read()
            assert response.ok, said.decode(errors="replace")
            decoded: dict[str, Any] = msgspec.json.decode(said)
            return decoded


# --- Rows ------------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """The record of a task was written."""

    at: float
    """By the machine's clock."""
    task: str
    generation: int


WITNESS: Final = f"""
CREATE TABLE witness (at timestamptz NOT NULL, task text NOT NULL, generation bigint);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness VALUES (clock_timestamp(), NEW.task, (NEW.state::json -> 'owner' ->> 'generation')::bigint);
    RETURN NULL;
END $$;
CREATE TRIGGER witness_new AFTER INSERT ON pyncette_tasks FOR EACH ROW
    WHEN (NEW.task LIKE '{name_of(0)[:-5]}%' AND NEW.occurrence = '') EXECUTE FUNCTION witness();
CREATE TRIGGER witness_edited AFTER UPDATE ON pyncette_tasks FOR EACH ROW
    WHEN (NEW.version <> OLD.version AND NEW.task LIKE '{name_of(0)[:-5]}%' AND NEW.occurrence = '')
    EXECUTE FUNCTION witness();
"""
"""Writes down each write of a task's record, and when it was; a renewal of a lease is none."""


class Rows:
    """The records of the tasks, seen from PostgreSQL, with an account of who wrote when."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def of(cls, url: str) -> AsyncIterator[Self]:
        """In a database whose tables are there, and where nothing has been accounted for before."""
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(WITNESS)
            yield cls(connection)
        finally:
            await connection.close()

    async def count(self) -> int:
        """How many different tasks have been written since the account began."""
        counted: int = await self._connection.fetchval("SELECT count(DISTINCT task) FROM witness")
        return counted

    async def hold(self, number: int) -> bool:
        """Whether so many different tasks have been written since the account began."""
        return await self.count() >= number

    async def reached(self, task: str, generation: int) -> bool:
        """Whether that generation of a task has been written."""
        return any(row.task == task and row.generation == generation for row in await self.written())

    async def written(self) -> list[Written]:
        """Every write since the account began."""
        rows = await self._connection.fetch(
            "SELECT extract(epoch FROM at)::float8, task, coalesce(generation, 0) FROM witness ORDER BY at"
        )
        return [Written(*row) for row in rows]

    async def begin_again(self) -> None:
        """Begin the account anew."""
        await self._connection.execute("TRUNCATE witness")

    async def wipe(self) -> None:
        """Lose all records, as a backend does that is restored empty. Nobody may be connected who remembers them."""
        tables = ("", "_names", "_partitions", "_history")
        await self._connection.execute(
            "TRUNCATE witness, " + ", ".join(f"pyncette_tasks{end}" for end in tables)
        )


# --- What the kernel says --------------------------------------------------------------------------------------------


def memory_mib(pid: int, which: str = "VmRSS") -> float:
    """What a process has in memory now, or another figure of the kernel's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == which:
            return int(value.split()[0]) / 1024
    raise AssertionError(f"the kernel does not tell {which}")


def cpu_seconds(pid: int) -> float:
    """CPU of a process and of its children, those that ended included."""
    ticks = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(folder.name) == pid:
                ticks += sum(map(int, fields[11:15]))
            elif int(fields[1]) == pid:
                ticks += sum(map(int, fields[11:13]))
    return ticks / TICKS
