"""With TLS required, no client of AWS sends anything to a server that the environment names without TLS."""

import asyncio
import contextlib
import ssl

import pytest

from pyncette.errors import ConfigurationError, StoreError, StoreRefusedError
from pyncette.store.backend import read_backend
from pyncette.store.tls import Tls
from pyncette.testing.faults import assert_is_one_sentence
from tests.servers.certificates import make_certificate
from tests.servers.dynamodb import CREDENTIALS

URL = "dynamodb://eu-west-1/tasks"

IN_THE_CONFIGURATION = "endpoint_url in the configuration file of AWS"

PLAIN = {
    # the variables, and the configuration file, that name an endpoint; the setting to change
    "all services": ({"AWS_ENDPOINT_URL": "{}"}, "", "AWS_ENDPOINT_URL"),
    "DynamoDB": ({"AWS_ENDPOINT_URL_DYNAMODB": "{}"}, "", "AWS_ENDPOINT_URL_DYNAMODB"),
    "in other letters": ({"AWS_ENDPOINT_URL": "HTTP://localhost:1"}, "", "AWS_ENDPOINT_URL"),
    "both": (
        {"AWS_ENDPOINT_URL_DYNAMODB": "{}", "AWS_ENDPOINT_URL": "https://h"},
        "",
        "AWS_ENDPOINT_URL_DYNAMODB",
    ),
    "a profile": ({}, "[default]\nendpoint_url = {}\n", IN_THE_CONFIGURATION),
    "services of a profile": (
        {},
        "[default]\nservices = local\n[services local]\ndynamodb =\n  endpoint_url = {}\n",
        IN_THE_CONFIGURATION,
    ),
}


class Listener:
    """A server that closes each connection, and counts them."""

    def __init__(self):
        self.met = 0

    @contextlib.asynccontextmanager
    async def listening(self, context=None):
        async with await asyncio.start_server(self._meet, "localhost", 0, ssl=context) as server:
            yield f"http{'s' if context else ''}://localhost:{server.sockets[0].getsockname()[1]}"

    def _meet(self, _, writer):
        self.met += 1
        writer.close()


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """Set the variables of AWS, and the text of its configuration file, after the address of a server is put in."""

    def set_up(endpoint, variables, configuration=""):
        (tmp_path / "config").write_text(configuration.format(endpoint))
        for name, value in (CREDENTIALS | variables).items():
            monkeypatch.setenv(name, value.format(endpoint))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    return set_up


async def opened(url, tls):
    async with read_backend(url).with_tls(tls).new_store():
        pass


@pytest.mark.parametrize(("variables", "configuration", "setting"), PLAIN.values(), ids=PLAIN)
async def test_an_endpoint_of_the_environment_without_tls_is_refused(aws, variables, configuration, setting):
    listener = Listener()
    async with listener.listening() as endpoint:
        aws(endpoint, variables, configuration)
        with pytest.raises(ConfigurationError) as told:
            await opened(URL, Tls.REQUIRED)

    assert_is_one_sentence(told.value, "TLS is required", f"{setting} begins with http://", "https://")
    assert not listener.met


async def test_without_that_demand_such_an_endpoint_is_used(aws):
    listener = Listener()
    async with listener.listening() as endpoint:
        aws(endpoint, {"AWS_ENDPOINT_URL": "{}"})
        with pytest.raises(StoreError):
            await opened(URL, Tls.PREFERRED)

    assert listener.met


async def test_an_endpoint_that_nobody_uses_is_no_reason_to_refuse(aws, tmp_path):
    listener = Listener()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate = make_certificate(tmp_path)
    context.load_cert_chain(*certificate)
    async with listener.listening(context) as endpoint:
        aws(endpoint, {"AWS_ENDPOINT_URL": "http://h", "AWS_ENDPOINT_URL_STS": "http://h"})
        with pytest.raises(StoreError):
            await opened(f"{URL}?endpoint={endpoint}&ca={certificate.file}", Tls.REQUIRED)

    assert listener.met


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"])
async def test_credentials_of_a_role_do_not_come_from_a_server_without_tls(
    aws, tmp_path, monkeypatch, variable
):
    listener = Listener()
    (tmp_path / "token").write_text("a token of Kubernetes")
    role = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": f"{tmp_path}/token",
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/pyncette",
    }
    async with listener.listening() as endpoint:
        aws(endpoint, {variable: "{}", **role})
        for name in CREDENTIALS:
            monkeypatch.delenv(name)
        with pytest.raises(ConfigurationError) as told:
            await opened(f"{URL}?endpoint=https://localhost:1", Tls.REQUIRED)

    assert_is_one_sentence(told.value, "TLS is required", f"{variable} begins with http://")
    assert not listener.met


async def test_an_empty_name_of_a_file_with_authorities_does_not_turn_verification_off(aws, tmp_path):
    listener = Listener()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*make_certificate(tmp_path))
    async with listener.listening(context) as endpoint:
        aws(endpoint, {"AWS_CA_BUNDLE": ""})
        with pytest.raises(StoreRefusedError, match="is not trusted"):
            await opened(f"{URL}?endpoint={endpoint}", Tls.REQUIRED)

    assert not listener.met
