"""The options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click

from pyncette.cli.failures import Failure
from pyncette.cli.output import print_line
from pyncette.cli.settings import BACKEND, BACKEND_FILE, BACKEND_TLS, SETTINGS, Settings, read_settings
from pyncette.store.backend import Backend, needing

F = TypeVar("F", bound=Callable[..., Any])

FOLDER: Final = click.Path(path_type=Path)

OUTPUTS: Final = click.Choice(["table", "json"])


class Number(click.FloatRange):
    name = "number"


class WholeNumber(click.IntRange):
    name = "whole number"


class Realm(NamedTuple):
    """The backend and the realm that a command works on."""

    backend: Backend
    name: str


def settings_options(*names: str) -> Callable[[F], F]:
    """Add the options of settings. The command receives all settings as one argument, `settings`."""
    if BACKEND.name in names:
        names = (*names, BACKEND_FILE.name, BACKEND_TLS.name)

    def decorator(command: F) -> F:
        @wraps(command)  # the options of the command so far come along
        def with_settings(*args: Any, **given: Any) -> Any:
            options = {name: given.pop(name) for name in names}
            return command(*args, settings=_settings(options), **given)

        decorated: Any = with_settings
        for setting in reversed(SETTINGS):
            if setting.name in names:
                decorated = click.option(
                    setting.option,
                    setting.name,
                    metavar=setting.shown,
                    help=f"{setting.meaning} [{setting.variable}]",
                )(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorator


def _settings(options: Mapping[str, str | None]) -> Settings:
    settings = read_settings(os.environ, options)
    for warning in settings.warnings:
        print_line(f"pyncette: warning: {warning}", err=True)
    return settings


def output_option(command: F) -> F:
    return click.option(
        "--output", "-o", type=OUTPUTS, default="table", show_default=True, help="The output format."
    )(command)


def realm_options(command: F) -> F:
    """Add the options that select a backend and a realm. The command receives both as one argument, `realm`."""

    @wraps(command)
    def with_realm(
        *args: Any,
        settings: Settings,
        path: Path | None,
        namespace: str | None,
        pool: str | None,
        **given: Any,
    ) -> Any:
        realm = realm_of_pool(namespace, pool, "path")
        if realm is None:
            realm = Realm(chosen_backend(settings, path), settings.realm or "")
        return command(*args, realm=realm, **given)

    decorated: Any = settings_options("backend", "realm")(with_realm)
    with_options: F = path_option(pool_options(decorated))
    return with_options


def pool_options(command: F) -> F:
    """Add the options that select a pool, for `realm_of_pool`."""
    decorated: Any = click.option(
        "--pool", metavar="POOL", help="The pool in that namespace. Needs --namespace. [default: default]"
    )(command)
    with_options: F = click.option(
        "--namespace",
        metavar="NAMESPACE",
        help="In the operator's pod: use the backend and the realm of a pool in this namespace.",
    )(decorated)
    return with_options


def realm_of_pool(namespace: str | None, pool: str | None, *others: str) -> Realm | None:
    """
    Return the backend and the realm of *pool* in *namespace*; None if no namespace is selected.

    Raises Failure if another option, or one of *others*, selects a backend or a realm.
    """
    if namespace is None:
        if pool is not None:
            raise Failure("--pool needs --namespace, the namespace of the pool")
        return None
    for name in (*others, "backend", "backend_file", "realm"):
        if is_given(name):
            raise Failure(
                f"--namespace and --{name.replace('_', '-')} are mutually exclusive: pass one of them"
            )
    with needing("kubernetes_asyncio", "--namespace", "operator"):
        from pyncette.cli import pool_realm

    return Realm(*pool_realm.realm_of_pool(namespace, "default" if pool is None else pool))


def is_given(name: str) -> bool:
    """Return whether the command line has the parameter *name*. A variable of the environment is not one."""
    return click.get_current_context().params.get(name) is not None


def path_option(command: F) -> F:
    return click.option(
        "--path",
        type=FOLDER,
        metavar="PATH",
        help="A folder where pyncette dev has run. By default the backend of the settings, or else the current folder.",
    )(command)


def handler_option(command: F) -> F:
    return click.option(
        "--handler",
        metavar="HANDLER",
        help="The handler of TASK, if several handlers have a task of this name.",
    )(command)


def chosen_backend(settings: Settings, path: Path | None) -> Backend:
    """Return the backend of --path, or else of the settings. Raises Failure if options select both."""
    from pyncette.cli import stored

    for setting in (BACKEND, BACKEND_FILE):
        if path is not None and is_given(setting.name):
            raise Failure(f"--path and {setting.option} are mutually exclusive: pass one of them")
    return stored.backend_of(settings, path)
