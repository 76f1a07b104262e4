"""Whatever the API server answers, or does not, it is told in the words of the port."""

import asyncio
import json
import logging
import socket
from contextlib import asynccontextmanager

import pytest
import yaml
from aiohttp import web

from pyncette.controller.cluster import client as kubernetes
from pyncette.controller.cluster.api import (
    POOLS,
    TASKS,
    ApiUnavailableError,
    ConflictError,
    ForbiddenError,
    NoSuchKindError,
    NoSuchObjectError,
    ObjectName,
    RefusedError,
)
from pyncette.controller.cluster.client import Kubernetes, error_of
from pyncette.controller.cluster.credentials import Credentials
from pyncette.errors import ConfigurationError

REPORT = ObjectName("default", "report")
SECRET = "no-one-may-see-this"


def status(code, reason="", message="", **details):
    return json.dumps(
        {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
    ).encode()


@pytest.mark.parametrize(
    ("code", "answer", "error"),
    [
        (404, status(404, "NotFound", name="report", kind="pyncettetasks"), NoSuchObjectError),
        (404, status(404, "NotFound", name="gone", kind="namespaces"), NoSuchObjectError),
        (404, b"404 page not found\n", NoSuchKindError),
        (404, status(404, "NotFound", "the server could not find the requested resource"), NoSuchKindError),
        (404, status(404, "NotFound", name="another", kind="pyncettetasks"), NoSuchKindError),
        (404, b"<html>no such page: report</html>", NoSuchKindError),
        (404, b'{"kind": "Status", "details": null}', NoSuchKindError),
        (409, status(409, "Conflict"), ConflictError),
        (409, status(409, "AlreadyExists"), ConflictError),
        (403, status(403, "Forbidden"), ForbiddenError),
        (400, status(400, "BadRequest", "odd"), RefusedError),
        (413, status(413, "RequestEntityTooLarge", "odd"), RefusedError),
        (422, status(422, "Invalid", "odd"), RefusedError),
        (422, status(422, "Invalid", "odd", causes=[{"field": "spec.replicas"}]), RefusedError),
        (422, status(422, "Invalid", "odd", causes=[{"field": "metadata.uid"}]), ConflictError),
        (
            500,
            status(500, "", "failed to create typed patch object (shop/a; v1, Kind=A): .b: bad"),
            RefusedError,
        ),
        (500, status(500, "", "failed to convert new object (shop/a; v1, Kind=A): quantities"), RefusedError),
        (500, status(500, "InternalError", "failed to create typed patch object"), ApiUnavailableError),
        (500, status(500, "", "etcdserver: request timed out"), ApiUnavailableError),
        (401, status(401, "Unauthorized"), ApiUnavailableError),
        (408, b"", ApiUnavailableError),
        (410, status(410, "Expired"), ApiUnavailableError),
        (429, status(429, "TooManyRequests"), ApiUnavailableError),
        (500, status(500, "InternalError"), ApiUnavailableError),
        (502, b"\xff\x00 no text at all", ApiUnavailableError),
        (503, b"apiserver is shutting down", ApiUnavailableError),
        (504, status(504, "Timeout"), ApiUnavailableError),
        (302, b"", ApiUnavailableError),
    ],
)
def test_each_answer_has_its_meaning(code, answer, error):
    assert type(error_of(code, answer, "GET /path", "report")) is error


def test_what_is_refused_is_reported_in_the_words_of_the_api_server():
    told = error_of(
        422, status(422, "Invalid", "spec.replicas: must not be negative"), "PATCH /path", "report"
    )

    assert str(told) == "spec.replicas: must not be negative"


def test_what_a_proxy_says_is_cut():
    assert len(str(error_of(502, b"x" * 100_000, "GET /path", "report"))) < 2000


class Server:
    """An API server that answers as a test wants it to."""

    def __init__(self):
        self.answers = []
        self.asked = []
        self.queries = []
        self.port = 0

    @asynccontextmanager
    async def running(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request):
        self.asked.append(
            (request.method, request.raw_path.split("?")[0], request.headers.get("Authorization"))
        )
        self.queries.append(dict(request.query))
        code, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(body):
            body = await body(request)
        return web.Response(status=code, body=body, content_type="application/json")

    def kubeconfig(self, folder, **user):
        path = folder / "kubeconfig.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "it",
                    "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": "it", "user": user or {"token": SECRET}}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                }
            )
        )
        return str(path)


@pytest.fixture
async def server():
    async with Server().running() as server:
        yield server


@pytest.fixture
async def api(server, tmp_path):
    async with Kubernetes(Credentials(server.kubeconfig(tmp_path))) as api:
        yield api


def page(*names, version="7", following=""):
    metadata = {"resourceVersion": version, **({"continue": following} if following else {})}
    return 200, json.dumps(
        {"metadata": metadata, "items": [{"metadata": {"name": n}} for n in names]}
    ).encode()


async def test_a_list_follows_its_pages(server, api):
    server.answers = [page("a", "b", following="token/+"), page("c")]

    pages = [page async for page in api.list(TASKS, "reports", "team=a,!b")]

    assert [[item["metadata"]["name"] for item in page.items] for page in pages] == [["a", "b"], ["c"]]
    assert pages[0].items[0]["kind"] == "PyncetteTask"
    path = "/apis/pyncette.dev/v1alpha1/namespaces/reports/pyncettetasks"
    assert [asked[1] for asked in server.asked] == [path, path]
    asked = {"limit": "50", "labelSelector": "team=a,!b"}
    assert server.queries == [asked, {**asked, "limit": "500", "continue": "token/+"}]


def large_pages(sizes):
    """Answer with pages of a list of objects, as large as *sizes* says, and of as many as are asked for."""

    async def answer(request):
        start, limit = int(request.query.get("continue", "0")), int(request.query["limit"])
        items = [
            {"metadata": {"name": f"report-{start + number}", "labels": {"team": "x" * size}}}
            for number, size in enumerate(sizes[start : start + limit])
        ]
        following = start + len(items)
        more = {"continue": str(following)} if following < len(sizes) else {}
        return json.dumps({"metadata": {"resourceVersion": "7", **more}, "items": items}).encode()

    return answer


async def test_pages_have_as_many_objects_as_fit_into_some_megabytes(server, api):
    sizes = [1_000] * 100 + [100_000] * 600 + [1_000] * 100
    server.answers = [(200, large_pages(sizes))]

    names = [item["metadata"]["name"] async for page in api.list(TASKS, None) for item in page.items]

    assert names == [f"report-{number}" for number in range(len(sizes))]
    limits = [int(query["limit"]) for query in server.queries]
    assert limits[:3] == [
        50,
        500,
        62,
    ]  # 50 small ones; 500, whose 45 MB are not read to the end; fewer in their place
    assert min(limits[3:-2]) < 50
    assert len(limits) < 30


async def test_a_page_of_one_object_that_is_too_large_is_an_error(server, api, monkeypatch):
    monkeypatch.setattr(kubernetes, "PAGE_BYTES_MAX", 10_000)
    server.answers = [(200, large_pages([20_000]))]

    with pytest.raises(ApiUnavailableError, match="more than 10,000 bytes"):
        [page async for page in api.list(TASKS, None)]


async def test_an_empty_list_is_a_page_of_nothing(server, api):
    server.answers = [(200, b'{"metadata": {"resourceVersion": "7"}, "items": null}')]

    assert [page async for page in api.list(TASKS, None)] == [([], "7")]


async def test_a_list_that_expires_half_way_is_no_list(server, api):
    server.answers = [page("a", following="more"), (410, status(410, "Expired"))]

    with pytest.raises(ApiUnavailableError):
        [page async for page in api.list(TASKS, None)]


async def test_pages_of_two_moments_are_no_list(server, api):
    server.answers = [page("a", following="more"), page("b", version="8")]

    with pytest.raises(ApiUnavailableError, match="expired between two pages"):
        [page async for page in api.list(TASKS, None)]


async def test_a_name_cannot_lead_elsewhere(server, api):
    server.answers = [(200, b'{"metadata": {}}')]

    await api.get(TASKS, ObjectName("default", "../../secrets?x=1#"))

    assert server.asked[0][1].endswith("/namespaces/default/pyncettetasks/..%2F..%2Fsecrets%3Fx=1%23")


async def test_an_answer_that_is_no_json_is_no_answer(server, api):
    server.answers = [(200, b'{"metadata": {')]

    with pytest.raises(ApiUnavailableError, match="not a JSON object"):
        await api.get(TASKS, REPORT)


async def test_a_response_that_takes_too_long_is_no_response(server, tmp_path):
    async def never(_):
        await asyncio.sleep(30)

    server.answers = [(200, never)]

    async with Kubernetes(Credentials(server.kubeconfig(tmp_path)), request_seconds=0.2) as api:
        with pytest.raises(ApiUnavailableError, match="no response within"):
            await api.get(TASKS, REPORT)


async def test_a_connection_that_breaks_is_no_answer(server, api):
    async def gone(request):
        request.transport.abort()
        return b""

    server.answers = [(200, gone)]

    with pytest.raises(ApiUnavailableError):
        await api.get(TASKS, REPORT)


async def test_a_server_that_is_not_there_is_unavailable(server, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server.port = nobody.getsockname()[1]
        async with Kubernetes(Credentials(server.kubeconfig(tmp_path))) as api:
            with pytest.raises(ApiUnavailableError):
                await api.served()


async def test_a_crd_that_is_not_served_is_not_named(server, api):
    server.answers = [
        (404, b"404 page not found"),
        (
            200,
            json.dumps({"resources": [{"name": "pyncettetasks"}, {"name": "pyncettetasks/status"}]}).encode(),
        ),
    ]

    assert await api.served() == frozenset()
    assert await api.served() == {TASKS.plural}
    assert POOLS.plural not in await api.served()


async def test_a_subresource_is_asked_for_as_one(server, api):
    bodies = []

    async def note(request):
        bodies.append(await request.json())
        return b'{"status": {"allowed": true}}'

    server.answers = [(201, note)]

    assert await api.may("patch", TASKS._replace(plural="pyncettetasks/status"), None)
    assert bodies[0]["spec"]["resourceAttributes"] == {
        "verb": "patch",
        "group": "pyncette.dev",
        "resource": "pyncettetasks",
        "subresource": "status",
        "namespace": "",
    }


async def test_an_expired_token_is_read_again_and_the_request_made_once_more(server, tmp_path):
    file = tmp_path / "token"
    file.write_text("old\n")
    async with Kubernetes(Credentials(server.kubeconfig(tmp_path, tokenFile=str(file)))) as api:
        file.write_text("new\n")
        server.answers = [(401, status(401, "Unauthorized")), (200, b'{"metadata": {}}')]

        await api.get(TASKS, REPORT)

    assert [authorization for *_, authorization in server.asked] == ["Bearer old", "Bearer new"]


async def test_a_token_that_is_refused_is_not_tried_again(server, api):
    server.answers = [(401, status(401, "Unauthorized"))]

    with pytest.raises(ApiUnavailableError):
        await api.get(TASKS, REPORT)

    assert len(server.asked) == 1


async def test_a_token_file_that_is_missing_for_a_moment_does_no_harm(server, tmp_path):
    file = tmp_path / "token"
    file.write_text("old")
    async with Kubernetes(Credentials(server.kubeconfig(tmp_path, tokenFile=str(file)))) as api:
        file.unlink()
        server.answers = [(401, status(401, "Unauthorized"))]

        with pytest.raises(ApiUnavailableError):
            await api.get(TASKS, REPORT)


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """Where a pod finds its credentials."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("certificate")
    return Credentials(None, str(tmp_path / "token"), str(tmp_path / "ca.crt"))


async def test_a_pod_logs_in_with_its_service_account(pod, tmp_path):
    configuration = await pod.read()

    assert configuration.host == "https://127.0.0.1:1"
    assert kubernetes.authorization_of(configuration) == "Bearer first"
    (tmp_path / "token").write_text("second\n")
    assert kubernetes.authorization_of(await pod.read()) == "Bearer second"


async def test_the_token_of_a_pod_is_read_again_before_it_expires(server, pod, tmp_path):
    class Plain(Credentials):
        async def read(self):
            configuration = await super().read()
            configuration.host = f"http://127.0.0.1:{server.port}"
            configuration.ssl_ca_cert = None
            return configuration

    server.answers = [(200, b'{"metadata": {}}')]
    async with Kubernetes(Plain(*pod), token_seconds=0.0) as api:
        (tmp_path / "token").write_text("second")
        await api.get(TASKS, REPORT)

    assert server.asked[0][2] == "Bearer second"


@pytest.mark.parametrize("content", ["", "[]", "{}", "clusters: 3", "current-context: it"])
async def test_a_kubeconfig_that_makes_no_sense_is_named(tmp_path, content):
    path = tmp_path / "kubeconfig"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match=str(path)):
        await Credentials(str(path)).read()


async def test_a_kubeconfig_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        await Credentials(str(tmp_path / "nowhere")).read()


async def test_no_token_is_ever_logged(server, api, caplog):
    caplog.set_level(logging.DEBUG)
    server.answers = [(401, status(401, "Unauthorized")), (500, b"boom"), (200, b'{"metadata": {}}')]
    told = []
    for _ in range(2):
        with pytest.raises(ApiUnavailableError) as raised:
            await api.get(TASKS, REPORT)
        told.append(str(raised.value))
    await api.get(TASKS, REPORT)

    assert server.asked[0][2] == f"Bearer {SECRET}"
    assert SECRET not in caplog.text + "".join(told)
