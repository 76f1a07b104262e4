"""The programs of docs/how-to/django-and-flask.md: with gunicorn, which forks after the client was used, and with Django."""

import json
import os
import subprocess
import sys

import pytest

from tests.app.pages import write_project
from tests.app.servers import SOURCE, serving

GUNICORN = [
    "-m",
    "gunicorn",
    "--bind",
    "127.0.0.1:{port}",
    "--workers",
    "3",
    "--threads",
    "4",
    "--config",
    "conf.py",
]

CONF = """
preload_app = True

def on_starting(server):
    pass

def when_ready(server):
    # The client is used before the fork: its backend is open when the workers begin.
    from scheduling import client
    from tasks import remind
    client.schedule_task(remind, "of-the-parent", schedule="0 8 * * *", args={"text": "first"})
"""

DAILY = {"text": "stretch", "schedule": "0 8 * * *", "timezone": "Europe/Dublin"}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/reminders.sqlite"


@pytest.fixture
def project(tmp_path):
    names = write_project("django-and-flask.md", tmp_path)
    assert names == [
        "tasks.py",
        "scheduling.py",
        "web.py",
        "reminders/models.py",
        "reminders/views.py",
        "test_web.py",
    ]
    return tmp_path


def run(project, *command, url="sqlite:///:memory:"):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "PYNCETTE_BACKEND": url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_processes_of_gunicorn_share_a_backend_that_was_opened_before_they_were_forked(project, url):
    project.joinpath("conf.py").write_text(CONF)

    with serving([*GUNICORN, "web:web"], project, url) as server:
        server.wait_until(lambda: server.request("GET", "/reminders/of-the-parent")[0] == 200)
        for number in range(30):
            assert server.request("PUT", f"/reminders/u{number}", DAILY) == (204, "")
        status, text = server.request("GET", "/reminders/u7")
        assert (status, json.loads(text)["text"]) == (200, "stretch")
        assert server.request("DELETE", "/reminders/u7")[0] == 204
        assert server.request("GET", "/reminders/u7")[0] == 404
        status, text = server.request("PUT", "/reminders/u8", {**DAILY, "timezone": "Nowhere"})
        assert status == 422
        assert "Invalid timezone specifier" in text
        assert server.stop() == 0

    assert "Traceback" not in server.output
    assert server.output.count("Booting worker") == 3, "none had to be killed"


def test_a_worker_runs_what_the_web_schedules(project, url):
    project.joinpath("conf.py").write_text("preload_app = False\n")

    with serving([*GUNICORN, "web:web"], project, url) as web:
        web.wait_until(
            lambda: web.request("PUT", "/reminders/ada", {**DAILY, "schedule": "* * * * * *"})[0] == 204
        )
        with serving(["tasks.py"], project, url) as worker:
            worker.wait_until(lambda: "ada: stretch" in worker.output)
            assert worker.stop() == 0


SETTINGS = """
import django
from django.conf import settings

settings.configure(
    ROOT_URLCONF="urls",
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="x",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "web.sqlite"}},
    INSTALLED_APPS=["reminders"],
)
django.setup()
"""

URLS = """
from django.urls import path
from reminders.views import reminder

urlpatterns = [path("reminders/<str:name>", reminder)]
"""

DJANGO = """
import json
import settings
from django.db import connection, transaction
from django.test import Client as Browser
from reminders.models import Reminder
from reminders.views import schedule_all
from scheduling import client
from tasks import remind

with connection.schema_editor() as editor:
    editor.create_model(Reminder)
browser = Browser()
DAILY = {"text": "stretch", "schedule": "0 8 * * *", "timezone": "Europe/Dublin"}

def put(name, **changes):
    return browser.put(f"/reminders/{name}", json.dumps(DAILY | changes), content_type="application/json")

assert put("ada").status_code == 204
assert client.get_task(remind, "ada").task.extra_args["text"] == "stretch"
assert put("bob", timezone="Nowhere").status_code == 422
assert not Reminder.objects.filter(name="bob").exists()

try:
    with transaction.atomic():
        put("eve")
        raise KeyError
except KeyError:
    pass
assert client.get_task(remind, "eve") is None, "its transaction was rolled back"

assert browser.delete("/reminders/ada").status_code == 204
assert client.get_task(remind, "ada") is None

for number in range(700):
    Reminder.objects.create(name=f"u{number}", **DAILY)
assert schedule_all() == []
assert len(client.list_tasks(remind, limit=1000).tasks) == 700
client.close()
print("all is well")
"""


def test_the_views_of_django_schedule_when_their_transactions_are_committed(project, url):
    files = {"settings": SETTINGS, "urls": URLS, "program": DJANGO, "reminders/__init__": ""}
    for name, text in files.items():
        project.joinpath(f"{name}.py").write_text(text)

    assert run(project, "program.py", url=url) == "all is well\n"


def test_the_test_of_the_page_passes(project):
    shown = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_web.py")

    assert "1 passed" in shown
