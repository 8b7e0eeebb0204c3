import contextlib
import io
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.log import LineWriter, Record, RequestLog, clean, request_id

CHECKOUT = Path(__file__).parents[2]

# What hypothesis finds by itself, and what is known to end lines, move cursors or be no text.
nasty = st.text(st.characters() | st.sampled_from("\r\n\t\v\f\0\x1b\x7f\x85\x9b\u2028\u2029\u202e\ud800\udfff\ufeff"))


def record(**fields: Any) -> Record:
    known: dict[str, Any] = {
        "time_unix_s": 1_767_225_600.5,
        "request_id": "r1",
        "protocol": "predict",
        "asked": "tiny",
        "model": "tiny",
        "version": "1",
        "status": 200,
        "grpc_code": "OK",
        "duration_ms": 3.14159,
        "stages": {"admit": 0.1, "upstream": 3.04159},
    }
    return Record(**(known | fields))


def written(*records: Record, **options: Any) -> list[str]:
    stream = io.StringIO()
    log = RequestLog(stream, **options)
    for one in records:
        log.write(one)
    log.close(10)
    assert log.dropped == 0
    return stream.getvalue().split("\n")[:-1]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_says_what_happened() -> None:
    (line,) = written(record(batch_samples=4, client="10.0.0.7", trace_id="ab" * 16))
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.500Z",
        "level": "INFO",
        "logger": "gateway.request",
        "request_id": "r1",
        "protocol": "predict",
        "asked": "tiny",
        "model": "tiny",
        "version": "1",
        "grpc_code": "OK",
        "client": "10.0.0.7",
        "trace_id": "ab" * 16,
        "status": 200,
        "duration_ms": 3.142,
        "stages_ms": {"admit": 0.1, "upstream": 3.042},
        "batch_samples": 4,
    }


@pytest.mark.parametrize(("status", "level"), [(200, "INFO"), (404, "WARNING"), (503, "ERROR")])
def test_the_level_says_whose_fault_it_was(status: int, level: str) -> None:
    (line,) = written(record(status=status, error="why"))
    assert json.loads(line)["level"] == level
    assert json.loads(line)["error"] == "why"


@given(nasty, nasty, nasty)
def test_whatever_comes_a_record_is_one_line(asked: str, error: str, client: str) -> None:
    (line,) = written(record(request_id=request_id(error), asked=asked, error=error, client=client))
    assert line.isprintable()
    assert len(line.encode()) < select.PIPE_BUF
    fields = json.loads(line)
    assert fields["asked"] == clean(asked)
    assert all(text.isprintable() and len(text) <= 200 for text in fields.values() if isinstance(text, str))


@given(nasty, st.integers(0, 50))
def test_clean_text_is_short_and_printable_and_left_alone_when_it_was(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert cleaned.isprintable()
    assert len(cleaned) <= limit
    if text.isprintable():
        assert cleaned == text[:limit]


def test_what_is_escaped_can_still_be_told() -> None:
    assert clean("a\r\n\x1b[31mb\u2028\ud800") == r"a\r\n\x1b[31mb\u2028\ud800"


def test_answered_requests_are_sampled() -> None:
    draws = iter([0.1, 0.0099, 0.01])
    log = RequestLog(io.StringIO(), sample=0.01, random=lambda: next(draws))
    assert [log.wants(200) for _ in range(3)] == [False, True, False]
    log.close(10)


@pytest.mark.parametrize("sample", [0, 1])
def test_none_and_all_of_the_answered_requests(sample: float) -> None:
    log = RequestLog(io.StringIO(), sample=sample)
    assert {log.wants(200) for _ in range(100)} == {bool(sample)}
    log.close(10)


def test_errors_are_written_up_to_a_rate_and_the_rest_is_counted() -> None:
    clock, stream = Clock(), io.StringIO()
    log = RequestLog(stream, sample=0, errors_per_s=2, clock=clock)
    assert [log.wants(404) for _ in range(4)] == [True, True, False, False]
    assert log.wants(500), "the client's faults use up none of the lines for ours"
    assert log.suppressed == 2
    log.write(record(status=500))
    clock.now += 0.5
    assert [log.wants(404) for _ in range(2)] == [True, False]
    clock.now += 60
    assert [log.wants(404) for _ in range(3)] == [True, True, False]
    log.write(record(status=404))
    log.write(record(status=404))
    log.close(10)
    assert [json.loads(line).get("suppressed") for line in stream.getvalue().splitlines()] == [2, 2, None]


@pytest.mark.parametrize("options", [{"sample": -0.1}, {"sample": 1.1}, {"sample": float("nan")}, {"errors_per_s": 0}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RequestLog(io.StringIO(), **options)  # type: ignore[arg-type]


@pytest.fixture
def pipe() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """The end to read from, and a stream on the other one."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


def test_a_reader_that_stopped_reading_costs_lines_and_no_time(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    fill(stream.fileno())
    writer = LineWriter(stream, max_lines=10)
    line = b"x" * 4000 + b"\n"
    for _ in range(15):
        writer.write(line)
    assert writer.dropped in (4, 5), "the queue's ten are kept, and the one that the thread has in hand"
    writer.close(0)
    received = b""
    while writer._thread.is_alive() or select.select([reader], [], [], 0)[0]:  # it reads again: the thread ends
        if select.select([reader], [], [], 0.1)[0]:
            received += os.read(reader, 1 << 16)
    assert set(received.strip(b"\0").splitlines(keepends=True)) <= {line}
    assert received.count(b"\n") + writer.dropped == 15


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"\0" * 4096)
    os.set_blocking(pipe, True)


def test_lines_are_written_whole_and_in_order(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    writer = LineWriter(stream)
    lines = [b"%d " % number + b"x" * (number % 300) + b"\n" for number in range(200)]
    for line in lines:
        writer.write(line)
    writer.close(10)
    assert os.read(reader, 1 << 16) == b"".join(lines)
    assert writer.dropped == 0


def test_a_reader_that_went_away_is_counted(pipe: tuple[int, io.TextIOWrapper]) -> None:
    reader, stream = pipe
    os.dup2(stream.fileno(), reader)  # closes the only reader
    writer = LineWriter(stream)
    for _ in range(3):
        writer.write(b"line\n")
    writer.close(10)
    writer.write(b"too late\n")
    assert writer.dropped == 4


def test_a_client_keeps_its_id_and_who_has_none_gets_one() -> None:
    assert request_id("3f-A b") == "3f-A b"
    own = [request_id(None), request_id(""), request_id(" \r\n")]
    assert len(set(own)) == 3
    assert all(one.isascii() and one.isprintable() and 0 < len(one) <= 128 for one in own)


@given(nasty)
def test_an_id_is_always_fit_for_a_header(header: str) -> None:
    given_id = request_id(header)
    assert given_id.isascii()
    assert given_id.isprintable()
    assert given_id == given_id.strip()
    assert 0 < len(given_id) <= 128


def own_messages(*, as_json: bool) -> str:
    code = f"""
import logging
from gateway.log import configure
configure("INFO", json={as_json})
log = logging.getLogger("gateway.app")
log.debug("not this")
log.info("one\\nline \\x1b[31m of %s", "two\\ud800")
try:
    raise ValueError("bad\\x1b[31m thing")
except ValueError:
    log.exception("it failed")
log.info("%d", "no number")
logging.getLogger("uvicorn.error").warning("last")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
    return done.stderr


def test_own_messages_have_the_same_json_form() -> None:
    lines = [json.loads(line) for line in own_messages(as_json=True).splitlines() if line.startswith("{")]
    assert [line["message"] for line in lines] == [r"one\nline \x1b[31m of two\ud800", "it failed", "last"]
    assert [line["level"] for line in lines] == ["INFO", "ERROR", "WARNING"]
    assert [line["logger"] for line in lines] == ["gateway.app", "gateway.app", "uvicorn.error"]
    assert lines[1]["exception"].splitlines()[-1] == r"ValueError: bad\x1b[31m thing"


def test_own_messages_as_text_are_lines_too() -> None:
    lines = own_messages(as_json=False).splitlines()
    assert r"ValueError: bad\x1b[31m thing" in lines
    for end in (r"INFO gateway.app one\nline \x1b[31m of two\ud800", "WARNING uvicorn.error last"):
        assert any(line.endswith(end) for line in lines)
