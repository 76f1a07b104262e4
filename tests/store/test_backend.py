"""A URL names a backend: one of ours, or one that somebody else's distribution registers."""

import importlib
import sys

import pytest

from pyncette.errors import ConfigurationError
from pyncette.store.backend import needing, read_backend

THEIRS = """
from pyncette.store.backend import Backend
from pyncette.store.memory import MemoryBackend, MemoryStore

KEPT = MemoryBackend()


class ShelfBackend(Backend):
    in_memory = True

    def new_store(self, *, create=True):
        return MemoryStore(KEPT)

    def __str__(self):
        return "the shelf"
"""


@pytest.fixture
def their_distribution(tmp_path, monkeypatch):
    """What pip leaves behind when it installs a distribution that brings a backend."""
    (tmp_path / "shelf.py").write_text(THEIRS)
    metadata = tmp_path / "pyncette_shelf-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pyncette-shelf\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pyncette.backends]\nshelf = shelf:ShelfBackend\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("shelf", None)


async def test_a_registered_backend_is_opened_by_its_scheme(their_distribution):
    backend = read_backend(" Shelf://top ")

    assert (backend.url, str(backend)) == ("Shelf://top", "the shelf")
    async with backend.new_store() as store:
        assert store.capabilities.name == "memory"
    assert (await backend.migrate()).before == 1


def test_a_misspelt_scheme_is_answered_with_the_nearest_registered_one(their_distribution):
    with pytest.raises(ConfigurationError, match="unknown backend shelv; did you mean shelf"):
        read_backend("shelv://top")


async def test_a_backend_without_settings_that_matter_has_no_concerns():
    assert list(await read_backend("sqlite://").concerns()) == []


def test_backends_are_equal_if_their_urls_are():
    assert read_backend("sqlite:///a.db") == read_backend("sqlite:///a.db")
    assert read_backend("sqlite:///a.db") != read_backend("sqlite:///b.db")
    assert len({read_backend("sqlite:///a.db"), read_backend("sqlite:///a.db")}) == 1


def test_a_missing_driver_is_reported_with_the_extra_to_install():
    with (
        pytest.raises(ConfigurationError, match=r"Shelf needs a driver .* 'pyncette-operator\[shelf\]'"),
        needing("no_such_driver", "Shelf", "shelf"),
    ):
        importlib.import_module("no_such_driver")


def test_an_error_inside_of_a_store_is_not_taken_for_a_missing_driver():
    with pytest.raises(ModuleNotFoundError), needing("driver", "Shelf", "shelf"):
        importlib.import_module("no_such_module")


def test_no_part_of_a_password_is_repeated_as_an_unknown_parameter():
    with pytest.raises(ConfigurationError) as caught:
        read_backend("dynamodb://eu-west-1/table?endpoint=http://user:hun&ter2@localhost:8000")

    assert "ter2" not in str(caught.value)
