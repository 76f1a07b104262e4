"""Asks the API server over HTTP, and says what went wrong in the words of the port."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes_asyncio.client.rest import RESTClientObject

from pyncette._version import __version__
from pyncette.controller.cluster.api import (
    FIELD_MANAGER,
    NAMESPACES,
    OWN_KINDS,
    PAGE,
    TASKS,
    ApiError,
    ApiUnavailableError,
    ConflictError,
    ForbiddenError,
    Kind,
    Manifest,
    NoSuchKindError,
    NoSuchObjectError,
    ObjectName,
    Page,
    RefusedError,
    kind_of,
)
from pyncette.controller.cluster.credentials import Credentials, authorization_of
from pyncette.controller.cluster.decoding import decodable, decode
from pyncette.controller.cluster.reduction import StoredObject
from pyncette.errors import ConfigurationError

logger = logging.getLogger(__name__)

FIRST_PAGE_OBJECTS: Final = 50
"""Number of objects on the first page of a list, whose size is unknown."""

PAGE_BYTES: Final = 4 * 2**20
"""Target size of a page, by the average object of the page before."""

PAGE_BYTES_MAX: Final = 32 * 2**20
"""Maximum size of a page. A larger one is requested again with fewer objects. An object has 3 MB at most."""

PAGE_REDUCTION: Final = 8
"""Factor by which the number of objects is reduced after a page that was too large."""

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 30.0
"""Of a request as a whole. A page of a list takes a second, anything else milliseconds; the API server's own limit is 60 s."""

TOKEN_SECONDS: Final = 60.0
"""How old a token may be before its file is read again. The kubelet writes a new one when a fifth of its life is left."""

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
"""JSON is YAML."""

SELF_REVIEWS: Final = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"
)

UNACCEPTABLE: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Statuses that blame the object itself."""

MISSHAPEN: Final = ("failed to create typed patch object", "failed to convert new object")
"""
Beginnings of the responses to an apply whose form is invalid, such as a text in the place of a number.

The API server responds with 500 and without a reason, as if the fault were its own. Retries get the same response.
"""

MESSAGE_CHARACTERS_MAX: Final = 1024
"""Maximum length of the message from a response that is no Status, such as the page of a proxy."""


class Kubernetes:
    """
    The API server; an async context manager. See `Api` for what each verb promises.

    It uses plain paths. The generated classes of the client library would parse each response into models, which the operator
    would have to turn into JSON again. Proxies are those of the environment, or of the kubeconfig.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        request_seconds: float = REQUEST_SECONDS,
        token_seconds: float = TOKEN_SECONDS,
    ) -> None:
        self._credentials = credentials
        self._request_seconds = request_seconds
        self._token_seconds = token_seconds
        self._client: RESTClientObject | None = None
        self._host = ""
        self._authorization: str | None = None
        self._read_at = 0.0

    async def __aenter__(self) -> Self:
        """Raises ConfigurationError if there are no credentials."""
        configuration = await self._credentials.read()
        self._host = str(configuration.host).rstrip("/")
        self._authorization, self._read_at = authorization_of(configuration), time.monotonic()
        self._client = RESTClientObject(configuration)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    # --- Verbs ---------------------------------------------------------------------------------------------------

    async def list(self, kind: Kind, namespace: str | None, labels: str = "") -> AsyncIterator[Page]:
        query = {"labelSelector": labels} if labels else {}
        size = PageSize()
        version: str | None = None
        while True:
            response = await self._page(_path(kind, namespace), query, size)
            if version is not None and response.metadata.resource_version != version:
                # Such pages are of two different moments, and what fell between them would look deleted.
                raise ApiUnavailableError(f"the list of {kind.plural} expired between two pages")
            version = response.metadata.resource_version
            yield Page([item.reduced(kind) for item in response.items or ()], version)
            if not response.metadata.following:
                return
            query["continue"] = response.metadata.following

    async def _page(self, path: str, query: Mapping[str, str], size: PageSize) -> StoredPage:
        """Return the next page of a list, and adapt *size* to it."""
        while True:
            try:
                response = await self._request(
                    "GET", path, {**query, "limit": str(size.limit)}, bytes_max=PAGE_BYTES_MAX
                )
            except ResponseTooLargeError as error:
                size.reduce(error)
                continue
            page = await _decoded(response, StoredPage, f"GET {path}")
            size.adapt(len(response), len(page.items or ()))
            return page

    async def get(self, kind: Kind, name: ObjectName) -> Manifest:
        path = _path(kind, *name)
        return await _object(kind, await self._request("GET", path, names=name.name), f"GET {path}")

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        return await self._apply(manifest, _path_of(manifest), dry_run=dry_run)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        return await self._apply(manifest, f"{_path_of(manifest)}/status")

    async def create_event(self, namespace: str, event: Manifest) -> None:
        await self._request_json("POST", f"/api/v1/namespaces/{quote(namespace, safe='')}/events", body=event)

    async def may(self, verb: str, kind: Kind, namespace: str | None) -> bool:
        resource, _, subresource = kind.plural.partition("/")
        asked = {"verb": verb, "group": kind.group, "resource": resource, "subresource": subresource}
        response = await self.review(
            SELF_REVIEWS, {"resourceAttributes": {**asked, "namespace": namespace or ""}}
        )
        return bool(response["allowed"])

    async def review(self, kind: Kind, spec: Manifest) -> Manifest:
        """Have the API server answer a question, and return the status of the response. Raises ApiError."""
        asked = {"apiVersion": kind.api_version, "kind": kind.name, "spec": spec}
        status: Manifest = (await self._request_json("POST", _path(kind, None), body=asked))["status"]
        return status

    async def uid_of_namespace(self, name: str) -> str:
        uid: str = (await self._namespace(name))["metadata"]["uid"]
        return uid

    async def is_namespace_ending(self, name: str) -> bool:
        try:
            return "deletionTimestamp" in (await self._namespace(name))["metadata"]
        except NoSuchObjectError:
            return True

    async def namespaces_with(self, labels: str) -> frozenset[str]:
        pages = self.list(NAMESPACES, None, labels)
        return frozenset([item["metadata"]["name"] async for page in pages for item in page.items])

    async def _namespace(self, name: str) -> dict[str, Any]:
        return await self._request_json("GET", f"/api/v1/namespaces/{quote(name, safe='')}", names=name)

    async def served(self) -> frozenset[str]:
        try:
            response = await self._request_json("GET", f"/apis/{TASKS.api_version}")
        except NoSuchKindError:
            return frozenset()
        names = (resource["name"] for resource in response["resources"])
        return frozenset(name for name in names if "/" not in name)

    async def _apply(self, manifest: Manifest, path: str, *, dry_run: bool = False) -> Manifest:
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        name = manifest["metadata"]["name"]
        response = await self._request("PATCH", path, query, body=manifest, content_type=APPLY, names=name)
        return await _object(kind_of(manifest), response, f"PATCH {path}")

    # --- One request ---------------------------------------------------------------------------------------------

    async def _request_json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Return the JSON object in the response to a request. Takes and raises the same as `_request`."""
        response = await self._request(method, path, **request)
        return await _decoded(response, dict[str, Any], f"{method} {path}")

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Manifest | None = None,
        content_type: str = JSON,
        names: str | None = None,
        bytes_max: int | None = None,
    ) -> bytes | bytearray:
        """
        Send a request about the object *names*, and return the body of the response.

        Raises ApiError, and ResponseTooLargeError if the body exceeds *bytes_max*.
        """
        await self._keep_token_fresh()
        status, response = await self._send(method, path, query, body, content_type, bytes_max)
        if status == HTTPStatus.UNAUTHORIZED and await self._log_in_again():
            status, response = await self._send(method, path, query, body, content_type, bytes_max)
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise error_of(status, bytes(response), f"{method} {path}", names)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content_type: str,
        bytes_max: int | None,
    ) -> tuple[int, bytes | bytearray]:
        assert self._client is not None
        headers = {
            "Accept": JSON,
            "Content-Type": content_type,
            "User-Agent": f"{FIELD_MANAGER}/{__version__}",
        }
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        try:
            response = await self._client.request(
                method,
                f"{self._host}{path}",
                query_params=None if query is None else dict(query),
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=aiohttp.ClientTimeout(
                    total=self._request_seconds, sock_connect=CONNECT_SECONDS
                ),
            )
            async with response:
                if bytes_max is None:
                    return response.status, await response.read()
                return response.status, await _read(response, bytes_max)
        except TimeoutError as error:
            raise ApiUnavailableError(
                f"{method} {path}: no response within {self._request_seconds:g} s"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnavailableError(f"{method} {path}: {str(error) or type(error).__name__}") from error

    # --- Credentials ---------------------------------------------------------------------------------------------

    async def _keep_token_fresh(self) -> None:
        """Read the token again from time to time: that of a pod lives for an hour."""
        if self._credentials_are_old():
            self._read_at = time.monotonic()
            await self._log_in_again()

    def _credentials_are_old(self) -> bool:
        # Those of a kubeconfig may come from a program, which runs only when they are refused.
        return self._credentials.is_in_cluster() and time.monotonic() - self._read_at > self._token_seconds

    async def _log_in_again(self) -> bool:
        """Read the credentials again, and say whether they are others."""
        try:
            authorization = authorization_of(await self._credentials.read())
        except ConfigurationError as error:
            logger.warning("could not reload the credentials", extra={"error": str(error)})
            return False
        changed, self._authorization = authorization != self._authorization, authorization
        return changed


class ResponseTooLargeError(ApiError):
    """The body of a response exceeds the limit of the request."""


class PageSize:
    """The number of objects on the next page of a list, adapted so that a page has about `PAGE_BYTES`."""

    def __init__(self) -> None:
        self.limit = FIRST_PAGE_OBJECTS

    def adapt(self, size: int, objects: int) -> None:
        """Choose the next number from a page with so many *objects* in *size* bytes."""
        if objects:
            self.limit = max(1, min(PAGE, PAGE_BYTES * objects // size))

    def reduce(self, error: ResponseTooLargeError) -> None:
        """Choose a smaller number after a page that was too large. Raises ApiUnavailableError if it had a single object."""
        if self.limit == 1:
            raise ApiUnavailableError(str(error)) from error
        self.limit = max(1, self.limit // PAGE_REDUCTION)


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytearray:
    """Return the body of *response*. Raises ResponseTooLargeError, and then leaves the rest unread, which closes the connection."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > bytes_max:
            raise ResponseTooLargeError(
                f"{response.url.path}: the response has more than {bytes_max:,} bytes"
            )
    return body


class ListMetadata(msgspec.Struct, frozen=True):
    """The metadata of a list."""

    resource_version: str = msgspec.field(name="resourceVersion")
    following: str = msgspec.field(name="continue", default="")


class StoredPage(msgspec.Struct, frozen=True):
    """A page of a list as the API server writes it."""

    metadata: ListMetadata
    items: list[StoredObject] | None = None


async def _object(kind: Kind, response: bytes | bytearray, request: str) -> dict[str, Any]:
    """Decode the object in a response. Reduce it if it is of our own kinds."""
    if kind in OWN_KINDS:
        return (await _decoded(response, StoredObject, request)).reduced(kind)
    return await _decoded(response, dict[str, Any], request)


T = TypeVar("T")


async def _decoded(response: bytes | bytearray, form: type[T], request: str) -> T:
    try:
        return decode(await decodable(response), form)
    except msgspec.DecodeError as error:
        raise ApiUnavailableError(f"{request}: the response is not a JSON object: {error}") from error


def error_of(status: int, response: bytes, request: str, names: str | None) -> ApiError:
    """Return the error for a failed *request* about the object *names*."""
    status_body = _status_of(response)
    message = f"{request}: {status} {status_body.get('message', '')}".rstrip(": ")
    if status == HTTPStatus.NOT_FOUND:
        return _absence(status_body, message, names)
    if status == HTTPStatus.CONFLICT:
        return ConflictError(message)
    if status == HTTPStatus.FORBIDDEN:
        return ForbiddenError(message)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in _fields(status_body):
        # The object has come again, as another.
        return ConflictError(message)
    if status in UNACCEPTABLE or _is_misshapen(status, status_body):
        return RefusedError(str(status_body.get("message") or message))
    # What is left means that it does not work now: 401, 408, 410 of a list that took too long, 429, 5xx, and whatever a
    # proxy thinks of. Nothing of that says anything about the object.
    return ApiUnavailableError(message)


def _is_misshapen(status: int, status_body: Mapping[str, Any]) -> bool:
    message = str(status_body.get("message", ""))
    return (
        status == HTTPStatus.INTERNAL_SERVER_ERROR
        and not status_body.get("reason")
        and message.startswith(MISSHAPEN)
    )


def _absence(status_body: Mapping[str, Any], message: str, names: str | None) -> ApiError:
    """Distinguish a missing object from a path that is not served, which would make all objects look deleted."""
    details = status_body.get("details") or {}
    named = details.get("name")
    about_it = named is not None and (named == names or details.get("kind") == "namespaces")
    if status_body.get("reason") == "NotFound" and about_it:
        return NoSuchObjectError(message)
    return NoSuchKindError(message)


def _fields(status_body: Mapping[str, Any]) -> set[str]:
    """Return the fields that the API server blames."""
    causes = (status_body.get("details") or {}).get("causes") or ()
    return {cause.get("field", "") for cause in causes}


def _status_of(response: bytes) -> dict[str, Any]:
    """Return the Status in a response. For any other response, return its beginning as the message."""
    try:
        status_body = msgspec.json.decode(response, type=dict[str, Any])
    except msgspec.DecodeError:
        status_body = {}
    if status_body.get("kind") == "Status":
        return status_body
    return {"message": response[:MESSAGE_CHARACTERS_MAX].decode(errors="replace").strip()}


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    parts = ["apis", kind.group] if kind.group else ["api"]
    parts.append(kind.version)
    if namespace is not None:
        parts += ["namespaces", namespace]
    parts.append(kind.plural)
    if name is not None:
        parts.append(name)
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _path_of(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return _path(kind_of(manifest), metadata["namespace"], metadata["name"])
