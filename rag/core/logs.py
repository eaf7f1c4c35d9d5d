"""Logs are events with fields; this sets up how they look, once per process."""

import logging
import sys

import structlog

from rag.core.settings import LogSettings


def configure(settings: LogSettings) -> None:
    """Send structlog's events, and warnings of libraries, to stderr as `settings` say."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console"
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not console:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s [%(levelname)-8s] %(name)s %(message)s"
    )
    # It tells of each attempt with a traceback, and its caller of the failure in one line.
    logging.getLogger("elastic_transport").setLevel(logging.ERROR)
