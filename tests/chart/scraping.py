"""What Prometheus stores of workers and of the operator: real samples, with the labels that a scrape gives them."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry

POD: Final = {"namespace": "shop", "pod": "w", "pyncette_dev_pool": "default"}
"""What the PodMonitor says of a worker."""

OPERATOR: Final = {"namespace": "pyncette", "service": "pyncette-operator-metrics", "pod": "o"}
"""What the ServiceMonitor says of the operator."""


class Scrapes:
    """The series of one target, scraped once a minute; with *honors_labels* its own labels win."""

    def __init__(
        self,
        target: Mapping[str, str],
        registry: CollectorRegistry = REGISTRY,
        *,
        honors_labels: bool = False,
    ) -> None:
        self._target = target
        self._registry = registry
        self._honors_labels = honors_labels
        self._values: defaultdict[str, dict[int, float]] = defaultdict(dict)
        self._scrapes = 0

    def scrape(self, tasks: Collection[str] | None = None) -> None:
        """Take one sample of each series; with *tasks*, of theirs alone: a registry lasts as long as its process."""
        for metric in self._registry.collect():
            for sample in metric.samples:
                if tasks is None or sample.labels.get("task_name") in tasks:
                    self._values[self._series(sample.name, sample.labels)][self._scrapes] = sample.value
        self._scrapes += 1

    @property
    def series(self) -> dict[str, str]:
        """All series, with values as promtool reads them."""
        up = self._series("up", {})
        values = {
            name: " ".join(_value(found, at) for at in range(self._scrapes))
            for name, found in self._values.items()
        }
        return {up: f"1x{self._scrapes}", **values}

    def _series(self, name: str, labels: Mapping[str, str]) -> str:
        own = dict(labels)
        if not self._honors_labels:
            for taken in self._target.keys() & own.keys():
                own[f"exported_{taken}"] = own.pop(taken)
        # An empty label is none.
        told = {key: value for key, value in {**self._target, **own}.items() if value}
        return name + "{" + ", ".join(f'{key}="{value}"' for key, value in sorted(told.items())) + "}"


def _value(found: Mapping[int, float], at: int) -> str:
    """Return a value as promtool reads it; a series that is no longer there is stale at once."""
    if at in found:
        return f"{found[at]:.17g}"
    return "stale" if at - 1 in found else "_"
