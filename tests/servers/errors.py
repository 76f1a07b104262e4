"""Errors of the set-up of a test."""


class MissingServerError(Exception):
    """No server of this kind could be had; the message names the command that brings one."""


class ServerDidNotStartError(Exception):
    """The server is installed, but did not come up; the message ends with what it logged."""


class MissingToolError(MissingServerError):
    """A program that works with servers could not be had; the message says what brings it."""
