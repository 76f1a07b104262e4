"""A task module is found by a rule that can be told in a sentence, and what is wrong with it is told with its line."""

import os
import sys
from pathlib import Path

import pytest

from pyncette import Pyncette
from pyncette.cli.modules import ModuleError, Target, find_target, load_app, read_target
from pyncette.errors import ConfigurationError

APP = "from pyncette import Pyncette\napp = Pyncette()\n"


@pytest.fixture(autouse=True)
def as_it_was():
    """Leave the modules and the path of this process as they were."""
    modules, path, here = set(sys.modules), sys.path[:], Path.cwd()
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path
    os.chdir(here)


@pytest.fixture
def here(tmp_path):
    os.chdir(tmp_path)
    return tmp_path


def found(folder, named=None):
    target = find_target(folder, named)
    return target.file.name if target.file else target.module


def refusal(call, *args):
    with pytest.raises(ConfigurationError) as refused:
        call(*args)
    return str(refused.value)


# --- Finding ---------------------------------------------------------------------------------------------------------


def test_tasks_py_is_the_module_whatever_else_there_is(here):
    (here / "tasks.py").write_text("")
    (here / "other.py").write_text(APP)

    assert found(here) == "tasks.py"


@pytest.mark.parametrize(
    "text",
    [
        APP,
        "import pyncette\njobs = pyncette.Pyncette()\n",
        "from pyncette import Pyncette as P\napp: P = P(batch_size=3)\n",
        "from pyncette import Pyncette\napp = Pyncette()\ndef broken(:\n",
    ],
)
def test_else_it_is_the_only_file_that_makes_an_app(here, text):
    (here / "jobs.py").write_text(text)
    (here / "helpers.py").write_text(
        "def make():\n    from pyncette import Pyncette\n    return Pyncette()\n"
    )

    assert found(here) == "jobs.py"


def test_several_that_make_an_app_are_refused_with_their_names(here):
    (here / "a.py").write_text(APP)
    (here / "b.py").write_text(APP)

    assert "several modules in . create an app: a.py, b.py; select one with --module" in refusal(
        find_target, here.relative_to(here)
    )


def test_none_is_refused_with_what_is_looked_for(here):
    (here / "a.py").write_text("app = 3\n")

    assert "no task module found" in refusal(find_target, here)
    assert "app = Pyncette()" in refusal(find_target, here)


@pytest.mark.parametrize("named", ["jobs", "jobs.py", "jobs:app", "jobs.py:app"])
def test_a_module_can_be_named(here, named):
    (here / "jobs.py").write_text(APP)
    (here / "tasks.py").write_text(APP)

    assert found(here, named) == "jobs.py"


def test_a_module_of_a_package_in_the_folder_can_be_named(here):
    (here / "jobs" / "nightly").mkdir(parents=True)
    (here / "jobs" / "nightly" / "__init__.py").write_text("")
    (here / "jobs" / "nightly" / "reports.py").write_text("from . import __name__ as package\n" + APP)

    target = find_target(here / "jobs", "nightly.reports")

    assert target == Target("nightly.reports", "", str(here / "jobs"))
    assert isinstance(load_app(target), Pyncette)


def test_a_misspelt_module_is_refused_with_the_nearest(here):
    (here / "nightly.py").write_text(APP)

    assert "module nightli not found in" in refusal(find_target, here, "nightli")
    assert "did you mean nightly?" in refusal(find_target, here, "nightli")


@pytest.mark.parametrize("text", ["", ":app", "tasks:", "tasks:not-a-name", "tasks:a:b"])
def test_what_names_no_app_is_refused(text):
    if text == "tasks:":
        assert read_target(text) == Target("tasks", "")
    else:
        assert "does not name an app" in refusal(read_target, text)


# --- Loading ---------------------------------------------------------------------------------------------------------


def load(text="tasks.py"):
    return load_app(read_target(text))


def test_an_app_is_loaded_from_a_file_or_by_an_import_path(here):
    (here / "tasks.py").write_text(APP)
    (here / "jobs").mkdir()
    (here / "jobs" / "nightly.py").write_text(APP)

    assert isinstance(load("tasks.py"), Pyncette)
    assert isinstance(load("tasks"), Pyncette)
    assert isinstance(load("jobs/nightly.py:app"), Pyncette)
    assert isinstance(load("jobs.nightly"), Pyncette)


def test_a_module_imports_those_beside_it(here):
    (here / "jobs").mkdir()
    (here / "jobs" / "words_beside.py").write_text("GREETING = 'hi'\n")
    (here / "jobs" / "tasks.py").write_text("import words_beside\n" + APP)

    assert isinstance(load("jobs/tasks.py"), Pyncette)


@pytest.mark.parametrize("home", [".", "elsewhere"])
@pytest.mark.parametrize(
    "imported",
    [
        "from shop_of_tests.jobs.words import GREETING",
        "from .words import GREETING",
        "from ..names import NAME",
        "from words import GREETING",
    ],
)
def test_a_module_in_a_package_imports_from_it(here, imported, home):
    jobs = here / home / "shop_of_tests" / "jobs"
    jobs.mkdir(parents=True)
    (jobs.parent / "__init__.py").write_text("")
    (jobs.parent / "names.py").write_text("NAME = 'Ada'\n")
    (jobs / "__init__.py").write_text("")
    (jobs / "words.py").write_text("GREETING = 'hi'\n")
    (jobs / "tasks.py").write_text(f"{imported}\n{APP}")

    assert isinstance(load_app(find_target(jobs)), Pyncette)


def test_a_module_in_a_package_is_imported_once(here):
    (here / "shop_of_tests").mkdir()
    (here / "shop_of_tests" / "__init__.py").write_text("")
    (here / "shop_of_tests" / "tasks.py").write_text(
        APP + "from shop_of_tests.report import seen\nassert seen is app\n"
    )
    (here / "shop_of_tests" / "report.py").write_text("from shop_of_tests.tasks import app as seen\n")

    assert isinstance(load("shop_of_tests/tasks.py"), Pyncette)


@pytest.mark.parametrize("folder", ["json", "not-a-name"])
def test_a_folder_that_cannot_be_imported_as_a_package_is_none(here, folder):
    (here / folder).mkdir()
    (here / folder / "__init__.py").write_text("")
    (here / folder / "words_beside.py").write_text("GREETING = 'hi'\n")
    (here / folder / "tasks.py").write_text("from words_beside import GREETING\n" + APP)

    assert isinstance(load(f"{folder}/tasks.py"), Pyncette)


def test_the_line_of_a_fault_in_a_package_is_reported(here):
    (here / "shop_of_tests").mkdir()
    (here / "shop_of_tests" / "__init__.py").write_text("")
    (here / "shop_of_tests" / "tasks.py").write_text(APP + "from . import nowhere\n")

    assert refusal(load, "shop_of_tests/tasks.py").startswith("shop_of_tests/tasks.py:3: ImportError: ")


def test_an_app_of_any_name_is_taken_if_it_is_the_only_one(here):
    (here / "tasks.py").write_text("from pyncette import Pyncette\nmine = Pyncette()\nalias = mine\n")

    assert isinstance(load(), Pyncette)


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("x = 1\n", "tasks.py", "tasks.py: the module has no app: write `app = Pyncette()`"),
        (APP, "tasks.py:jobs", "tasks.py: jobs not found; the module has app"),
        (APP + "jobs = 3\n", "tasks.py:jobs", "tasks.py: jobs is a int, not a Pyncette; the module has app"),
        (
            "from pyncette import Pyncette\na = Pyncette()\nb = Pyncette()\n",
            "tasks.py",
            "tasks.py: the module has several apps, a, b: select one, as in tasks.py:a",
        ),
        (APP + "def f(:\n", "tasks.py", "tasks.py:3: SyntaxError: invalid syntax"),
        (APP + "\n1 / 0\n", "tasks.py", "tasks.py:4: ZeroDivisionError: division by zero"),
        (
            "import nowhere_to_be_found\n",
            "tasks.py",
            "tasks.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        (
            APP + "@app.task(schedule='61 * * * *')\nasync def f(context): ...\n",
            "tasks.py",
            "tasks.py:3: CroniterBadCronError: ",
        ),
        (
            APP + "raise SystemExit(3)\n",
            "tasks.py",
            "tasks.py:3: the module ended the program during its import",
        ),
        (
            APP + "app.main()\n",
            "tasks.py",
            "tasks.py:3: ConfigurationError: main() is called while the module is imported",
        ),
    ],
)
def test_an_invalid_module_is_reported_in_one_sentence_with_its_line(here, text, target, message):
    (here / "tasks.py").write_text(text)

    told = refusal(load, target)

    assert told.startswith(message)
    assert "\n" not in told


def test_the_line_is_the_innermost_of_the_users_code(here):
    (here / "tasks.py").write_text("import beside\n" + APP)
    (here / "beside.py").write_text("import json\n\njson.loads('{')\n")

    assert refusal(load).startswith("beside.py:3: JSONDecodeError: ")


@pytest.mark.parametrize("target", ["nightli", "nightli.py"])
def test_the_error_of_a_missing_module_suggests_the_nearest(here, target):
    (here / "nightly.py").write_text(APP)

    assert "did you mean nightly" in refusal(load, target)


def test_a_fault_is_an_error_of_configuration():
    assert issubclass(ModuleError, ConfigurationError)
