"""Queues Events about deleted tasks whose removal is held back."""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby

from pyncette.clock import Clock
from pyncette.controller.cluster.api import PODS, ObjectName
from pyncette.controller.reasons import Reason
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.settings import OperatorSettings
from pyncette.controller.status.event_queue import EventQueue
from pyncette.controller.status.events import (
    EventContent,
    Regarding,
    event,
    held_back_in_all_message,
    held_back_message,
)


class RemovalEvents:
    """The Events about held-back removals, for the teams and for the platform."""

    def __init__(
        self, settings: OperatorSettings, mirrored: Mirrored, events: EventQueue, clock: Clock
    ) -> None:
        self._settings = settings
        self._mirrored = mirrored
        self._events = events
        self._clock = clock

    def report(self, backend: str, names: Collection[ObjectName]) -> None:
        """Queue Events about the held-back tasks *names*: one in each of their namespaces, and one at the operator's pod."""
        for namespace, held in groupby(sorted(names), lambda name: name.namespace):
            tasks = [name.name for name in held]
            first = self._mirrored.records(ObjectName(namespace, tasks[0]))
            owner = first[0].record.state.owner if first else None
            regarding = Regarding(namespace, tasks[0], "" if owner is None else owner.uid)
            self._add(regarding, held_back_message(backend, namespace, tasks), len(tasks))
        settings = self._settings
        if settings.pod_name:
            pod = Regarding(settings.release_namespace, settings.pod_name, settings.pod_uid, PODS)
            self._add(pod, held_back_in_all_message(backend, len(names)), len(names))

    def _add(self, regarding: Regarding, message: str, count: int) -> None:
        content = EventContent(Reason.REMOVALS_HELD_BACK, "Warning", message)
        self._events.add(event(regarding, content, count, self._clock.now(), self._settings.pod_name))
