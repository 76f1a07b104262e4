"""Makes the default requests and limits of a worker agree with those that the template of its pool sets."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from pyncette.controller.settings import WorkerSettings
from pyncette.controller.workloads.pod_security import Part
from pyncette.resources.quantity import number_of


def default_resources(workers: WorkerSettings, given: Part) -> dict[str, dict[str, str]]:
    """
    Return the resources that *given*, those of the template, are merged into.

    The API server refuses a request above the limit. So a default limit is raised to a request that the template sets,
    and a default request is lowered to such a limit.
    """
    requests, limits = dict(workers.resources.requests), dict(workers.resources.limits)
    for name, request in given.within("requests").fields.items():
        if name in limits and _number(request, 0) > number_of(limits[name]):
            limits[name] = request
    for name, limit in given.within("limits").fields.items():
        if name in requests and _number(limit, "Infinity") < number_of(requests[name]):
            requests[name] = limit
    return {
        part: quantities for part, quantities in (("requests", requests), ("limits", limits)) if quantities
    }


def _number(quantity: Any, otherwise: Any) -> Decimal:
    """Return *quantity* as a number. The API server says what is wrong with one that is none."""
    try:
        return number_of(quantity)
    except InvalidOperation:
        return Decimal(otherwise)
