"""Makes docs/reference/metrics-operator.md from the metrics themselves."""

from pyncette.controller.metrics import MEASURES, Measure

HEAD = """\
<!-- Made from the code by `make generate`. -->

# Metrics of the operator

The operator serves these metrics at `/metrics` on port 9090 (`metrics` in its settings). No label has a number of values that
grows with the number of tasks. Histograms are in seconds. Workers have [metrics of their own](metrics.md).

| metric | type | labels | meaning |
|---|---|---|---|
"""


def metrics_reference() -> str:
    return HEAD + "".join(map(_row, MEASURES))


def _row(measure: Measure) -> str:
    labels = "<br>".join(f"`{name}`: {values}" for name, values in measure.labels.items())
    return f"| `{measure.full_name}` | {measure.type} | {labels} | {measure.meaning} |\n"
