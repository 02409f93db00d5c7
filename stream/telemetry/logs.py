"""Structured logs on standard error: one JSON object a line for machines, a readable line for people.

Logs name events by their source (topic, partition, offset) and never hold content, keys, URIs or rationales.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Literal

import structlog

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


def configure_logs(level: LogLevel, style: LogFormat) -> None:
    """Set up structlog for this process. Call once, before the first log line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def frames(error: BaseException, limit: int = 8) -> list[str]:
    """Where `error` was raised, innermost last: function and line, without its message, which may quote content."""
    return [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-limit:]]
