"""The command `pyncette`, and what it says when it cannot do what it was asked for."""


def main() -> None:
    """Run the command that the program's arguments name, and exit with its code."""
    from pyncette.cli import commands  # noqa: PLC0415 - a worker process of dev needs none of it

    commands.main()
