"""Load from `wrk` (HTTP/1.1) and `h2load` (gRPC), closed loops in one thread each: the server is what is measured.

The two differ in what they count as latency in one respect: wrk corrects for requests that a stall kept it from
sending. That is the same for everything compared, since gRPC is compared with gRPC and HTTP with HTTP.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.error import BenchError, LoadError
from contract.document import Document

_GRACE_S = 20  # beyond the run's own length: connecting, and answers that are late
_REQUEST_TIMEOUT_S = 10
_REPORT = "bench: "


class Figures(Document):
    """What one run of load showed."""

    answers_per_s: float
    p50_ms: float
    p99_ms: float
    num_answers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How many requests are kept in flight: over so many connections, so many on each."""

    connections: int
    streams: int = 1

    @property
    def in_flight(self) -> int:
        """Requests waiting for an answer at any time."""
        return self.connections * self.streams

    def __str__(self) -> str:
        return str(self.connections) if self.streams == 1 else f"{self.connections} x {self.streams}"


def require_tools() -> None:
    """Raises BenchError naming what to install."""
    missing = [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"{' and '.join(missing)} can't be found: apt-get install wrk nghttp2-client (Debian, Ubuntu)")


def wrk(url: str, headers: Mapping[str, str], bodies: Sequence[bytes], shape: Shape, duration_s: int) -> Figures:
    """POST the bodies in turn; raises LoadError unless every answer is a 2xx."""
    if shape.streams != 1:
        raise LoadError(f"expected one request at a time on an HTTP/1.1 connection, got {shape}")
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, body in enumerate(bodies):
            files.append(Path(folder, f"body{i}"))
            files[-1].write_bytes(body)
        script = Path(folder, "ask.lua")
        script.write_text(wrk_script(headers, files))
        options = ["--threads=1", f"--connections={shape.connections}", f"--duration={duration_s}s"]
        limit = f"--timeout={_REQUEST_TIMEOUT_S}s"
        return read_wrk(_run(["wrk", *options, limit, "--script", str(script), url], duration_s))


def wrk_script(headers: Mapping[str, str], bodies: Sequence[Path]) -> str:
    """The Lua that sends the bodies in turn and prints its figures as JSON on the last line."""
    return f"""\
local function read(path)
   local file = assert(io.open(path, "rb"))
   local body = file:read("*a")
   file:close()
   return body
end
wrk.method = "POST"
{"".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" + chr(10) for name, value in headers.items())}
local files, requests, turn = {{ {", ".join(json.dumps(str(path)) for path in bodies)} }}, {{}}, 0
function init()
   for i, path in ipairs(files) do requests[i] = wrk.format(nil, nil, nil, read(path)) end
end
function request()
   turn = turn % #requests + 1
   return requests[turn]
end
function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      '{_REPORT}{{"answers": %d, "duration_us": %d, "p50_us": %f, "p99_us": %f, ' ..
      '"errors": {{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}}}\\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      e.connect, e.read, e.write, e.timeout, e.status))
end
"""


def read_wrk(output: str) -> Figures:
    """Figures from what wrk with our script printed; LoadError when it saw an error, or no answer."""
    last = output.rstrip().rpartition("\n")[2]
    if not last.startswith(_REPORT):
        raise LoadError(f"expected figures from wrk, got {last[-200:]!r}")
    said = json.loads(last.removeprefix(_REPORT))
    errors = {kind: num for kind, num in said["errors"].items() if num}
    if errors or not said["answers"]:
        raise LoadError(f"expected no errors, got {errors or 'none'} beside {said['answers']} answers")
    return Figures(
        answers_per_s=said["answers"] / said["duration_us"] * 1e6,
        p50_ms=said["p50_us"] / 1000,
        p99_ms=said["p99_us"] / 1000,
        num_answers=said["answers"],
    )


def h2load(address: str, method: str, message: bytes, shape: Shape, duration_s: int) -> Figures:
    """Call a unary gRPC method again and again; raises LoadError unless every HTTP status is a 2xx.

    h2load knows nothing of `grpc-status`: whoever calls this holds the number of answers against the server's counters.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(grpc_frame(message))
        options = ["-t1", f"-c{shape.connections}", f"-m{shape.streams}", f"-D{duration_s}", f"-d{body}"]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        url = f"http://{address}{method}"
        output = _run(["h2load", *options, *headers, f"--log-file={log}", url], duration_s)
        return read_h2load(output, log.read_text(), duration_s)


def grpc_frame(message: bytes) -> bytes:
    """A message as gRPC puts it into an HTTP/2 body: not compressed, length, bytes."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def read_h2load(output: str, log: str, duration_s: int) -> Figures:
    """Figures from h2load's summary and from its log, a line an answer: start, status, microseconds.

    LoadError when it saw an error, or no answer.
    """
    counts = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    if counts is None or statuses is None:
        raise LoadError(f"expected a summary from h2load, got {output[-200:]!r}")
    if any(map(int, counts.groups())) or any(map(int, statuses.groups()[1:])) or not log:
        raise LoadError(f"expected 2xx answers alone, got {counts[0]}; {statuses[0]}")
    latencies_us = np.array([line.split("\t")[2] for line in log.splitlines()], np.float64)
    p50, p99 = np.percentile(latencies_us, (50, 99)) / 1000
    num_answers = len(latencies_us)
    return Figures(
        answers_per_s=num_answers / duration_s, p50_ms=float(p50), p99_ms=float(p99), num_answers=num_answers
    )


def _run(command: Sequence[str], duration_s: int) -> str:
    tool = command[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration_s + _GRACE_S, check=False)
    except subprocess.TimeoutExpired:
        raise LoadError(f"{tool} did not end within {_GRACE_S} s after its {duration_s} s") from None
    if done.returncode != 0:
        raise LoadError(f"{tool} ended with code {done.returncode}: {(done.stderr or done.stdout)[-200:]!r}")
    return done.stdout
