"""
The command `pyncette`, its settings, and its errors.

It may import every other room, and no other room imports it. Commands import what they need when they run, so that
`pyncette --help` is quick.
"""


def main() -> None:
    """Run the command that the program's arguments name, and exit with its code."""
    from pyncette.cli import commands  # noqa: PLC0415 - a worker process of dev needs none of it

    commands.main()
