"""Makes docs/reference/cli.md from the commands themselves: what --help says, the settings, and the exit codes."""

import inspect
import textwrap
from collections.abc import Iterator

import click

from pyncette.cli.commands import cli
from pyncette.cli.commands.command import WithExamples
from pyncette.cli.failures import MEANINGS
from pyncette.cli.settings import SETTINGS

HEAD = """\
<!-- Made from the code by `make generate`. -->

# Commands

`pyncette` runs handlers and shows their results. `pyncette COMMAND --help` prints the same texts, and `pyncette --version` the
version.
"""

SETTINGS_HEAD = """\
## Settings

An option takes precedence over its environment variable. All invalid settings are reported together, before anything is done.
An unknown variable that begins with `PYNCETTE_` causes a warning that suggests the nearest valid one. Messages never contain the
password of a URL.

| variable | option | meaning |
|---|---|---|
"""

BACKENDS = """
| URL | backend |
|---|---|
| `sqlite:///tasks.db` | SQLite, in a file relative to the current folder, which several processes can share |
| `sqlite:////var/lib/tasks.db` | SQLite, with an absolute path: a fourth slash |
| `sqlite://` | SQLite in the memory of one process: records are lost when it ends, and no other process can share them |
| `postgresql://user:password@host:5432/database` | PostgreSQL, for any number of workers on any machines; needs `pip install 'pyncette-operator[postgres]'` |
| `mysql://user:password@host:3306/database`, `mariadb://…` | [MySQL or MariaDB](stores-mysql.md), likewise; needs `pip install 'pyncette-operator[mysql]'` |
| `redis://user:password@host:6379/0?namespace=shop:` | Redis or Valkey, likewise; also with `rediss`, `redis+sentinel` or `redis+cluster`, and `valkey` for `redis`: see [Redis](stores-redis.md); needs `pip install 'pyncette-operator[redis]'` |
| `dynamodb://region/table` | [DynamoDB](stores-dynamodb.md), likewise; needs `pip install 'pyncette-operator[dynamodb]'` |

Without PYNCETTE_BACKEND, `tasks`, `runs`, `workers`, `run`, `redrive`, `resume` and `purge` use the database of `dev` in `.pyncette` in
the current folder. `--path` selects another folder, and takes precedence over PYNCETTE_BACKEND. So do `--namespace` and `--pool`, which
select a pool of the cluster. They work in the operator's pod, where the operator's settings and the API server are available.
`dev` never uses PYNCETTE_BACKEND, and `worker` never uses the backend of a module.
"""

EXIT_CODES_HEAD = """
## Exit codes

All commands use the same exit codes. A command that fails prints one sentence on stderr. A traceback is a bug in Pyncette.

| code | meaning |
|---|---|
"""


def cli_reference() -> str:
    """Return the page."""
    commands = [_command(name, command) for name, command in commands_of(cli)]
    settings = "".join(
        f"| `{setting.variable}` | `{setting.option} {_cell(setting.shown)}` | {_cell(setting.meaning)} |\n"
        for setting in SETTINGS
    )
    codes = "".join(f"| {code.value} | {_cell(meaning)} |\n" for code, meaning in MEANINGS.items())
    return "\n".join([HEAD, *commands]) + "\n" + SETTINGS_HEAD + settings + BACKENDS + EXIT_CODES_HEAD + codes


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Yield each command by the words that call it, such as `schedule explain`."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in commands_of(command))
        else:
            yield name, command


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"pyncette {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    text = inspect.cleandoc(command.help or "")
    records = [
        record
        for parameter in command.params
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context))
    ]
    options = "".join(f"| `{_cell(option)}` | {_cell(meaning)} |\n" for option, meaning in records)
    examples = "\n".join(command.examples) if isinstance(command, WithExamples) else ""
    return textwrap.dedent(
        """\
        ## {name}

        ```text
        pyncette {name} {usage}
        ```

        {text}

        ```shell
        {examples}
        ```
        """
    ).format(name=name, usage=usage, text=text, examples=examples) + (
        f"\n| option | meaning |\n|---|---|\n{options}" if options else ""
    )


def _cell(text: str) -> str:
    """Return *text* as it may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
