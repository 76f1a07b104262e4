"""Opens any backend by its URL, so that a setting can select it."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.store.backend import read_backend
from pyncette.store.base import Store


@takes_all_settings("backend_")
def backend_repository(*, backend_url: str) -> Store:
    """
    Return a store at *backend_url*, in the form of `PYNCETTE_BACKEND`: `sqlite:///schedules.sqlite`,
    `postgresql://user:password@host/database`, `redis://host/0?namespace=shop:`, `mysql://…`, `dynamodb://region/table`.

    Raises ConfigurationError if the URL is invalid or its extra is not installed.
    """
    return read_backend(backend_url).new_store()
