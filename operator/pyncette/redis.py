"""Opens Redis as the backend: a server, servers behind Sentinel, or a cluster."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.store.base import Store

try:
    from pyncette.store.redis.store import RedisStore
except ImportError as error:
    raise ImportError("pyncette.redis needs redis: pip install 'pyncette-operator[redis]'") from error


@takes_all_settings("redis_")
def redis_repository(*, redis_url: str, redis_namespace: str = "", redis_timeout: float = 10) -> Store:
    """
    Return a store whose keys begin with *redis_namespace*, on the server or servers at *redis_url*.

    A server that does not answer within *redis_timeout* seconds is unavailable. Raises ConfigurationError if the URL is
    invalid.
    """
    return RedisStore(redis_url, redis_namespace or None, timeout=redis_timeout)
