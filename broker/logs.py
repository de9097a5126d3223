"""Logs: one JSON object a line, and no secret in any.

* Every line of ours, of uvicorn and of the libraries goes through the same chain.
* What has a telling name (``token``, ``authorization`` ...) or looks like one of our bearers, a
  JWT or an Authorization header is struck out, however deep it lies; so is a URL's query.
* A traceback is a list of places. Its local variables are never taken, nor is the text of an
  exception that is not ours: a driver's text quotes rows, a parser's text quotes input.
"""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from vault.errors import VaultError

HIDDEN: Final = "***"
MAX_DEPTH: Final = 6
MAX_TEXT: Final = 2000

_TELLING = re.compile(
    r"(?i)(authorization|cookie|password|passwd|secret|token|api[_-]?key|credential|verifier"
    r"|private[_-]?key|^code$|^state$|bearer|dsn|database_url)"
)
_PATTERNS: Final = (
    re.compile(r"\bkt[a-z]?_[0-9A-Za-z]{20,}"),  # our own bearers, whole or cut
    re.compile(r"\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]*)*"),  # JWT, JWE
    re.compile(r"(?i)\b(bearer|basic)\s+[0-9A-Za-z+/=._~-]{6,}"),
    re.compile(r"(?<=://)[^/\s@]+@"),  # user and password of a URL
    re.compile(r"(?<=\?)[^\s\"']+"),  # query strings
)
_encode = msgspec.json.Encoder(enc_hook=lambda _thing: HIDDEN).encode


def configure(level: str, *, stream: TextIO = sys.stderr) -> None:
    """Send every log line of the process through the one chain."""
    chain: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        exception_without_values,
        redact,
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _as_json],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These log requests or URLs on their own at INFO; our access log says what is safe to say.
    for chatty in (
        "uvicorn",
        "uvicorn.access",
        "uvicorn.error",
        "aiohttp.access",
        "httpx",
        "apscheduler",
    ):
        logging.getLogger(chatty).handlers = []
        logging.getLogger(chatty).propagate = True
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        # First of all: a line that nobody wants is not made.
        processors=[
            structlog.stdlib.filter_by_level,
            *chain,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Strike out what must not be read."""
    return {
        name: value if name.startswith("_") else _safe(name, value, MAX_DEPTH)
        for name, value in event.items()
    }


def exception_without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and the places it came through."""
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else info
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        if isinstance(error, VaultError):
            event["reason"] = error.message
        event["places"] = _places(error.__traceback__)
    return event


def _safe(name: str, value: Any, depth: int) -> Any:  # noqa: ANN401 - a log line may hold anything
    if _TELLING.search(name):
        return HIDDEN
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth == 0 or isinstance(value, bytes | bytearray):
        return HIDDEN
    if isinstance(value, Mapping):
        return {str(key): _safe(str(key), item, depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_safe("", item, depth - 1) for item in value]
    return clean(str(value))


def clean(text: str) -> str:
    """Strike secrets out of running text."""
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."


def _places(traceback: TracebackType | None) -> list[str]:
    places = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = "/".join(code.co_filename.split("/")[-2:])
        places.append(f"{file}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return places[-20:]


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event).decode()
