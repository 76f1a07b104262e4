"""
For tests: an app in simulated time, a plugin of pytest, and two suites for stores: conformance and faults.

It is public. It imports the app and the port of the store. No other room imports it. Its names are imported on first use,
since pytest loads the plugin in every project.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyncette.testing.clock import UnsettledError, VirtualClock
    from pyncette.testing.world import World, running

__all__ = ["UnsettledError", "VirtualClock", "World", "running"]

_HOMES: Final = {
    "UnsettledError": "pyncette.testing.clock",
    "VirtualClock": "pyncette.testing.clock",
    "World": "pyncette.testing.world",
    "running": "pyncette.testing.world",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pyncette.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals() | dict.fromkeys(__all__))
