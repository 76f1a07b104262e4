"""Hides passwords among the arguments of this process, which each user of the machine can list."""

from __future__ import annotations

import sys

from setproctitle import setproctitle

from pyncette.store.redaction import without_secrets


def hide_passwords() -> None:
    """
    Overwrite the arguments of this process as the system shows them, if one looks like a secret.

    They were shown until now, from the start of the process: an option with a file, or a variable, is safer.
    """
    shown = [without_secrets(argument) for argument in sys.orig_argv]
    if shown != sys.orig_argv:
        setproctitle(" ".join(shown))
