"""Structured logs: one JSON object a line on stderr, with a correlation id, without secrets.

The correlation id is made where a person's action begins (the CLI), travels as gRPC metadata ``x-correlation-id``
and is bound to everything that is logged on its behalf. Frames and pictures are never logged.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import structlog

from maskfleet.ids import new_id

CORRELATION_KEY = "x-correlation-id"

_correlation: contextvars.ContextVar[str] = contextvars.ContextVar("maskfleet_correlation", default="")
_SECRET_KEYS = re.compile(r"token|secret|password|passwd|credential|authorization|private|cookie", re.IGNORECASE)
# Our own tokens (join, credential), bearer headers, and passwords in URLs, wherever in a text they stand.
_SECRET_VALUES = re.compile(r"mf[a-z]1\.[A-Za-z0-9_.=-]+|(?<=[Bb]earer )\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")
_CORRELATION_VALUE = re.compile(r"[A-Za-z0-9_-]{1,64}")
HIDDEN = "[hidden]"


def correlation_id() -> str:
    """The current correlation id; empty where there is none."""
    return _correlation.get()


@contextlib.contextmanager
def correlated(value: str = "") -> Iterator[str]:
    """Binds a correlation id for the block; a fresh one where ``value`` is empty or not well-formed."""
    chosen = value if _CORRELATION_VALUE.fullmatch(value) else new_id("c")
    reset = _correlation.set(chosen)
    try:
        yield chosen
    finally:
        _correlation.reset(reset)


def redacted(value: Any, key: str = "") -> Any:
    """The value with secrets hidden: under telling keys whole, in texts where they look like our tokens."""
    if key and _SECRET_KEYS.search(key) and value not in (None, "", 0, False):
        return HIDDEN
    if isinstance(value, str):
        return _SECRET_VALUES.sub(HIDDEN, value)
    if isinstance(value, dict):
        return {k: redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    return value


def configure(service: str, *, level: str = "INFO") -> None:
    """Sets logs up for a process. Called once, in ``__main__``.

    Args:
        service: name of the process, as ``edge_agent``.
        level: least level to show.
    """

    def add_context(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        if "logger_name" in event:  # structlog keeps the word logger for itself
            event["logger"] = event.pop("logger_name")
        if value := correlation_id():
            event["correlation_id"] = value
        return event

    def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key in event:
            event[key] = redacted(event[key], key)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_context,
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def get_logger(name: str) -> Any:
    """A logger whose events carry the name of their module.

    It may be made at import, before :func:`configure`: it takes its shape with the first event.
    """
    return structlog.get_logger(logger_name=name)
