"""Real Redis and Valkey servers for tests: given, installed, unpacked, or in Docker; one by itself, a cluster, or behind Sentinel."""

import itertools
import os
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from tests.servers import machine
from tests.servers.certificates import make_certificate
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.unpacked import unpacked
from tests.servers.wrong_clock import HOW_TO_GET_A_WRONG_CLOCK, wrong_clock

START_ATTEMPTS_MAX = 3
"""Attempts to start on a free port, which another process may take before the server does."""

START_SECONDS_MAX = 60

REJOIN_SECONDS = 20
"""Sentinel takes some seconds to make an old primary a replica."""
"""A server starts in a tenth of a second, a cluster in two; a laden machine takes longer."""

STOP_SECONDS_MAX = 30

LOOK_SECONDS = 0.02

CLUSTER_NODES = 3
SLOTS = 16_384

RIGHTS = (
    "+eval", "+evalsha", "+time", "+exists", "+hmget", "+hset", "+hdel", "+hlen", "+hscan", "+hvals", "+unlink",
    "+zadd", "+zrem", "+zremrangebyrank", "+zrange", "+zcard", "+zcount", "+zlexcount", "+zscan", "+sadd", "+smembers", "+publish", "+subscribe", "+info",
)  # fmt: skip
"""All that the product asks for: what docs/reference/stores-redis.md says."""

RIGHTS_IN_A_CLUSTER = ("+cluster|slots", "+command", "+asking")
"""What the driver needs to find the nodes."""

END_ALL = """\
for file in "$1"/*/pid; do [ -f "$file" ] && kill -9 "$(cat "$file")"; done
for file in "$1"/*/container; do [ -f "$file" ] && docker rm --force "$(cat "$file")"; done
rm -rf "$1"
"""
"""What is done to a folder of servers once the tests are gone: a number in a container is none of ours."""

NO_TIME = timedelta(0)

StopMode = Literal["fast", "immediate"]


class Programs(NamedTuple):
    """How to run a server in the foreground."""

    command: tuple[str, ...]
    in_docker: bool = False
    by_us: bool = False
    """Whether it is unpacked, where somebody unprivileged that root lets run it may not be able to read it."""


@dataclass(frozen=True, slots=True)
class Product:
    """One of the two kinds of server."""

    name: str
    variable: str
    """Names an external server."""
    docker_image: str
    program: str
    """What runs the server in that image."""
    ways: str
    """How to get one, line by line."""
    programs: Callable[[], Programs | None]

    @property
    def missing(self) -> str:
        return f"""\
These tests run on real servers of {self.name}, and none could be had. Any one of these brings them:

{self.ways}
  Docker           start its engine; the tests run {self.docker_image} in it
  a server         {self.variable}=redis://USER:PASSWORD@HOST:PORT/DATABASE make test
                   (what the tests write begins with a name of their own, and they remove it again)

The server need not be running: the tests start their own, on free ports, in folders that they throw away."""


class Redis(ABC):
    """A server as tests see it, given or started by the tests. All methods block; none needs an event loop."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Of the user that the product is to run as, who has the rights that it asks for, if the server is our own."""

    @abstractmethod
    def execute(self, *command: str | bytes | int) -> Any:
        """Run one command as the administrator, on a connection of its own, and return the answer."""

    @abstractmethod
    def close(self) -> None:
        """Leave no trace of what we brought: stop it and remove its data, if it is our own."""

    def url_of(self, namespace: str) -> str:
        parts = urlsplit(self.url)
        query = "&".join(filter(None, (parts.query, f"namespace={quote(namespace)}")))
        return urlunsplit(parts._replace(query=query))

    @contextmanager
    def fresh_namespace(self) -> Iterator[str]:
        """The URL of a namespace that holds nothing, and lives as long as the context."""
        namespace = f"pyncette_test_{os.getpid()}_{secrets.token_hex(4)}_{next(_numbers)}:"
        try:
            yield self.url_of(namespace)
        finally:
            self.clear(namespace)

    def clear(self, namespace: str) -> None:
        """Remove all that is in *namespace*."""
        keys = self.keys(namespace)
        if keys:
            self.execute("UNLINK", *keys)

    def keys(self, namespace: str) -> list[bytes]:
        """What is in *namespace*."""
        found: list[bytes] = self.execute("KEYS", namespace + "*")
        return found


class GivenRedis(Redis):
    """An external server, configured by the environment: to write to, not for breaking."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def execute(self, *command: str | bytes | int) -> Any:
        with redis.Redis.from_url(self._url) as client:
            return client.execute_command(*command)

    def close(self) -> None:
        """Do nothing: an external server stays."""


class _Node:
    """One process of a server, with a folder and a port of its own; the port and the data stay over a stop and a start."""

    def __init__(
        self, programs: Programs, account: machine.Account, folder: Path, password: str, *settings: str
    ) -> None:
        self._programs = programs
        self._account = account
        self._folder = folder
        self._password = password
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._container = f"pyncette-redis-{secrets.token_hex(6)}"
        self.port = 0
        self.bus_port = 0
        """Where nodes of a cluster talk to each other."""

    def start_on_a_free_port(self, *, sentinel: bool = False) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            self.port = machine.free_port()
            lines = [f"port {self.port}", *self._settings]
            if "cluster-enabled yes" in self._settings:
                self.bus_port = machine.free_port()
                lines.append(f"cluster-port {self.bus_port}")
            configuration = self._folder / "server.conf"
            configuration.write_text("\n".join([*lines, ""]))
            if os.geteuid() == 0:
                os.chown(configuration, self._account.uid, self._account.gid)
            try:
                self.start(sentinel=sentinel)
                return
            except ServerDidNotStartError:
                self.kill()
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise

    def start(self, *, clock_ahead: timedelta = NO_TIME, sentinel: bool = False) -> None:
        # libfaketime is made for the machine's C library, and not for one that was unpacked.
        if clock_ahead and (self._programs.in_docker or self._programs.by_us):
            raise MissingServerError(HOW_TO_GET_A_WRONG_CLOCK)
        command: list[str] = list(self._programs.command)
        if self._programs.in_docker:
            place = command.index("--network")
            command[place:place] = ["--name", self._container, "--volume", f"{self._folder}:{self._folder}"]
            (self._folder / "container").write_text(self._container)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self._folder / "server.conf"), *(["--sentinel"] if sentinel else [])],
                cwd="/",
                env={**os.environ, "LC_ALL": "C", **(_wrong_clock(clock_ahead) if clock_ahead else {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account.identity(),
            )
        if not self._programs.in_docker:
            (self._folder / "pid").write_text(str(self._process.pid))
        wait_until(self._answers, self._end_of_log)

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it as an operator does, or `immediate`: as a crash does."""
        if mode == "immediate":
            self.kill()
            return
        assert self._process is not None
        self._process.terminate()
        self._has_ended()

    def kill(self) -> None:
        if self._process is None:
            return
        if self._programs.in_docker:
            subprocess.run(["docker", "kill", self._container], capture_output=True)
        self._process.kill()
        self._has_ended()

    def _has_ended(self) -> None:
        assert self._process is not None
        self._process.wait(STOP_SECONDS_MAX)
        for name in ("pid", "container"):
            (self._folder / name).unlink(missing_ok=True)

    def execute(self, *command: str | bytes | int) -> Any:
        with redis.Redis(port=self.port, password=self._password, socket_timeout=10) as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise ServerDidNotStartError(self._end_of_log())
        try:
            return bool(self.execute("PING"))
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _end_of_log(self) -> str:
        log = self._folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""


class _OwnServers(Redis):
    """Throwaway servers on loopback ports of their own. They end with this process, also if that is killed."""

    user = "pyncette"

    def __init__(self, programs: Programs, *, durable: bool = False) -> None:
        self.password = secrets.token_urlsafe(12)
        self._programs = programs
        self._account = (
            machine.our_account()
            if programs.in_docker or programs.by_us
            else machine.account_for("redis", "valkey")
        )
        self._folder = machine.folder_of(self._account, "pyncette-redis-")
        self._sync = "everysec" if durable else "no"
        self._nodes: list[_Node] = []
        self._watchdog = machine.Watchdog(
            END_ALL,
            self._folder,
            account=self._account,
        )
        try:
            self._bring_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _bring_up(self) -> None:
        """Start whatever there is to be."""

    def close(self) -> None:
        for node in self._nodes:
            node.kill()
        self._watchdog.fire()

    def _fall_behind(self, primary: _Node, replicas: Sequence[_Node], seconds: float) -> None:
        """Have *replicas* hear nothing of their *primary* for *seconds*: on one machine they would hear all of it."""
        if not seconds:
            return
        for replica in replicas:
            replica.execute("CONFIG", "SET", "masterauth", "wrong")
        primary.execute("CLIENT", "KILL", "TYPE", "replica")
        time.sleep(seconds)
        for replica in replicas:
            replica.execute("CONFIG", "SET", "masterauth", self.password)

    def _new_node(self, *settings: str, rights: Sequence[str] = RIGHTS) -> _Node:
        folder = self._folder / str(len(self._nodes))
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, self._account.uid, self._account.gid)
        node = _Node(
            self._programs,
            self._account,
            folder,
            self.password,
            "bind 127.0.0.1",
            f"dir {folder}",
            "daemonize no",
            # To the disk each second, as Redis does it, or whenever the system likes: no test can tell, a benchmark can.
            "appendonly yes",
            f"appendfsync {self._sync}",
            'save ""',
            f"requirepass {self.password}",
            f"masterauth {self.password}",
            f"user {self.user} on >{self.password} ~* &* -@all {' '.join(rights)}",
            *settings,
        )
        self._nodes.append(node)
        return node


class OwnRedis(_OwnServers):
    """One server, that tests may stop, start and break; the product runs as a user who may do what it needs to, and no more."""

    def _bring_up(self) -> None:
        self.node = self._new_node()
        self.node.start_on_a_free_port()

    @property
    def port(self) -> int:
        return self.node.port

    @property
    def url(self) -> str:
        return f"redis://{self.user}:{quote(self.password)}@127.0.0.1:{self.port}/0"

    @property
    def url_of_the_administrator(self) -> str:
        return f"redis://:{quote(self.password)}@127.0.0.1:{self.port}/0"

    def execute(self, *command: str | bytes | int) -> Any:
        return self.node.execute(*command)

    def kill_connections(self) -> int:
        """End every connection of the product, as a failover does; how many there were."""
        ended: int = self.execute("CLIENT", "KILL", "USER", self.user)
        return ended

    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        self.node.start(clock_ahead=clock_ahead)

    def stop(self, mode: StopMode = "fast") -> None:
        self.node.stop(mode)

    def restart(self, mode: StopMode = "fast", *, clock_ahead: timedelta = NO_TIME) -> None:
        with self.stopped(mode, clock_ahead=clock_ahead):
            pass

    @contextmanager
    def stopped(self, mode: StopMode = "fast", *, clock_ahead: timedelta = NO_TIME) -> Iterator[None]:
        """Out of order inside the context; afterwards it runs again, with the clock that is asked for."""
        if clock_ahead:
            wrong_clock(
                clock_ahead
            )  # what has to be installed for it takes longer than any outage is meant to
        self.stop(mode)
        try:
            yield
        finally:
            self.start(clock_ahead=clock_ahead)


class RedisWithTls(OwnRedis):
    """A server that also listens for TLS, with a certificate that `authority` vouches for: its own."""

    def _bring_up(self) -> None:
        certificate = make_certificate(self._folder, account=self._account)
        self.authority = certificate.file
        self.tls_port = machine.free_port()
        self.node = self._new_node(
            f"tls-port {self.tls_port}",
            f"tls-cert-file {self.authority}",
            f"tls-key-file {certificate.key}",
            f"tls-ca-cert-file {self.authority}",
            "tls-auth-clients no",
        )
        self.node.start_on_a_free_port()

    @property
    def url(self) -> str:
        return f"rediss://{self.user}:{quote(self.password)}@localhost:{self.tls_port}/0"


class OwnCluster(_OwnServers):
    """A Redis Cluster of three, each with a third of the slots; if it is *replicated*, each with a replica."""

    def __init__(self, programs: Programs, *, replicated: bool = False) -> None:
        self._node_count = 2 * CLUSTER_NODES if replicated else CLUSTER_NODES
        super().__init__(programs)

    def _bring_up(self) -> None:
        # So soon a node counts as gone; a cluster that nobody breaks had better not think so.
        timeout = 5000 if self._node_count == CLUSTER_NODES else 1500
        for _ in range(self._node_count):
            node = self._new_node(
                "cluster-enabled yes",
                f"cluster-node-timeout {timeout}",
                rights=(*RIGHTS, *RIGHTS_IN_A_CLUSTER),
            )
            node.start_on_a_free_port()
        bounds = [SLOTS * number // CLUSTER_NODES for number in range(CLUSTER_NODES + 1)]
        for number, node in enumerate(self._nodes[:CLUSTER_NODES]):
            node.execute("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first = self._nodes[0]
        for node in self._nodes[1:]:
            first.execute("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        for node in self._nodes:
            wait_until(lambda node=node: self._is_whole(node), lambda: "the cluster did not come together")  # type: ignore[misc]
        for node, replica in zip(self._nodes, self._nodes[CLUSTER_NODES:], strict=False):
            replica.execute("CLUSTER", "REPLICATE", node.execute("CLUSTER", "MYID"))
        for replica in self._nodes[CLUSTER_NODES:]:
            wait_until(lambda replica=replica: _is_in_step(replica), lambda: "a replica does not follow")  # type: ignore[misc]

    @property
    def nodes(self) -> Sequence[_Node]:
        return self._nodes

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)
        return f"redis+cluster://{self.user}:{quote(self.password)}@{hosts}"

    def execute(self, *command: str | bytes | int) -> Any:
        with redis.RedisCluster(host="127.0.0.1", port=self._nodes[0].port, password=self.password) as client:
            return client.execute_command(*command)

    def keys(self, namespace: str) -> list[bytes]:
        return [key for node in self._nodes for key in node.execute("KEYS", namespace + "*")]

    def clear(self, namespace: str) -> None:
        """Nothing: keys would have to be removed one by one, and all of it is thrown away soon."""

    def kill_connections(self) -> int:
        """End every connection of the product; how many there were."""
        return sum(node.execute("CLIENT", "KILL", "USER", self.user) for node in self._nodes)

    def lose_primary(self, number: int, behind_seconds: float = 0) -> float:
        """
        Kill the *number*th of those that take writes, and start it again once its replica has taken over.

        Returns when that was, by `time.time`. The replica has not heard of the last *behind_seconds*, which are lost,
        though they were acknowledged.
        """
        lost = [node for node in self._nodes if _is_primary(node)][number]
        others = [node for node in self._nodes if node is not lost]
        before = sum(map(_is_primary, others))
        port = lost.port
        replicas = [node for node in others if not _is_primary(node) and node.execute("ROLE")[2] == port]
        self._fall_behind(lost, replicas, behind_seconds)
        lost.kill()
        wait_until(lambda: sum(map(_is_primary, others)) > before, lambda: "no replica took over")
        taken_over_at = time.time()
        lost.start()
        wait_until(lambda: _is_in_step(lost), lambda: "the old primary did not become a replica")
        return taken_over_at

    def _is_whole(self, node: _Node) -> bool:
        info: bytes = node.execute("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and f"cluster_known_nodes:{self._node_count}".encode() in info


class OwnSentinel(_OwnServers):
    """A server, its replica, and a Sentinel that lets the replica take over."""

    service = "records"

    def _bring_up(self) -> None:
        primary = self._new_node("repl-diskless-sync-delay 0")
        primary.start_on_a_free_port()
        replica = self._new_node(f"replicaof 127.0.0.1 {primary.port}")
        replica.start_on_a_free_port()
        folder = self._folder / "sentinel"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, self._account.uid, self._account.gid)
        self.sentinel = _Node(
            self._programs,
            self._account,
            folder,
            self.password,
            "bind 127.0.0.1",
            f"dir {folder}",
            f"requirepass {self.password}",
            f"sentinel monitor {self.service} 127.0.0.1 {primary.port} 1",
            f"sentinel auth-pass {self.service} {self.password}",
            f"sentinel down-after-milliseconds {self.service} 500",
            f"sentinel failover-timeout {self.service} 3000",
        )
        self.sentinel.start_on_a_free_port(sentinel=True)
        self._nodes.append(self.sentinel)
        wait_until(self._has_a_replica, lambda: "Sentinel did not find the replica")

    @property
    def url(self) -> str:
        secret = quote(self.password)
        return (
            f"redis+sentinel://{self.user}:{secret}@127.0.0.1:{self.sentinel.port}/{self.service}"
            f"?sentinel_password={secret}"
        )

    @property
    def primary(self) -> _Node:
        """The server that takes writes now, as Sentinel sees it."""
        _, port = self.sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return next(node for node in self._nodes if node.port == int(port))

    def execute(self, *command: str | bytes | int) -> Any:
        return self.primary.execute(*command)

    def fail_over(self) -> None:
        """Let the replica take over from a primary that is well; Sentinel begins with it, and does not wait until it is done."""

        def is_accepted() -> bool:
            try:
                return bool(self.sentinel.execute("SENTINEL", "FAILOVER", self.service))
            except redis.ResponseError:  # it has not heard enough of the replica yet
                return False

        wait_until(is_accepted, lambda: "Sentinel knows no replica that can take over")

    def lose_primary(self, behind_seconds: float = 0) -> float:
        """
        Kill the server that takes writes, and start it again once the other has taken over.

        Returns when that was, by `time.time`. The other has not heard of the last *behind_seconds*, which are lost,
        though they were acknowledged.
        """
        lost = self.primary
        (other,) = (node for node in self._nodes if node not in {lost, self.sentinel})
        self._fall_behind(lost, [other], behind_seconds)
        lost.kill()
        wait_until(
            lambda: self.primary is other and _is_primary(other), lambda: "the replica did not take over"
        )
        taken_over_at = time.time()
        lost.start()
        try:
            wait_until(lambda: _is_in_step(lost), lambda: "", REJOIN_SECONDS)
        except ServerDidNotStartError:
            # Sentinel makes it a replica, but on a busy machine it may take minutes: do as an administrator would.
            lost.execute("REPLICAOF", "127.0.0.1", str(other.port))
        wait_until(lambda: _is_in_step(lost), lambda: "the old primary did not become a replica")
        return taken_over_at

    def kill_connections(self) -> int:
        """End every connection of the product to the servers; how many there were."""
        servers = (node for node in self._nodes if node is not self.sentinel)
        return sum(node.execute("CLIENT", "KILL", "USER", self.user) for node in servers)

    def catch_up(self) -> None:
        """Wait until the replica has all that was written so far. WAIT does so only on the connection that wrote."""
        _, written, _ = self._nodes[0].execute("ROLE")
        wait_until(lambda: self._has_replicated(written), lambda: "the replica did not catch up")

    def cut_off_the_replica(self) -> None:
        """Let what is written from now on not reach the replica, as if the network between the two was down."""
        primary, replica = self._nodes[:2]
        replica.execute("CONFIG", "SET", "masterauth", "another")
        primary.execute("CLIENT", "KILL", "TYPE", "replica")

    def _has_replicated(self, offset: int) -> bool:
        """Whether the replica is up to *offset*, and not still about to take over what was there before it came."""
        *_, state, so_far = self._nodes[1].execute("ROLE")
        return bool(state == b"connected" and so_far >= offset)

    def _has_a_replica(self) -> bool:
        known = self.sentinel.execute("SENTINEL", "REPLICAS", self.service)
        _, _, connected = self._nodes[0].execute("ROLE")
        return len(known) == 1 and len(connected) == 1 and self._has_replicated(0)


def open_redis(
    product: Product | None = None, *, own: bool = False, durable: bool = False
) -> GivenRedis | OwnRedis:
    """
    The server that the environment names; or one of our own, from what is installed or can be had, else Docker.

    With *own*, one that may be stopped and broken, whatever the environment names. Raises MissingServerError.
    """
    product = product or REDIS
    given = os.environ.get(product.variable)
    if given and not own:
        return GivenRedis(given)
    return OwnRedis(_programs(product), durable=durable)


def open_redis_with_tls(product: Product | None = None) -> RedisWithTls:
    """A server of our own that speaks TLS. Raises MissingServerError."""
    return RedisWithTls(_programs(product or REDIS))


def open_cluster(product: Product | None = None, *, replicated: bool = False) -> OwnCluster:
    """A cluster of our own. Raises MissingServerError."""
    return OwnCluster(_programs(product or REDIS), replicated=replicated)


def open_sentinel(product: Product | None = None) -> OwnSentinel:
    """Two servers and a Sentinel of our own. Raises MissingServerError."""
    return OwnSentinel(_programs(product or REDIS))


def wait_until(holds: Callable[[], bool], why: Callable[[], str], seconds: float = START_SECONDS_MAX) -> None:
    """Return as soon as it *holds*; ServerDidNotStartError, and *why*, if it takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise ServerDidNotStartError(why())
        time.sleep(LOOK_SECONDS)


def _wrong_clock(ahead: timedelta) -> dict[str, str]:
    environment = wrong_clock(ahead)
    if "LD_PRELOAD" in environment:
        # jemalloc asks for the time before the library is ready to tell it; the C library's own allocator does not.
        environment["LD_PRELOAD"] += ":libc.so.6"
    return environment


def _is_primary(node: _Node) -> bool:
    role, *_ = node.execute("ROLE")
    return bool(role == b"master")


def _is_in_step(replica: _Node) -> bool:
    """Whether it is a replica, and has begun to follow."""
    role, *rest = replica.execute("ROLE")
    return bool(role == b"slave" and rest[2] == b"connected")


# --- Where the programs are ------------------------------------------------------------------------------------------


def redis_programs() -> Programs | None:
    """What is installed, or is installed now, if we may: without the service that comes with it."""
    if not _installed("redis-server") and machine.can_install_packages():
        machine.install_package("redis-server")
        if shutil.which("systemctl"):
            subprocess.run(["systemctl", "disable", "--now", "redis-server"], capture_output=True)
    # Some distributions have the other product alone.
    return _installed("redis-server") or _installed("valkey-server")


def valkey_programs() -> Programs | None:
    """What is installed; else what Debian unstable has, unpacked, since not every release has it."""
    return _installed("valkey-server") or _unpacked_valkey()


def _installed(program: str) -> Programs | None:
    found = shutil.which(program)
    return Programs((found,)) if found else None


def _unpacked_valkey() -> Programs | None:
    """Run by the loader that it was unpacked with."""
    root = unpacked("valkey-server")
    loader = root and next(root.glob("usr/lib/*/ld-linux-*.so.*"), None)
    if root is None or loader is None:
        return None
    command = (str(loader), "--library-path", str(loader.parent), str(root / "usr/bin/valkey-server"))
    return Programs(command, by_us=True)


def _programs(product: Product) -> Programs:
    programs = product.programs()
    if programs:
        return programs
    if machine.docker_runs():
        user = f"{os.getuid()}:{os.getgid()}"
        return Programs(
            (
                "docker",
                "run",
                "--rm",
                "--network",
                "host",
                "--user",
                user,
                product.docker_image,
                product.program,
            ),
            in_docker=True,
        )
    raise MissingServerError(product.missing)


REDIS = Product(
    "Redis",
    "PYNCETTE_TEST_REDIS_URL",
    "redis:7-alpine",
    "redis-server",
    """\
  Debian, Ubuntu   sudo apt-get install redis-server      (as root, the tests do this by themselves)
  Fedora           sudo dnf install valkey
  macOS            brew install redis""",
    redis_programs,
)

VALKEY = Product(
    "Valkey",
    "PYNCETTE_TEST_VALKEY_URL",
    "valkey/valkey:9-alpine",
    "valkey-server",
    """\
  Debian           (the tests fetch it by themselves, from Debian unstable, and install nothing)
  Fedora           sudo dnf install valkey
  macOS            brew install valkey""",
    valkey_programs,
)

_numbers = itertools.count(1)
