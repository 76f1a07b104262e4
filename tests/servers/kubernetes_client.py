"""A blocking client of an API server for tests: verbs on objects as JSON, which fail with the answer of the server."""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

Object: TypeAlias = dict[str, Any]
"""An object as JSON; `apiVersion`, `kind` and `metadata` say which one it is."""

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"

ANSWER_SECONDS_MAX: Final = 30
"""An API server answers in milliseconds; one that is frozen never does."""


class ApiError(Exception):
    """The API server refused, and said why."""

    def __init__(self, status: int, answer: Any) -> None:
        said: Mapping[str, Any] = answer if isinstance(answer, dict) else {"message": str(answer)}
        self.status = status
        """Of HTTP."""
        self.reason: str = said.get("reason", "")
        """In a word, such as Invalid, NotFound, Conflict, Forbidden."""
        self.message: str = said.get("message", "")
        details: Mapping[str, Any] = said.get("details") or {}
        self.details = details
        """Which object it was about, if any."""
        self.causes: list[tuple[str, str]] = [
            (cause.get("field", ""), cause.get("message", "")) for cause in details.get("causes", ())
        ]
        """The errors of an object, by field."""
        super().__init__(f"{status} {self.reason}: {self.message}")


@dataclass(frozen=True, slots=True)
class Client:
    """
    Asks an API server as one user.

    What is written is checked strictly: an unknown field is refused, as it is for kubectl.
    """

    url: str
    trust: ssl.SSLContext
    identity: tuple[tuple[str, str], ...]
    """Headers that say who asks."""

    def impersonating(self, user: str, *groups: str) -> Self:
        """The same server as it is to any user, member of any groups; the administrator may ask in their place."""
        impersonated = [("Impersonate-User", user), *(("Impersonate-Group", group) for group in groups)]
        return replace(self, identity=(*self.identity, *impersonated))

    def create(self, given: Object, **query: Any) -> Object:
        return self._object("POST", path_of(given, named=False), given, **{**STRICT, **query})

    def read(self, given: Object, subresource: str = "") -> Object:
        """What the server holds now of an object that is like *given* by kind, namespace and name."""
        return self._object("GET", path_of(given, subresource))

    def exists(self, given: Object) -> bool:
        try:
            self.read(given)
        except ApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return False
            raise
        return True

    def list(self, api_version: str, kind: str, namespace: str = "", **query: Any) -> list[Object]:
        """All objects of a kind, in *namespace* or everywhere. Selectors are `labelSelector` and `fieldSelector`."""
        like = {"apiVersion": api_version, "kind": kind, "metadata": {"namespace": namespace}}
        found: list[Object] = self.request("GET", path_of(like, named=False), **query)["items"]
        return found

    def replace(self, given: Object, subresource: str = "", **query: Any) -> Object:
        return self._object("PUT", path_of(given, subresource), given, **{**STRICT, **query})

    def patch(self, given: Object, change: Object, subresource: str = "", **query: Any) -> Object:
        """Merge *change* into the object that is like *given*; null removes a field."""
        return self._object(
            "PATCH", path_of(given, subresource), change, content_type=MERGE, **{**STRICT, **query}
        )

    def apply(
        self,
        given: Object,
        manager: str = "tests",
        subresource: str = "",
        *,
        force: bool = False,
        **query: Any,
    ) -> Object:
        """Apply *given* server-side: what this manager gave before and does not give now is removed."""
        asked = {**STRICT, "fieldManager": manager, "force": str(force).lower(), **query}
        return self._object("PATCH", path_of(given, subresource), given, content_type=APPLY, **asked)

    def delete(self, given: Object, **query: Any) -> Object:
        return self._object("DELETE", path_of(given), **query)

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = JSON, **query: Any
    ) -> Any:
        """Ask anything, and return the answer: what JSON says, or text. Raises ApiError, and OSError without an answer."""
        status, answer = self._answer(method, path, body, content_type, query)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise ApiError(status, answer)
        return answer

    def _object(self, method: str, path: str, body: Any = None, **asked: Any) -> Object:
        answer: Object = self.request(method, path, body, **asked)
        return answer

    def _answer(
        self, method: str, path: str, body: Any, content_type: str, query: Mapping[str, Any]
    ) -> tuple[int, Any]:
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=self.trust, timeout=ANSWER_SECONDS_MAX
        )
        try:
            connection.putrequest(method, f"{path}?{urlencode(query)}" if query else path)
            content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
            length = ("Content-Length", str(len(content)))
            for name, value in (*self.identity, ("Accept", JSON), ("Content-Type", content_type), length):
                connection.putheader(name, value)
            connection.endheaders(content)
            response = connection.getresponse()
            said = response.read().decode()
            is_json = response.headers.get_content_type() == JSON
            return response.status, json.loads(said) if is_json else said
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()


STRICT: Final = {"fieldValidation": "Strict"}


def path_of(given: Object, subresource: str = "", *, named: bool = True) -> str:
    """Where an object is in the API, or, if not *named*, all objects of its kind in its namespace."""
    metadata = given.get("metadata", {})
    version = given["apiVersion"]
    parts = ["apis" if "/" in version else "api", *version.split("/")]
    if metadata.get("namespace"):
        parts += ["namespaces", metadata["namespace"]]
    parts.append(plural_of(given["kind"]))
    if named:
        parts.append(metadata["name"])
    if subresource:
        parts.append(subresource)
    return "".join(f"/{quote(part)}" for part in parts)


def plural_of(kind: str) -> str:
    """The resource of a kind, by the rule that Kubernetes' own kinds and ours follow."""
    name = kind.lower()
    if name.endswith("y"):
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith("s") else f"{name}s"
