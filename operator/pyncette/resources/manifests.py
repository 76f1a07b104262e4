"""Loads the manifests of a folder, and says of all that is wrong in them where it stands, to the line and column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from pyncette.core.suggestions import did_you_mean
from pyncette.resources.documents import Document, Fault, JsonPath, Spot, documents
from pyncette.resources.modelling import listed
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import UNKNOWN_FIELD, Problem, Refusal, read, unknown_handler
from pyncette.resources.resource import API_VERSION, DEFAULT_NAMESPACE, GROUP, Resource
from pyncette.resources.task import PyncetteTask

R = TypeVar("R", bound=Resource)

SUFFIXES: Final = frozenset({".yaml", ".yml"})

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Ten thousand tasks in one file are a quarter of that; what is larger is something else."""

KINDS: Final[dict[str, type[PyncetteTask | PyncetteWorkerPool]]] = {
    "PyncetteTask": PyncetteTask,
    "PyncetteWorkerPool": PyncetteWorkerPool,
}


class Place(NamedTuple):
    """A position in a file, as editors and terminals read it."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Remark(NamedTuple):
    """Something to tell the user about a place: what keeps a resource from being used, or what to know of it."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class Manifest(NamedTuple, Generic[R]):
    """A resource, and where each of its fields stands."""

    resource: R
    source: _Source

    def place(self, *path: str | int) -> Place:
        """Return where the value at *path* stands, or else what should have held it: `place("spec", "handler")`."""
        return self.source.place(path)


class Manifests(NamedTuple):
    """The manifests of a folder."""

    tasks: tuple[Manifest[PyncetteTask], ...]
    pools: tuple[Manifest[PyncetteWorkerPool], ...]
    problems: tuple[Remark, ...]
    """Problems. The resources that they are about are in neither list."""
    notes: tuple[Remark, ...]
    """Documents that were skipped, and values that may not mean what they seem to."""


def load(path: Path, *, namespace: str = DEFAULT_NAMESPACE) -> Manifests:
    """
    Load the manifests in *path*, a file or a folder; like kubectl it does not look into folders below.

    Never raises: whatever is wrong is a problem with its place. *namespace* is that of objects which name none.
    """
    try:
        files = _files(path)
    except OSError as error:
        return Manifests((), (), (_unreadable(path, error),), ())
    loading = _Loading(namespace)
    for file in files:
        loading.file(file)
    return Manifests(
        tuple(loading.tasks),
        tuple(loading.pools),
        tuple(sorted(set(loading.problems))),
        tuple(sorted(set(loading.notes))),
    )


def unknown_handlers(
    tasks: Iterable[Manifest[PyncetteTask]], registered: Iterable[str]
) -> tuple[Remark, ...]:
    """Return a problem for each task whose handler is none of those *registered*."""
    known = frozenset(registered)
    return tuple(
        Remark(
            task.place("spec", "handler"),
            f"spec.handler: {unknown_handler(task.resource.spec.handler, known)}",
        )
        for task in tasks
        if task.resource.spec.handler not in known
    )


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())


def _unreadable(file: Path, error: Exception) -> Remark:
    reason = error.strerror if isinstance(error, OSError) else None
    return Remark(Place(file, 1, 1), f"cannot be read: {reason or error}")


class _Source(NamedTuple):
    """An object within a document: the whole of it, or an item of a List."""

    file: Path
    document: Document
    within: JsonPath

    def place(self, path: JsonPath) -> Place:
        return self.at(self.document.spot_of((*self.within, *path)))

    def place_of_name(self, path: JsonPath) -> Place:
        return self.at(self.document.spot_of_name((*self.within, *path)))

    def at(self, spot: Spot) -> Place:
        return Place(self.file, *spot)


_Name: TypeAlias = tuple[str, str, str]
"""Kind, namespace and name: no two objects share all three."""


class _Loading:
    """The state of loading."""

    def __init__(self, namespace: str) -> None:
        self.tasks: list[Manifest[PyncetteTask]] = []
        self.pools: list[Manifest[PyncetteWorkerPool]] = []
        self.problems: list[Remark] = []
        self.notes: list[Remark] = []
        self._namespace = namespace
        self._places: dict[_Name, Place] = {}

    def file(self, file: Path) -> None:
        try:
            if file.stat().st_size > FILE_BYTES_MAX:
                self.problems.append(Remark(Place(file, 1, 1), _too_large()))
                return
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(_unreadable(file, error))
            return
        for document in documents(text):
            if isinstance(document, Fault):
                self.problems.append(Remark(Place(file, *document.spot), document.message))
            else:
                self._object(document.value, _Source(file, document, ()))

    def _object(self, value: Any, source: _Source) -> None:
        api_version, kind = (
            (value.get("apiVersion"), value.get("kind")) if isinstance(value, dict) else (None, None)
        )
        if kind == "List" and api_version == "v1" and isinstance(value.get("items"), list):
            for index, item in enumerate(value["items"]):
                self._object(item, source._replace(within=(*source.within, "items", index)))
        elif _is_kind(kind) or str(api_version).partition("/")[0] == GROUP:
            self._ours(value, source, api_version, kind)
        else:
            self.notes.append(Remark(source.place(()), _passed_over(value, kind)))

    def _ours(self, value: dict[str, Any], source: _Source, api_version: Any, kind: Any) -> None:
        problems = [*_faults(source), *_misnamed(source, api_version, kind)]
        problems = problems or self._read(KINDS[kind], value, source)
        self.problems.extend(problems)
        wrong = {problem.place for problem in problems}
        self.notes.extend(note for note in _odd_words(source) if note.place not in wrong)

    def _read(
        self, model: type[PyncetteTask | PyncetteWorkerPool], value: dict[str, Any], source: _Source
    ) -> list[Remark]:
        namespaced = _with_namespace(value, self._namespace)
        problems = self._duplicate(namespaced, source)
        resource = read(model, namespaced)
        if isinstance(resource, Refusal):
            return [*problems, *(_remark(problem, source) for problem in resource.problems)]
        if not problems:
            self._keep(resource, source)
        return problems

    def _keep(self, resource: PyncetteTask | PyncetteWorkerPool, source: _Source) -> None:
        if isinstance(resource, PyncetteTask):
            self.tasks.append(Manifest(resource, source))
        else:
            self.pools.append(Manifest(resource, source))

    def _duplicate(self, value: dict[str, Any], source: _Source) -> list[Remark]:
        metadata = value.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
            return []
        name = (value["kind"], str(metadata["namespace"]), metadata["name"])
        place = source.place(("metadata", "name"))
        first = self._places.setdefault(name, place)
        if first == place:
            return []
        return [
            Remark(
                place,
                f"metadata.name: {name[0]} {name[1]}/{name[2]} is at {first} already: rename one of them",
            )
        ]


def _faults(source: _Source) -> Iterator[Remark]:
    for fault in source.document.faults:
        yield Remark(source.at(fault.spot), fault.message)


def _misnamed(source: _Source, api_version: Any, kind: Any) -> Iterator[Remark]:
    if api_version != API_VERSION:
        yield Remark(source.place(("apiVersion",)), f"apiVersion: must be {API_VERSION}, {_not(api_version)}")
    if not _is_kind(kind):
        close = did_you_mean(kind, KINDS) if isinstance(kind, str) else ""
        hint = f"; {close}" if close else ""
        yield Remark(source.place(("kind",)), f"kind: must be {listed(KINDS, 'or')}, {_not(kind)}{hint}")


def _is_kind(kind: Any) -> bool:
    return isinstance(kind, str) and kind in KINDS


def _not(value: Any) -> str:
    return "and is missing" if value is None else f"not {value}"


def _with_namespace(value: dict[str, Any], namespace: str) -> dict[str, Any]:
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("namespace") is not None:
        return value
    return {**value, "metadata": {**metadata, "namespace": namespace}}


def _remark(problem: Problem, source: _Source) -> Remark:
    is_of_name = problem.reason == UNKNOWN_FIELD
    place = source.place_of_name(problem.path) if is_of_name else source.place(problem.path)
    word = source.document.odd.get((*source.within, *problem.path))
    hint = f" ({word} without quotes is not text in YAML)" if word else ""
    return Remark(place, f"{problem}{hint}")


def _odd_words(source: _Source) -> Iterator[Remark]:
    """Yield what may surprise among the arguments, where any type fits and so nothing else would tell."""
    args = (*source.within, "spec", "args")
    for path, word in source.document.odd.items():
        if path[: len(args)] == args:
            value = _value_at(source.document.value, path)
            shown = str(value).lower() if isinstance(value, bool) else f"the number {value}"
            spot = source.at(source.document.spot_of(path))
            yield Remark(
                spot, f"{word} without quotes is {shown} to YAML, as to kubectl: quote it if it is text"
            )


def _value_at(value: Any, path: JsonPath) -> Any:
    for part in path:
        value = value[part]
    return value


def _passed_over(value: Any, kind: Any) -> str:
    if not isinstance(kind, str):
        return "skipped: not a Kubernetes object, which has apiVersion and kind"
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"skipped: {kind}{f' {name}' if name else ''} is not of {GROUP}"


def _too_large() -> str:
    return f"is larger than {FILE_BYTES_MAX // 2**20} MiB, too large for a manifest: split it, or move it elsewhere"
