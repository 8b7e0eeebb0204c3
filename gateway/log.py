"""The gateway's log: one JSON line for a request that is worth one, and the process's own messages in the same form.

A reader of logs trusts that a line is a record. So whatever a client chose is cut, and characters that would end a
line, move a terminal's cursor, reverse the text or be no text at all are written as escapes.

Nor may a reader that has stopped reading hold requests up: lines wait in a bounded queue for a thread that writes
them, and what finds the queue full is dropped and counted.
"""

import io
import logging
import os
import random
import secrets
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, TextIO

import orjson

_TEXT_CHARACTERS = 200
_MESSAGE_CHARACTERS = 2000
_TRACEBACK_LINES = 100
_ID_CHARACTERS = 128
_CLOSE_S = 1.0

_id_prefix = secrets.token_hex(8)
_id_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request, ended. `asked` is what the client named; `stages` holds milliseconds, in the order they ran."""

    time_unix_s: float
    request_id: str
    protocol: str
    asked: str
    model: str
    version: str
    status: int
    grpc_code: str
    duration_ms: float
    stages: Mapping[str, float]
    batch_samples: int = 0
    error: str | None = None
    client: str | None = None
    key: str | None = None
    trace_id: str | None = None


def request_id(header: str | None) -> str:
    """The client's id, as far as it is printable ASCII and 128 characters, or one of our own."""
    if header is not None:
        if len(header) > _ID_CHARACTERS or not header.isascii() or not header.isprintable():
            header = "".join(char for char in header[:_ID_CHARACTERS] if " " <= char <= "~")
        header = header.strip(" ")
    return header or f"{_id_prefix}-{next(_id_numbers):x}"


def clean(text: str, limit: int = _TEXT_CHARACTERS) -> str:
    """The text in at most `limit` characters, all printable."""
    text = text[:limit]
    if not text.isprintable():  # False for controls, line separators, direction marks and lone surrogates
        escaped = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
        text = "".join(escaped)[:limit]
    return text


class LineWriter:
    """Writes lines to a stream from a thread of its own; `write` never waits.

    `dropped` counts the lines that found the queue full, or that the stream didn't take.
    """

    def __init__(self, stream: TextIO, *, max_lines: int = 2000) -> None:
        self._stream = stream
        self._max_lines = max_lines
        self._lines: deque[bytes] = deque()
        self._waiting = threading.Event()
        self._closed = False
        self._refused = 0  # by the queue, and so counted by who writes
        self._failed = 0  # at the stream, and so counted by the thread
        self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._refused + self._failed

    def write(self, line: bytes) -> None:
        """Queue a line, which ends with a line feed."""
        if self._closed or len(self._lines) >= self._max_lines:
            self._refused += 1
            return
        self._lines.append(line)
        self._waiting.set()

    def close(self, timeout_s: float) -> None:
        """Write what is queued; what can't be within the time is dropped."""
        self._closed = True
        self._waiting.set()
        self._thread.join(timeout_s)
        while chunk := self._chunk():
            self._refused += chunk.count(b"\n")

    def _drain(self) -> None:
        while self._lines or not self._closed:
            self._waiting.wait()
            self._waiting.clear()
            while chunk := self._chunk():
                try:
                    self._put(chunk)
                except (OSError, ValueError):  # the reader went away, or the stream was closed
                    self._failed += chunk.count(b"\n")

    def _chunk(self) -> bytes:
        """As many lines as a pipe takes in one piece, so that those of several processes don't mix."""
        chunk = b""
        try:
            while not chunk or len(chunk) + len(self._lines[0]) <= select.PIPE_BUF:
                chunk += self._lines.popleft()
        except IndexError:  # there are no more
            pass
        return chunk

    def _put(self, chunk: bytes) -> None:
        # Past the stream's buffer: a thread stuck in there holds its lock, and the interpreter aborts over it at exit.
        try:
            file = self._stream.fileno()
        except io.UnsupportedOperation:  # it is in memory
            self._stream.write(chunk.decode())
            return
        while chunk:
            chunk = chunk[os.write(file, chunk) :]


class RequestLog:
    """Writes a line for a share of the answered requests and for each failed one, those up to so many a second.

    The client's faults (4xx) and ours (5xx) each have the whole rate: who sends us nonsense can't hide our failures.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        sample: float = 0.01,
        errors_per_s: float = 50,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        if not 0 <= sample <= 1:
            raise ValueError(f"expected a share of requests to log from 0 to 1, got {sample}")
        if not errors_per_s >= 1:
            raise ValueError(f"expected at least one line a second for errors, got {errors_per_s}")
        self.suppressed = 0
        self._told = 0  # how many of the suppressed a line has told of
        self._sample = sample
        self._random = random
        self._refusals = _Budget(errors_per_s, clock)
        self._failures = _Budget(errors_per_s, clock)
        self._writer = LineWriter(stream)

    @property
    def dropped(self) -> int:
        """Lines lost because nobody read them; errors beyond the rate are in `suppressed`."""
        return self._writer.dropped

    def wants(self, status: int) -> bool:
        """Whether to write this request. It draws lots and uses the rate up, so ask once a request."""
        if status < 400:
            return self._random() < self._sample
        if (self._refusals if status < 500 else self._failures).take():
            return True
        self.suppressed += 1
        return False

    def write(self, record: Record) -> None:
        """Write a request's line; the first after errors were suppressed says how many."""
        line = _fields(record)
        if self.suppressed > self._told:
            line["suppressed"] = self.suppressed - self._told
            self._told = self.suppressed
        self._writer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self, timeout_s: float) -> None:
        """Write what is queued, within the time."""
        self._writer.close(timeout_s)


def configure(level: str, *, json: bool) -> None:
    """Send the process's own messages to stderr, as JSON lines or as text for people."""
    handler = _Handler(LineWriter(sys.stderr))
    handler.setFormatter(_JsonFormatter() if json else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class _Budget:
    """A token bucket that holds a second's worth."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s = self._left = per_s
        self._clock = clock
        self._filled = clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._left + (now - self._filled) * self._per_s, self._per_s)
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _fields(record: Record) -> dict[str, Any]:
    level = logging.INFO if record.status < 400 else logging.WARNING if record.status < 500 else logging.ERROR
    line = _head(record.time_unix_s, level, "gateway.request")
    for name in (
        "request_id",
        "protocol",
        "asked",
        "model",
        "version",
        "grpc_code",
        "error",
        "client",
        "key",
        "trace_id",
    ):
        text = getattr(record, name)
        if text is not None:
            line[name] = clean(text)
    line["status"] = record.status
    line["duration_ms"] = round(record.duration_ms, 3)
    line["stages_ms"] = {stage: round(took_ms, 3) for stage, took_ms in record.stages.items()}
    line["batch_samples"] = record.batch_samples
    return line


def _head(time_unix_s: float, level: int, logger: str) -> dict[str, Any]:
    moment = datetime.fromtimestamp(time_unix_s, UTC).isoformat(timespec="milliseconds")
    return {"time": moment.replace("+00:00", "Z"), "level": logging.getLevelName(level), "logger": logger}


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode(errors="backslashreplace")
        except Exception:  # a message that doesn't fit its arguments; logging says which
            self.handleError(record)
        else:
            self._writer.write(line + b"\n")

    def close(self) -> None:
        self._writer.close(_CLOSE_S)  # called when the interpreter ends, too
        super().close()


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging names it
        record.message = clean(record.message, _MESSAGE_CHARACTERS)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging names it
        lines = super().formatException(ei).splitlines()[-_TRACEBACK_LINES:]
        return "\n".join(clean(line, _MESSAGE_CHARACTERS) for line in lines)


class _JsonFormatter(_TextFormatter):
    def format(self, record: logging.LogRecord) -> str:
        line = _head(record.created, record.levelno, record.name)
        line["message"] = clean(record.getMessage(), _MESSAGE_CHARACTERS)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()
