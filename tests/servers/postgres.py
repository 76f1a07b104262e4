"""A real PostgreSQL for tests: given by the environment, installed here, or in Docker; with fresh databases at will."""

import asyncio
import itertools
import os
import re
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from tests.servers import machine
from tests.servers.certificates import Certificate, make_certificate
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.wrong_clock import HOW_TO_GET_A_WRONG_CLOCK, wrong_clock

URL_VARIABLE = "PYNCETTE_TEST_POSTGRES_URL"

START_ATTEMPTS_MAX = 3
"""Attempts to start on a free port, which another process may take before the server does."""

START_SECONDS_MAX = 60
"""A server starts in a tenth of a second; a laden machine, or one that recovers after a crash, takes longer."""

DOCKER_IMAGE = "postgres:17-alpine"

MISSING = f"""\
These tests run on a real PostgreSQL server, and none could be had. Any one of these brings it:

  Debian, Ubuntu   sudo apt-get install postgresql      (as root, the tests do this by themselves)
  Fedora           sudo dnf install postgresql-server
  macOS            brew install postgresql@17
  Docker           start its engine; the tests run {DOCKER_IMAGE} in it
  a server         {URL_VARIABLE}=postgresql://USER:PASSWORD@HOST:PORT/DATABASE make test
                   (a user that may create databases; what the tests create, they drop again)

The server need not be running: the tests start their own, on a free port, in a folder that they throw away."""

PLACES = {
    "/usr/lib/postgresql": "*/bin",
    "/usr": "pgsql-*/bin",
    "/opt/homebrew/opt": "postgresql@*/bin",
    "/usr/local/opt": "postgresql@*/bin",
}
"""Where Debian, the PostgreSQL project's own packages, and Homebrew keep the programs that are not on PATH."""

NO_TIME = timedelta(0)

StopMode = Literal["smart", "fast", "immediate"]

T = TypeVar("T")


class Postgres(ABC):
    """A PostgreSQL server as tests see it, given or started by the tests. All methods block; none needs an event loop."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Of the administrator, in the database that is always there."""

    @abstractmethod
    def url_of(self, database: str) -> str:
        """Of the user that the product is to run as, who is no superuser if the server is our own."""

    @abstractmethod
    def close(self) -> None:
        """Leave no trace of what we brought: stop it and remove its data, if it is our own."""

    def create_database(self) -> str:
        """The URL of a new and empty database."""
        database = f"pyncette_test_{os.getpid()}_{next(_database_numbers)}"
        url = self.url_of(database)
        self.execute(f'CREATE DATABASE "{database}" OWNER "{urlsplit(url).username}" TEMPLATE template0')
        return url

    def drop_database(self, url: str) -> None:
        """Drop a database that create_database made, even if programs are still connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

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
        return len(
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE datname = '{urlsplit(url).path[1:]}' AND pid <> pg_backend_pid()"
            )
        )

    def execute(self, statement: str, url: str | None = None) -> list[asyncpg.Record]:
        """Run one statement as the administrator (or at *url*) on a connection of its own, and return its rows."""
        return _wait_for(_execute(url or self.url, statement))


class GivenPostgres(Postgres):
    """An external server, configured by PYNCETTE_TEST_POSTGRES_URL: for databases, not for breaking."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    def close(self) -> None:
        """Do nothing: an external server stays."""


class OwnPostgres(Postgres):
    """
    A throwaway server on a loopback port of its own, that tests may stop and start again.

    Passwords are asked for (scram-sha-256), `user` is no superuser, and the port and the data stay the same over a
    stop and a start. It ends with this process, also if that is killed. Unless it is *durable* it does not wait for
    the disk, which no test can tell (only a power cut loses data by that, a killed server does not) but a benchmark can.
    """

    administrator = "postgres"
    user = "pyncette"

    def __init__(self) -> None:
        self.port = 0
        self.password = secrets.token_urlsafe(12)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"postgresql://{self.administrator}:{quote(self.password)}@127.0.0.1:{self.port}/postgres"

    def url_of(self, database: str) -> str:
        return f"postgresql://{self.user}:{quote(self.password)}@127.0.0.1:{self.port}/{database}"

    @abstractmethod
    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        """
        Start after a stop, with the server's clock ahead of ours (or behind, if negative).

        A wrong clock is libfaketime's, loaded into the server alone: now() and whatever else reads the time of day is
        shifted, while waits and timeouts last as long as ever. So it can stand for a standby whose clock differs.
        """

    @abstractmethod
    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it: `fast` rolls back and disconnects, `immediate` is a crash, `smart` waits until clients are gone."""

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

    def _start_on_a_free_port(self) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            self.port = machine.free_port()
            try:
                self._start_first_time()
                break
            except ServerDidNotStartError:
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise
        self.execute(f"CREATE ROLE \"{self.user}\" LOGIN CREATEDB PASSWORD '{self.password}'")

    @abstractmethod
    def _start_first_time(self) -> None:
        """Start on `port`; ServerDidNotStartError if it did not come up, and then another port is tried."""


class InstalledPostgres(OwnPostgres):
    """Runs the programs of an installed PostgreSQL on a data folder of its own."""

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        super().__init__()
        self._programs = programs
        self._account = machine.account_for("postgres")
        self._folder = machine.folder_of(self._account, "pyncette-postgres-")
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self._watchdog = machine.Watchdog(
            '"$1" stop -D "$2" -m immediate -w; rm -rf "$3"',
            programs / "pg_ctl", self._data, self._folder,
            account=self._account,
        )  # fmt: skip
        try:
            self._initialise(durable=durable)
            self._start_on_a_free_port()
        except BaseException:
            self.close()
            raise

    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        started = self._pg_ctl(
            "start", "--wait", f"--timeout={START_SECONDS_MAX}", f"--log={self._log}", f"--options=-p {self.port}",
            environment=wrong_clock(clock_ahead) if clock_ahead else {},
        )  # fmt: skip
        if started.returncode != 0:
            raise ServerDidNotStartError(f"{started.stdout}{started.stderr}\n{self._end_of_log()}")

    def stop(self, mode: StopMode = "fast") -> None:
        stopped = self._pg_ctl("stop", "--wait", f"--mode={mode}")
        assert stopped.returncode == 0, stopped.stderr

    def close(self) -> None:
        self._watchdog.fire()

    def encrypt(self) -> Certificate:
        """Accept TLS from now on, with the certificate for `localhost` that is returned."""
        certificate = make_certificate(self._folder, account=self._account)
        for name, value in {
            "ssl_cert_file": certificate.file,
            "ssl_key_file": certificate.key,
            "ssl": "on",
        }.items():
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.restart()  # a reload would be enough, and nothing tells when it has been read
        return certificate

    def _start_first_time(self) -> None:
        self.start()

    def _initialise(self, *, durable: bool) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        made = self._account.run(
            self._programs / "initdb", "--pgdata", self._data, "--username", self.administrator, "--auth=scram-sha-256",
            "--pwfile", password_file, "--encoding=UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        if made.returncode != 0:
            raise ServerDidNotStartError(f"initdb failed: {made.stderr}")
        settings = ["listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", "max_connections = 200"]
        if not durable:
            settings += ["fsync = off", "full_page_writes = off"]
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write("\n".join(["", *settings, ""]))

    def _pg_ctl(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return self._account.run(
            self._programs / "pg_ctl", *arguments, "--silent", "-D", self._data, environment=environment
        )

    def _end_of_log(self) -> str:
        return self._log.read_text()[-2000:] if self._log.exists() else ""


class PostgresInDocker(OwnPostgres):
    """Runs the official image in a container that is removed with this process."""

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self._settings = ["-c", "max_connections=200"]
        if not durable:
            self._settings += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._container = f"pyncette-postgres-{secrets.token_hex(6)}"
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
        self._wait_until_it_answers()

    def stop(self, mode: StopMode = "fast") -> None:
        # What pg_ctl sends for each mode.
        signal = {"smart": "TERM", "fast": "INT", "immediate": "QUIT"}[mode]
        self._docker("kill", f"--signal={signal}", self._container)
        self._docker("wait", self._container)

    def close(self) -> None:
        self._watchdog.fire()

    def _start_first_time(self) -> None:
        subprocess.run(["docker", "rm", "--force", self._container], capture_output=True)
        self._docker(
            "run", "--detach", "--name", self._container, "--publish", f"127.0.0.1:{self.port}:5432",
            "--env", f"POSTGRES_PASSWORD={self.password}", DOCKER_IMAGE, *self._settings,
        )  # fmt: skip
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        """The port is open before the server is, and the image starts its server twice, the first time unreachable."""
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if time.monotonic() > end:
                    raise ServerDidNotStartError(
                        self._docker("logs", "--tail=20", self._container)
                    ) from error
                time.sleep(0.1)
            else:
                return

    def _docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            raise ServerDidNotStartError(f"docker {arguments[0]}: {done.stderr}")
        return done.stdout


def open_postgres(*, own: bool = False, durable: bool = False) -> GivenPostgres | OwnPostgres:
    """
    The server that the environment names; or one of our own, from what is installed, else installed now, else Docker.

    With *own*, one that may be stopped and broken, whatever the environment names. Raises MissingServerError.
    """
    given = os.environ.get(URL_VARIABLE)
    if given and not own:
        return GivenPostgres(given)
    programs = installed_programs() or _install_programs()
    if programs:
        return InstalledPostgres(programs, durable=durable)
    if machine.docker_runs():
        return PostgresInDocker(durable=durable)
    raise MissingServerError(MISSING)


def installed_programs() -> Path | None:
    """Where initdb, pg_ctl and postgres are: on PATH, where pg_config says, or where Debian or Homebrew keeps them."""
    return next((folder for folder in _likely_folders() if _is_complete(folder)), None)


def _likely_folders() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    if shutil.which("pg_config"):
        said = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True).stdout.strip()
        yield Path(said)
    for place, pattern in PLACES.items():
        yield from sorted(Path(place).glob(pattern), key=_version_in, reverse=True)


def _version_in(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("initdb", "pg_ctl", "postgres"))


def _install_programs() -> Path | None:
    """Install Debian's or Ubuntu's server, if we may, and remove the cluster that comes with the first one."""
    if not machine.can_install_packages() or not machine.install_package("postgresql"):
        return None
    programs = installed_programs()
    if programs:
        # A cluster of this name is new: there was no server before that could have had one.
        subprocess.run(["pg_dropcluster", "--stop", programs.parent.name, "main"], capture_output=True)
    return programs


_database_numbers = itertools.count(1)


async def _execute(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a thread with a loop of its own, since the caller may stand in a loop."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()
