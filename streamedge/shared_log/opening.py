"""Opens the engine that a URL names."""

from __future__ import annotations

from streamedge.shared_log.engine import Engine


def open_engine(url: str, prefix: str, *, client_name: str = "streamedge") -> Engine:
    """The engine at a URL (redis:// or rediss://); it connects with its first call.

    ``prefix``: of its keys, one for each fleet. ``client_name``: by which operators of the engine
    recognize the connections. Raises EngineError for an invalid URL.
    """
    # A fleet of one has no engine, and imports no client.
    from streamedge.shared_log.redis.engine import RedisEngine  # noqa: PLC0415

    return RedisEngine(url, prefix, client_name)
