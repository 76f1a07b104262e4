from __future__ import annotations


def rolling_out(deployment):
    return False


def status_of_pool(*a, **k):
    raise NotImplementedError
