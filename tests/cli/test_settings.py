"""Settings come from options and the environment, and are checked as a whole."""

import json

import pytest

from pyncette.cli.settings import Address, Settings, read_settings
from pyncette.errors import ConfigurationError
from pyncette.store.backend import read_backend
from pyncette.store.sqlite.backend import SqliteBackend


def read(environment=None, **options):
    return read_settings(environment or {}, options)


def refusal(environment=None, **options):
    with pytest.raises(ConfigurationError) as refused:
        read(environment, **options)
    return str(refused.value)


def test_settings_have_defaults():
    assert read({"PYNCETTE_REALM": "", "HOME": "/root"}) == Settings()


def test_the_environment_is_read():
    settings = read(
        {
            "PYNCETTE_BACKEND": "sqlite:///a.db",
            "PYNCETTE_REALM": "shop",
            "PYNCETTE_CONCURRENCY": "7",
            "PYNCETTE_DRAIN_SECONDS": "2.5",
            "PYNCETTE_HEALTH": "127.0.0.1:8080",
            "PYNCETTE_METRICS": "9090",
            "PYNCETTE_STALL_SECONDS": "60",
            "PYNCETTE_LOG_FORMAT": "JSON",
            "LOG_LEVEL": "debug",
        }
    )

    assert settings == Settings(
        backend=read_backend("sqlite:///a.db"),
        realm="shop",
        concurrency=7,
        drain_seconds=2.5,
        health=Address("127.0.0.1", 8080),
        metrics=Address(None, 9090),
        stall_seconds=60,
        log_format="json",
        log_level="DEBUG",
    )


def test_a_backend_may_stand_in_a_file(tmp_path):
    file = tmp_path / "url"
    file.write_text("sqlite:///a.db\n")

    assert read({"PYNCETTE_BACKEND_FILE": str(file)}).backend == read_backend("sqlite:///a.db")
    assert read(backend_file=str(file)).backend == read_backend("sqlite:///a.db")


def test_a_backend_is_configured_only_once(tmp_path):
    file = tmp_path / "url"
    file.write_text("sqlite:///a.db\n")
    both = {"PYNCETTE_BACKEND": "sqlite:///b.db", "PYNCETTE_BACKEND_FILE": str(file)}

    assert refusal(both) == (
        "PYNCETTE_BACKEND and PYNCETTE_BACKEND_FILE are mutually exclusive: set one of them"
    )
    assert "--backend and --backend-file are mutually exclusive" in refusal(
        backend="sqlite://", backend_file=str(file)
    )


def test_a_backend_of_an_option_wins_over_both_variables(tmp_path):
    file = tmp_path / "url"
    file.write_text("sqlite:///a.db\n")
    both = {"PYNCETTE_BACKEND": "sqlite:///b.db", "PYNCETTE_BACKEND_FILE": "/nowhere"}

    assert read(both, backend="sqlite:///c.db").backend == read_backend("sqlite:///c.db")
    assert read(both, backend_file=str(file)).backend == read_backend("sqlite:///a.db")
    assert read(both, backend_file=str(file)).warnings == ()


def test_the_error_of_a_file_without_a_url_has_its_name_and_not_its_content(tmp_path):
    file = tmp_path / "url"
    file.write_text("hunter2")

    message = refusal({"PYNCETTE_BACKEND_FILE": str(file)})

    assert message.startswith(
        f"PYNCETTE_BACKEND_FILE: {file} does not contain the URL of a backend: write sqlite:///"
    )
    assert "hunter2" not in message


@pytest.mark.parametrize("level", ["required", "Required", "REQUIRED"])
def test_tls_can_be_required_of_a_backend_wherever_its_url_comes_from(tmp_path, level):
    file = tmp_path / "url"
    file.write_text("postgresql://u@h/d")
    (tmp_path / "ca.crt").touch()
    variables = {"PYNCETTE_BACKEND": "postgresql://u@h/d", "PYNCETTE_BACKEND_TLS": level}

    assert read(variables).backend.url == "postgresql://u@h/d?sslmode=verify-full&sslrootcert=system"
    assert read(variables, backend_file=str(file)).backend.url == (
        f"postgresql://u@h/d?sslmode=verify-full&sslrootcert={tmp_path}/ca.crt"
    )
    assert refusal(variables, backend="redis://u:hunter2@h").startswith("--backend: TLS is required, but")
    assert read(variables, backend="redis://h", backend_tls="preferred").backend.url == "redis://h"
    assert read(variables).warnings == ()


def test_the_url_alone_decides_about_tls_unless_that_is_configured(tmp_path):
    file = tmp_path / "url"
    file.write_text("postgresql://u@h/d")
    (tmp_path / "ca.crt").touch()

    assert read(backend_file=str(file)).backend.url == "postgresql://u@h/d"


@pytest.fixture
def of_the_operator(tmp_path):
    """Variables as in the operator's pod, whose settings name the files `a/url`, `b/url` and, for workers, `b/worker-url`."""
    for name in ("a", "b", "other"):
        (tmp_path / name).mkdir()
        for file in ("url", "worker-url"):
            (tmp_path / name / file).write_text("postgresql://u@h/d")
        (tmp_path / name / "ca.crt").touch()
    roles = {"passwordFile": "/password", "workerUrlFile": f"{tmp_path}/b/worker-url"}
    backends = [
        {"name": "a", "urlFile": f"{tmp_path}/a/url", "namespaces": ["*"]},
        {"name": "b", "urlFile": f"{tmp_path}/b/url", "namespaces": ["*"], "tls": "Disabled", "roles": roles},
    ]
    (tmp_path / "operator.yaml").write_text(json.dumps({"backends": backends}))
    return {"PYNCETTE_OPERATOR_CONFIG": f"{tmp_path}/operator.yaml"}


@pytest.mark.parametrize(
    ("file", "query"),
    [
        ("a/url", "?sslmode=verify-full&sslrootcert={}/a/ca.crt"),
        ("other/../a/url", "?sslmode=verify-full&sslrootcert={}/other/../a/ca.crt"),
        ("b/url", "?sslmode=disable"),
        ("b/worker-url", "?sslmode=disable"),
        ("other/url", ""),
    ],
)
def test_the_file_of_a_backend_of_the_operator_is_held_to_the_tls_of_that(
    tmp_path, of_the_operator, file, query
):
    path = f"{tmp_path}/{file}"

    for settings in (
        read(of_the_operator, backend_file=path),
        read({**of_the_operator, "PYNCETTE_BACKEND_FILE": path}),
    ):
        assert settings.backend.url == f"postgresql://u@h/d{query.format(tmp_path)}"


def test_an_option_wins_over_what_the_settings_of_the_operator_demand(tmp_path, of_the_operator):
    settings = read(of_the_operator, backend_file=f"{tmp_path}/a/url", backend_tls="preferred")

    assert settings.backend.url == "postgresql://u@h/d?sslmode=prefer"


def test_a_file_is_not_used_if_the_settings_of_the_operator_cannot_be_read(tmp_path, of_the_operator):
    (tmp_path / "operator.yaml").write_text("backends: 1")

    message = refusal(of_the_operator, backend_file=f"{tmp_path}/a/url")

    assert message.startswith(f"--backend-file: {tmp_path}/operator.yaml")


def test_an_unknown_level_of_tls_is_refused():
    assert refusal({"PYNCETTE_BACKEND_TLS": "strict"}) == (
        "PYNCETTE_BACKEND_TLS: must be one of Required, Preferred, Disabled, not 'strict'"
    )


def test_an_option_wins_over_the_environment():
    assert read({"PYNCETTE_REALM": "theirs"}, realm="ours").realm == "ours"
    assert read({"PYNCETTE_REALM": "theirs"}, realm="").realm == ""


def test_a_realm_of_what_workers_tell_each_other_is_refused():
    assert refusal(realm="pyncette:members") == (
        "--realm: realms that begin with pyncette: are reserved, and cannot have tasks"
    )


def test_all_invalid_settings_are_reported_together_with_their_source():
    message = refusal({"PYNCETTE_CONCURRENCY": "0", "PYNCETTE_HEALTH": "web"}, drain_seconds="soon")

    assert "PYNCETTE_CONCURRENCY: must be a whole number from 1" in message
    assert "PYNCETTE_HEALTH: must be a port or HOST:PORT" in message
    assert "--drain-seconds: must be a number of seconds" in message


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e9", ""])
def test_a_drain_has_an_end(text):
    assert "must be a number of seconds" in refusal(drain_seconds=text)


def test_a_stall_is_longer_than_a_hiccup_or_of_no_interest():
    assert read(stall_seconds="0").stall_seconds == 0
    assert "must be 0, or at least 5 seconds" in refusal(stall_seconds="1")


@pytest.mark.parametrize(
    ("text", "address"),
    [("8080", Address(None, 8080)), ("[::1]:80", Address("::1", 80)), ("h:0", Address("h", 0))],
)
def test_an_address_is_a_port_with_or_without_a_host(text, address):
    assert read(health=text).health == address


def test_the_warning_of_a_misspelt_variable_suggests_the_nearest():
    (warning,) = read({"PYNCETTE_BACKEN": "sqlite://"}).warnings

    assert warning == "PYNCETTE_BACKEN is not a setting and has no effect; did you mean PYNCETTE_BACKEND?"


def test_the_warning_of_an_unknown_variable_lists_all_settings():
    (warning,) = read({"PYNCETTE_COLOUR": "red", "PYNCETTE_TEST_POSTGRES_URL": "postgresql://x"}).warnings

    assert warning.startswith(
        "PYNCETTE_COLOUR is not a setting and has no effect; valid settings: PYNCETTE_BACKEND,"
    )


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///tasks.db", "tasks.db"),
        ("sqlite:////var/lib/tasks.db", "/var/lib/tasks.db"),
        ("sqlite:///with%20space.db", "with space.db"),
        ("sqlite://", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
    ],
)
def test_an_sqlite_url_names_a_file_or_memory(url, path):
    backend = read_backend(url)

    assert isinstance(backend, SqliteBackend)
    assert backend.path == path


def test_the_error_of_a_misspelt_backend_suggests_the_nearest():
    assert refusal(backend="postgressql://u@h/d") == (
        "--backend: unknown backend postgressql; did you mean postgresql?"
    )


@pytest.mark.parametrize(
    "url",
    [
        "user:hunter2@host/db",
        "redis://user:hunter2#@host:port",
        "redis://host/0?password=hunter2",
        "mysql://user:hunter2@host",
        "oracle://user:hunter2@host",
        "postgresql://user:hunter2#@host:port/db",
        "sqlite://user:hunter2@host/db",
        "mysql://user:hunter2#@host/db",
    ],
)
def test_no_refusal_of_a_url_shows_its_password(url):
    assert "hunter2" not in refusal({"PYNCETTE_BACKEND": url})


def test_a_backend_is_shown_without_its_password():
    backend = read_backend("postgresql://user:hunter2@db.example:5433/shop")

    assert str(backend) == "PostgreSQL at db.example:5433/shop"
    assert "hunter2" not in repr(backend)
    assert "hunter2" not in repr(Settings(backend))


@pytest.mark.parametrize(
    ("url", "table", "told"),
    [
        ("sqlite:///a.db?table_name=reminders", "reminders", "the SQLite file a.db (tables reminders)"),
        ("sqlite:///a.db", "pyncette_tasks", "the SQLite file a.db"),
        ("postgresql://u@h/d?table_name=reminders", "reminders", "PostgreSQL at h/d (tables reminders)"),
        ("postgresql://u@h:1,i:2/d?sslmode=require", "pyncette_tasks", "PostgreSQL at h:1,i:2/d"),
    ],
)
def test_a_url_may_set_the_prefix_of_table_names(url, table, told):
    backend = read_backend(url)

    assert (backend.table, str(backend)) == (table, told)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///a.db?tablename=x", "unknown parameter tablename; did you mean table_name?"),
        ("sqlite:///a.db?mode=ro", "the only parameter is table_name"),
        ("sqlite:///a.db?table_name=A-b", "table_name must be 1 to 48 lower-case letters"),
        ("postgresql://u@h/d?table_nam=x", "unknown parameter table_nam; did you mean table_name?"),
        ("postgresql://u@h/d?ssl_mode=require", "did you mean sslmode?"),
        ("postgresql://u@h/d?sslmode=bogus", "sslmode must be one of disable, allow, prefer, require,"),
        ("postgresql://u:hunter2@:5432/d", "the host before the port is missing"),
        ("postgresql://u:hunter2@x@h/d", "write @ in a user or password as %40"),
    ],
)
def test_an_invalid_url_is_refused_with_the_invalid_part(url, said):
    sentence = refusal(backend=url)

    assert said in sentence
    assert "hunter2" not in sentence
