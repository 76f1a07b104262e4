"""The command `pyncette`, and what it says when it cannot do what it was asked for."""

from pyncette.cli.commands import main

__all__ = ["main"]
