"""A real DynamoDB Local for tests: given by the environment, run from the vendor's own jars, or in Docker; and moto."""

import asyncio
import fcntl
import itertools
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aioboto3  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from tests.servers import machine
from tests.servers.certificates import make_certificate
from tests.servers.errors import MissingServerError, ServerDidNotStartError
from tests.servers.wrong_clock import wrong_clock

URL_VARIABLE = "PYNCETTE_TEST_DYNAMODB_URL"

VERSION = "3.3.1"

REGION = "eu-west-1"

START_ATTEMPTS_MAX = 3
"""Attempts to start on a free port, which another process may take before the server does."""

START_SECONDS_MAX = 60
"""A virtual machine of Java starts in two seconds; on a laden machine it takes longer."""

STOP_SECONDS_MAX = 20

MAVEN_SECONDS_MAX = 600
"""Fifty megabytes, once."""

JAVA_OLDEST = 17

MAIN = "software.amazon.dynamodb.services.local.main.ServerRunner"

DOCKER_IMAGE = f"amazon/dynamodb-local:{VERSION}"

MISSING = f"""\
These tests run on a real DynamoDB Local, and none could be had. Any one of these brings it:

  Debian, Ubuntu   sudo apt-get install openjdk-17-jre-headless maven   (as root, the tests do this by themselves)
  Fedora           sudo dnf install java-21-openjdk-headless maven
  macOS            brew install openjdk maven
  Docker           start its engine; the tests run {DOCKER_IMAGE} in it
  a server         {URL_VARIABLE}=http://HOST:PORT make test
                   (with AWS credentials in the environment that may create tables; what the tests create, they drop)

With Java and Maven the tests fetch the program from Maven Central, once, and keep it in a cache beside those of others."""

POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pyncette.tests</groupId>
  <artifactId>dynamodb-local</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>software.amazon.dynamodb</groupId>
      <artifactId>DynamoDBLocal</artifactId>
      <version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

NO_TIME = timedelta(0)

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAOFTESTS",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a server on this machine asks for: anything. Those of a server that is given stand in the environment already."""


class DynamoDb(ABC):
    """A server as tests see it, given or started by the tests. All methods block; none needs an event loop."""

    options = ""
    """What a URL needs beside the endpoint."""

    @property
    @abstractmethod
    def endpoint(self) -> str: ...

    @abstractmethod
    def close(self) -> None:
        """Leave no trace of what we brought."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url_of(self, table: str, **options: object) -> str:
        given = "".join(f"&{name}={quote(str(value))}" for name, value in options.items())
        return f"dynamodb://{REGION}/{table}?endpoint={quote(self.endpoint, safe=':/')}{self.options}{given}"

    @contextmanager
    def fresh_table(self) -> Iterator[str]:
        """The name of a table that is not there, and is dropped afterwards if it was made."""
        table = f"pyncette_test_{os.getpid()}_{next(_numbers)}"
        try:
            yield table
        finally:
            self.drop(table)

    def drop(self, table: str) -> None:
        try:
            self.call("delete_table", TableName=table)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise

    def call(self, operation: str, **parameters: Any) -> Any:
        """Make one request as an administrator."""
        with ThreadPoolExecutor(max_workers=1) as thread:  # the caller may stand in a loop
            return thread.submit(asyncio.run, _call(self.endpoint, operation, parameters)).result()


class GivenDynamoDb(DynamoDb):
    """An external server, configured by PYNCETTE_TEST_DYNAMODB_URL: for tables, not for breaking."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    @property
    def endpoint(self) -> str:
        return self._endpoint

    def close(self) -> None:
        """Do nothing: an external server stays."""


class OwnDynamoDb(DynamoDb):
    """
    A throwaway server on a loopback port of its own, that tests may stop and start again.

    The port stays the same over a stop and a start, and so do the tables if it is *durable*; it ends with this process,
    also if that is killed.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.port = 0
        self._durable = durable
        self._folder = machine.folder_of(machine.our_account(), "pyncette-dynamodb-")
        self._log = self._folder / "log"
        self._pid_file = self._folder / "pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = machine.Watchdog(
            'test -f "$1/pid" && kill -9 $(cat "$1/pid"); rm -rf "$1"',
            self._folder,
            account=machine.our_account(),
        )
        try:
            self._start_on_a_free_port()
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, clock_ahead: timedelta = NO_TIME) -> None:
        """Start after a stop, with the server's clock ahead of ours (or behind, if negative)."""
        environment = wrong_clock(clock_ahead) if clock_ahead else {}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a ctrl-C at the terminal must not end it before us
            )
        self._pid_file.write_text(str(self._process.pid))
        self._wait_until_it_answers()

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(STOP_SECONDS_MAX)
        self._pid_file.unlink()

    @contextmanager
    def stopped(self, *, clock_ahead: timedelta = NO_TIME) -> Iterator[None]:
        """Out of order inside the context; afterwards it runs again, with the clock that is asked for."""
        self.stop()
        try:
            yield
        finally:
            self.start(clock_ahead=clock_ahead)

    def close(self) -> None:
        self._watchdog.fire()
        if self._process is not None:
            self._process.wait(STOP_SECONDS_MAX)

    @abstractmethod
    def _command(self) -> list[str]:
        """What runs the server on `port`."""

    def _start_on_a_free_port(self) -> None:
        for attempt in range(START_ATTEMPTS_MAX):
            self.port = machine.free_port()
            try:
                self.start()
                return
            except ServerDidNotStartError:
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS_MAX
        while not _answers(self.endpoint):
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                raise ServerDidNotStartError(self._log.read_text()[-2000:])
            time.sleep(0.05)


class DynamoDbLocal(OwnDynamoDb):
    """The vendor's own, from its jars."""

    def __init__(self, java: str, jars: Path, *, durable: bool = False, fast: bool = False) -> None:
        self._java = java
        self._jars = jars
        self._fast = fast
        super().__init__(durable=durable)

    def _command(self) -> list[str]:
        where = ["-dbPath", str(self._folder)] if self._durable else ["-inMemory"]
        return [
            self._java, "-Xmx512m", "-XX:+UseSerialGC", *self._haste(), f"-Djava.library.path={self._jars}",
            "-cp", f"{self._jars}/*", MAIN, *where, "-port", str(self.port), "-disableTelemetry",
        ]  # fmt: skip

    def _haste(self) -> list[str]:
        """A test ends before the better of two compilers has paid for itself."""
        return [] if self._fast else ["-XX:TieredStopAtLevel=1"]


class DynamoDbInDocker(DynamoDb):
    """The vendor's image, in a container that is removed with this process."""

    def __init__(self) -> None:
        self._port = machine.free_port()
        self._container = f"pyncette-dynamodb-{secrets.token_hex(6)}"
        self._watchdog = machine.Watchdog(
            'docker rm --force "$1"', self._container, account=machine.our_account()
        )
        run = ["docker", "run", "--detach", "--name", self._container]
        run += ["--publish", f"127.0.0.1:{self._port}:8000", DOCKER_IMAGE]
        run += ["-jar", "DynamoDBLocal.jar", "-inMemory"]
        done = subprocess.run(run, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            self.close()
            raise ServerDidNotStartError(done.stderr)
        end = time.monotonic() + START_SECONDS_MAX
        while not _answers(self.endpoint):
            if time.monotonic() > end:
                self.close()
                raise ServerDidNotStartError("the container does not answer")
            time.sleep(0.1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        self._watchdog.fire()


class Moto(OwnDynamoDb):
    """
    Another implementation, for a second opinion. It knows no PartiQL with parameters, so writes are not batched.

    It is no program for threads, so it answers one request at a time.
    """

    options = "&batches=off"

    def _command(self) -> list[str]:
        serve = (
            "import sys; from werkzeug.serving import run_simple;"
            "from moto.server import DomainDispatcherApplication, create_backend_app;"
            "run_simple('127.0.0.1', int(sys.argv[1]), DomainDispatcherApplication(create_backend_app),"
            " ssl_context=tuple(sys.argv[2:]) or None)"
        )
        return [sys.executable, "-c", serve, str(self.port)]


class MotoWithTls(Moto):
    """One that speaks TLS alone, with a certificate that `authority` vouches for: its own."""

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def authority(self) -> Path:
        return self._folder / "localhost.pem"

    def _command(self) -> list[str]:
        return [*super()._command(), *map(str, make_certificate(self._folder))]


def open_dynamodb(*, own: bool = False, durable: bool = False, fast: bool = False) -> DynamoDb:
    """
    The server that the environment names; or one of our own, from the vendor's jars, else Docker.

    With *own*, one that may be stopped and broken, whatever the environment names. One that is *fast* starts slowly, and is
    as fast as it gets after some minutes. Raises MissingServerError.
    """
    given = os.environ.get(URL_VARIABLE)
    if given and not own:
        return GivenDynamoDb(given)
    java = (
        _java() or _installed("openjdk-17-jre-headless", _java) or _installed("default-jre-headless", _java)
    )
    jars = _jars() if java else None
    if java and jars:
        return DynamoDbLocal(java, jars, durable=durable, fast=fast)
    if not own and _docker_runs():
        return DynamoDbInDocker()
    raise MissingServerError(MISSING)


@contextmanager
def open_dynamodb_with_tls() -> Iterator[MotoWithTls]:
    """A server of our own that speaks TLS, and credentials for it."""
    with credentials(), MotoWithTls() as server:
        yield server


@contextmanager
def credentials() -> Iterator[Mapping[str, str]]:
    """Credentials in the environment, for us and for the programs that we start, unless there are some."""
    if os.environ.get(URL_VARIABLE):
        yield {}
        return
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    try:
        yield CREDENTIALS
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)  # a test may have removed it
            else:
                os.environ[name] = value


# --- The program -----------------------------------------------------------------------------------------------------


def _java() -> str | None:
    """A Java that is new enough."""
    java = shutil.which("java")
    if java is None:
        return None
    said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(\d+)', said)
    return java if version and int(version[1]) >= JAVA_OLDEST else None


def _installed(package: str, find: Any) -> Any:
    """Install a package of Debian or Ubuntu, if we may, and look again."""
    if machine.can_install_packages() and machine.install_package(package):
        return find()
    return None


def _jars() -> Path | None:
    """The folder with the program and all that it needs; fetched if it is not there, by one process at a time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyncette-tests"
    cache.mkdir(parents=True, exist_ok=True)
    jars = cache / f"dynamodb-local-{VERSION}"
    with (cache / f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (jars / f"DynamoDBLocal-{VERSION}.jar").exists():
            _fetch(jars)
    return jars if jars.exists() else None


def _fetch(jars: Path) -> None:
    maven = shutil.which("mvn") or _installed("maven", lambda: shutil.which("mvn"))
    if maven is None:
        return
    print("fetching DynamoDB Local for the tests, with Maven", file=sys.stderr, flush=True)
    shutil.rmtree(jars, ignore_errors=True)
    coming = jars.with_suffix(
        ".coming"
    )  # what a process leaves behind that is killed is not mistaken for the whole
    shutil.rmtree(coming, ignore_errors=True)
    coming.mkdir()
    (coming / "pom.xml").write_text(POM)
    command = [maven, "--batch-mode", "--quiet", "dependency:copy-dependencies"]
    command += ["-DoutputDirectory=.", "-DincludeScope=runtime"]
    done = subprocess.run(
        command,
        cwd=coming,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=MAVEN_SECONDS_MAX,
    )
    if done.returncode == 0:
        coming.rename(jars)
    else:
        print(done.stdout, done.stderr, file=sys.stderr, flush=True)


def _docker_runs() -> bool:
    return (
        bool(shutil.which("docker"))
        and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


_numbers = itertools.count(1)


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(endpoint, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # what it says to somebody without a signature
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLCertVerificationError)
    except OSError:
        return False


async def _call(endpoint: str, operation: str, parameters: dict[str, Any]) -> Any:
    async with aioboto3.Session().client("dynamodb", region_name=REGION, endpoint_url=endpoint) as client:
        return await getattr(client, operation)(**parameters)
