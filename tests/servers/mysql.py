"""Real MariaDB and MySQL servers for tests: given by the environment, installed here, unpacked, or in Docker."""

import asyncio
import getpass
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncmy
import asyncmy.errors

from tests.servers import machine
from tests.servers.certificates import Certificate, make_certificate
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.unpacked import unpacked
from tests.servers.wrong_clock import HOW_TO_GET_A_WRONG_CLOCK, wrong_clock

START_ATTEMPTS_MAX = 3
"""Attempts to start on a free port, which another process may take before the server does."""

START_SECONDS_MAX = 60
"""A server starts in a second; a laden machine, or one that recovers after a crash, takes longer."""

STOP_SECONDS_MAX = 60

NO_TIME = timedelta(0)

PREFIX = "pyncette_test"
"""How the names of databases begin that are created, all of which the user of the tests may do anything to."""

SETTINGS = ["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=200"]

NOT_DURABLE = [
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-flush-method=nosync",
    "--skip-innodb-doublewrite",
    "--skip-log-bin",
]
"""What was committed survives the end of the server, but not of the machine."""

StopMode = Literal["fast", "immediate"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Programs:
    """What it takes to run a server."""

    server: tuple[str, ...]
    """The command of the server, with what it needs to find its own files."""
    initialise: tuple[str, ...]
    """The command that makes a data folder, but for the options that say where."""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Product:
    """One of the two kinds of server."""

    name: str
    variable: str
    """Names an external server."""
    scheme: str
    docker_image: str
    ways: str
    """How to get one, line by line."""
    programs: Callable[[], Programs | None]

    @property
    def missing(self) -> str:
        return f"""\
These tests run on a real {self.name} server, and none could be had. Any one of these brings it:

{self.ways}
  Docker           start its engine; the tests run {self.docker_image} in it
  a server         {self.variable}={self.scheme}://USER:PASSWORD@HOST:PORT/DATABASE make test
                   (a user that may create databases; what the tests create, they drop again)

The server need not be running: the tests start their own, on a free port, in a folder that they throw away."""


class Mysql(ABC):
    """A server as tests see it, given or started by the tests. All methods block; none needs an event loop."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Of the administrator."""

    @abstractmethod
    def url_of(self, database: str) -> str:
        """Of the user that the product is to run as, who is no administrator if the server is our own."""

    @abstractmethod
    def close(self) -> None:
        """Leave no trace of what we brought: stop it and remove its data, if it is our own."""

    def create_database(self) -> str:
        """The URL of a new and empty database."""
        database = f"{PREFIX}_{os.getpid()}_{next(_database_numbers)}"
        self.execute(f"CREATE DATABASE `{database}` CHARACTER SET latin1")
        return self.url_of(database)

    def drop_database(self, url: str) -> None:
        """Drop a database that create_database made, even if programs are still connected to it."""
        self.kill_connections(url)
        self.execute(f"DROP DATABASE IF EXISTS `{urlsplit(url).path[1:]}`")

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The URL of a database that lives as long as the context."""
        url = self.create_database()
        try:
            yield url
        finally:
            self.drop_database(url)

    def kill_connections(self, url: str) -> int:
        """End every connection to the database of *url*, as an administrator or a failover does; how many there were."""
        return sum(self._kill(id_) for id_, *_ in self.connections_to(url))

    def connections_to(self, url: str) -> list[Sequence[Any]]:
        """What the server says of each connection to the database of *url*, its id first; its fifth word is Sleep if it rests."""
        database = urlsplit(url).path[1:]
        return [row for row in self.execute("SHOW FULL PROCESSLIST") if row[3] == database]

    def _kill(self, id_: int) -> bool:
        try:
            self.execute(f"KILL CONNECTION {id_}")
        except asyncmy.errors.MySQLError as error:
            if error.args[0] != 1094:  # it has gone by itself
                raise
            return False
        return True

    def execute(self, statement: str, url: str | None = None) -> Sequence[Any]:
        """Run one statement as the administrator (or at *url*) on a connection of its own, and return its rows."""
        return _wait_for(execute(url or self.url, statement))


class GivenMysql(Mysql):
    """An external server, configured by the environment: for databases, not for breaking."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    def close(self) -> None:
        """Do nothing: an external server stays."""


class OwnMysql(Mysql):
    """
    A throwaway server on a loopback port of its own, that tests may stop and start again.

    Passwords are asked for, `user` is no administrator, and the port and the data stay the same over a stop and a start.
    It ends with this process, also if that is killed. Unless it is *durable* it does not wait for the disk, which no test
    can tell but a benchmark can.
    """

    administrator = "administrator"
    user = "pyncette"

    def __init__(self, product: Product) -> None:
        self.product = product
        self.port = 0
        self.password = secrets.token_urlsafe(12)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return (
            f"{self.product.scheme}://{self.administrator}:{quote(self.password)}@127.0.0.1:{self.port}/mysql"
        )

    def url_of(self, database: str) -> str:
        return f"{self.product.scheme}://{self.user}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process of the server. Raises MissingServerError if it is not on this machine."""
        raise MissingServerError(
            f"{self.product.name} runs in Docker, where its processor time is not available"
        )

    @abstractmethod
    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        """
        Start after a stop, with the server's clock ahead of ours (or behind, if negative).

        A wrong clock is libfaketime's, loaded into the server alone, as for PostgreSQL.
        """

    @abstractmethod
    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it: `fast` rolls back and disconnects, `immediate` is a crash."""

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

    def _users(self) -> list[str]:
        """What makes the two users, who come from anywhere."""
        databases = f"{PREFIX}_%".replace("_", r"\_")
        return [
            f"CREATE USER '{self.administrator}'@'%' IDENTIFIED BY '{self.password}'",
            f"GRANT ALL ON *.* TO '{self.administrator}'@'%' WITH GRANT OPTION",
            f"CREATE USER '{self.user}'@'%' IDENTIFIED BY '{self.password}'",
            f"GRANT ALL ON `{databases}`.* TO '{self.user}'@'%'",
        ]

    def _start_on_a_free_port(self) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            self.port = machine.free_port()
            try:
                self._start_first_time()
                break
            except ServerDidNotStartError:
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise

    @abstractmethod
    def _start_first_time(self) -> None:
        """Start on `port`; ServerDidNotStartError if it did not come up, and then another port is tried."""

    def _wait_until_it_answers(self, ended: Callable[[], bool], log: Callable[[], str]) -> None:
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncmy.errors.MySQLError) as error:
                if ended() or time.monotonic() > end:
                    raise ServerDidNotStartError(log()) from error
                time.sleep(0.05)
            else:
                return


class InstalledMysql(OwnMysql):
    """Runs the programs that are installed, or unpacked, on a data folder of its own."""

    def __init__(self, product: Product, programs: Programs, *, durable: bool = False) -> None:
        super().__init__(product)
        self._programs = programs
        self._durable = durable
        self._folder = machine.folder_of(machine.our_account(), f"pyncette-{product.scheme}-")
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        # The user is named since root has to say that it is meant; no other user might read what is unpacked. A server
        # that starts clears away what it takes for its own temporary tables, so each has a folder for them.
        temporary = self._folder / "tmp"
        temporary.mkdir()
        self._common = [f"--datadir={self._data}", f"--tmpdir={temporary}", f"--user={getpass.getuser()}"]
        self._watchdog = machine.Watchdog(
            'kill -KILL $(cat "$1/pid"); while kill -0 $(cat "$1/pid"); do sleep 0.05; done; rm -rf "$1"',
            self._folder,
            account=machine.our_account(),
        )
        try:
            self._initialise()
            self._start_on_a_free_port()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        self._start(environment=wrong_clock(clock_ahead) if clock_ahead else {})

    def stop(self, mode: StopMode = "fast") -> None:
        assert self._process is not None
        self._end(self._process, signal.SIGTERM if mode == "fast" else signal.SIGKILL)

    def encrypt(self) -> Certificate:
        """Accept TLS from now on, with the certificate for `localhost` that is returned."""
        certificate = make_certificate(self._folder)
        self._common += [f"--ssl-cert={certificate.file}", f"--ssl-key={certificate.key}"]
        self.restart()
        return certificate

    def close(self) -> None:
        if self._process is not None:
            self._end(self._process, signal.SIGKILL)
        self._watchdog.fire()

    def _end(self, process: subprocess.Popen[bytes], with_signal: signal.Signals) -> None:
        process.send_signal(with_signal)
        process.wait(STOP_SECONDS_MAX)
        # What was killed leaves it behind, and its number may be given to another process.
        (self._folder / "pid").unlink(missing_ok=True)

    def _start_first_time(self) -> None:
        script = self._folder / "users.sql"
        script.write_text("".join(f"{statement};\n" for statement in self._users()))
        self._start(f"--init-file={script}")
        script.unlink()

    def _start(self, *options: str, environment: dict[str, str] | None = None) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._programs.server, *self._common, *SETTINGS, *([] if self._durable else NOT_DURABLE),
                    *self._programs.settings, f"--port={self.port}", f"--socket={self._folder}/socket",
                    f"--pid-file={self._folder}/pid", *options,
                ],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "LC_ALL": "C", **(environment or {})},
            )  # fmt: skip
        process = self._process
        self._wait_until_it_answers(lambda: process.poll() is not None, self._end_of_log)

    def _initialise(self) -> None:
        made = machine.our_account().run(*self._programs.initialise, *self._common)
        if made.returncode != 0:
            raise ServerDidNotStartError(f"{made.stdout}{made.stderr}")

    def _end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


class MysqlInDocker(OwnMysql):
    """Runs the official image in a container that is removed with this process."""

    def __init__(self, product: Product, *, durable: bool = False) -> None:
        super().__init__(product)
        self._settings = [*SETTINGS[1:], *([] if durable else NOT_DURABLE)]
        self._container = f"pyncette-{product.scheme}-{secrets.token_hex(6)}"
        self._watchdog = machine.Watchdog(
            'docker rm --force --volumes "$1"', self._container, account=machine.our_account()
        )
        try:
            self._start_on_a_free_port()
        except BaseException:
            self.close()
            raise

    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        if clock_ahead:
            raise MissingServerError(HOW_TO_GET_A_WRONG_CLOCK)
        self._docker("start", self._container)
        self._wait_until_it_answers(lambda: False, self._end_of_log)

    def stop(self, mode: StopMode = "fast") -> None:
        self._docker("kill", f"--signal={'TERM' if mode == 'fast' else 'KILL'}", self._container)
        self._docker("wait", self._container)

    def close(self) -> None:
        self._watchdog.fire()

    def _start_first_time(self) -> None:
        subprocess.run(["docker", "rm", "--force", self._container], capture_output=True)
        self._docker(
            "run", "--detach", "--name", self._container, "--publish", f"127.0.0.1:{self.port}:3306",
            "--env", f"MYSQL_ROOT_PASSWORD={self.password}", "--env", f"MARIADB_ROOT_PASSWORD={self.password}",
            self.product.docker_image, *self._settings,
        )  # fmt: skip
        root = self.url.replace(self.administrator, "root", 1)
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                for statement in self._users():
                    self.execute(statement, root)
            except (OSError, asyncmy.errors.MySQLError) as error:
                if time.monotonic() > end:
                    raise ServerDidNotStartError(self._end_of_log()) from error
                time.sleep(0.2)
            else:
                return

    def _end_of_log(self) -> str:
        return self._docker("logs", "--tail=20", self._container)

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise ServerDidNotStartError(f"docker {arguments[0]}: {done.stderr}")
        return done.stdout


def open_mysql(product: Product, *, own: bool = False, durable: bool = False) -> GivenMysql | OwnMysql:
    """
    The server that the environment names; or one of our own, from what is installed or can be had, else Docker.

    With *own*, one that may be stopped and broken, whatever the environment names. Raises MissingServerError.
    """
    given = os.environ.get(product.variable)
    if given and not own:
        return GivenMysql(given)
    programs = product.programs()
    if programs:
        return InstalledMysql(product, programs, durable=durable)
    if machine.docker_runs():
        return MysqlInDocker(product, durable=durable)
    raise MissingServerError(product.missing)


# --- Where the programs are ------------------------------------------------------------------------------------------


def mariadb_programs() -> Programs | None:
    """What is installed, or is installed now, if we may: if possible the programs alone, without a server that runs by itself."""
    for package in ("mariadb-client-core", "mariadb-server-core", "mariadb-server"):
        found = _installed_mariadb()
        if found is not None or not machine.can_install_packages():
            return found
        machine.install_package(package)
    return _installed_mariadb()


def _installed_mariadb() -> Programs | None:
    server = _found("mariadbd") or _found("mysqld")
    initialise = _found("mariadb-install-db") or _found("mysql_install_db")
    if server is None or initialise is None or "MariaDB" not in _version(server):
        return None
    return Programs(
        (server, "--no-defaults"),
        (initialise, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"),
        ("--innodb-log-file-size=32M",),
    )


def mysql_programs() -> Programs | None:
    """What Debian unstable has, unpacked, since no system can have both servers installed; else what is installed."""
    root = unpacked("mysql-server-core")
    if root is not None:
        return _unpacked_mysql(root)
    server = _found("mysqld")
    if server is None or "MariaDB" in _version(server):
        return None
    return _mysql(server, "--no-defaults")


def _unpacked_mysql(root: Path) -> Programs | None:
    """Run by the loader that it was unpacked with, and told where all is that would be in `/usr`."""
    loader = next(root.glob("usr/lib/*/ld-linux-*.so.*"), None)
    if loader is None:
        return None
    libraries, share = loader.parent, root / "usr/share/mysql"
    return _mysql(
        str(loader), "--library-path", f"{libraries}:{libraries}/mysql/private", str(root / "usr/sbin/mysqld"),
        "--no-defaults", f"--basedir={root}/usr", f"--lc-messages-dir={share}", f"--character-sets-dir={share}/charsets",
        "--secure-file-priv=",
    )  # fmt: skip


def _mysql(*server: str) -> Programs:
    return Programs(
        server,
        (*server, "--initialize-insecure", "--innodb-redo-log-capacity=16M"),
        ("--mysqlx=OFF", "--innodb-redo-log-capacity=64M", "--performance-schema=OFF"),
    )


def _found(program: str) -> str | None:
    """Return the path of *program*, on PATH or where servers are that are not on an ordinary user's."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{':'.join(PLACES)}")


PLACES = ["/usr/sbin", "/usr/libexec", "/usr/local/sbin"]


def _version(server: str) -> str:
    return subprocess.run([server, "--version"], capture_output=True, text=True).stdout


MARIADB = Product(
    "MariaDB",
    "PYNCETTE_TEST_MARIADB_URL",
    "mariadb",
    "mariadb:11",
    """\
  Debian, Ubuntu   sudo apt-get install mariadb-server-core mariadb-client-core
                   (as root, the tests do this by themselves)
  Fedora           sudo dnf install mariadb-server
  macOS            brew install mariadb""",
    mariadb_programs,
)

MYSQL = Product(
    "MySQL",
    "PYNCETTE_TEST_MYSQL_URL",
    "mysql",
    "mysql:9",
    """\
  Debian           (the tests fetch it by themselves, from Debian unstable, and install nothing)
  Fedora           sudo dnf install mysql-server
  macOS            brew install mysql""",
    mysql_programs,
)

_database_numbers = itertools.count(1)


async def connect(url: str) -> Any:
    """A connection of the driver's, for what a test does behind the back of a store."""
    parts = urlsplit(url)
    return await asyncmy.connect(
        host=parts.hostname or "",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path[1:],
        autocommit=True,
        connect_timeout=10,
    )


async def execute(url: str, statement: str, *arguments: object) -> Sequence[Any]:
    """Run one statement on a connection of its own, and return its rows."""
    connection = await connect(url)
    try:
        cursor = connection.cursor()
        await cursor.execute(statement, arguments or None)
        rows: Sequence[Any] = await cursor.fetchall() if cursor.description else ()
        return rows
    finally:
        connection.close()


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a thread with a loop of its own, since the caller may stand in a loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
