"""`pyncette operator` says what keeps it from beginning, and ends when it is told to."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pyncette.cli.failures import ExitCode
from tests.servers.machine import free_port

SETTINGS = """
clusterId: east
backends:
- name: default
  urlFile: {folder}/url
  namespaces: ["*"]
health: {health}
metrics: 0
logFormat: text
"""

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: me}}}}]
clusters: [{{name: here, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: me, user: {{token: secret-token}}}}]
"""


@pytest.fixture
def operator(tmp_path):
    """Starts `pyncette operator`, with these settings, where no API server answers."""
    started = []

    def start(settings=SETTINGS, kubeconfig=KUBECONFIG):
        (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/tasks.db\n")
        file = tmp_path / "operator.yaml"
        if settings is not None:
            file.write_text(settings.format(folder=tmp_path, health=free_port()))
        config = tmp_path / "kubeconfig"
        if kubeconfig is not None:
            config.write_text(kubeconfig.format(port=free_port()))
        running = subprocess.Popen(
            [sys.executable, "-m", "pyncette.cli", "operator", "--config", str(file)],
            env={**os.environ, "KUBECONFIG": str(config)},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(running)
        return running

    yield start
    for running in started:
        running.kill()
        running.communicate()


AT_ONCE_SECONDS = 5.0
"""It takes a fraction of a second, and on a laden machine the end of the interpreter alone takes another."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_immediately_even_if_no_api_server_answers(operator, number):
    running = operator()
    for line in running.stderr:
        if "cannot watch yet" in line:
            break

    told_at = time.monotonic()
    running.send_signal(number)
    _, rest = running.communicate(timeout=20)

    assert running.returncode == ExitCode.DONE, rest
    assert time.monotonic() - told_at < AT_ONCE_SECONDS
    assert "workers continue to run tasks" in rest


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (None, "cannot read"),
        ("backends: []", "backends"),
        ("clusterID: east", "unknown field"),
        ("namespaces: [shop]\nbackends: [{{namespaces: [shop]}}]", "clusterId is required"),
        ("backends: [{{name: a}}]", "backends[0].namespaces: is required"),
        ("resyncSeconds: often", "resyncSeconds: must be a whole number"),
        ("- one\n- two", "must be a mapping"),
        ("a: {{", "operator.yaml:"),
        (
            "backends: [{{name: a, namespaces: [a]}}, {{name: a, namespaces: [a]}}]",
            "two backends have the same name",
        ),
    ],
)
def test_invalid_settings_are_reported_in_one_sentence(operator, settings, said):
    running = operator(settings)

    _, told = running.communicate(timeout=60)

    assert running.returncode == ExitCode.USAGE, told
    assert said in told
    assert "Traceback" not in told


def test_missing_credentials_are_reported(operator):
    running = operator(kubeconfig=None)

    _, told = running.communicate(timeout=60)

    assert running.returncode == ExitCode.USAGE, told
    assert "no credentials for the API server" in told
    assert "Traceback" not in told


def test_no_token_and_no_url_is_ever_logged(operator, tmp_path):
    running = operator(SETTINGS + "logLevel: DEBUG\n")
    for line in running.stderr:
        assert "secret-token" not in line
        if "cannot watch yet" in line:
            break
    running.send_signal(signal.SIGTERM)

    assert "secret-token" not in running.communicate(timeout=20)[1]
