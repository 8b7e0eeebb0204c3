import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.error import BenchError, LoadError
from bench.load import Shape, grpc_frame, h2load, read_h2load, read_wrk, require_tools, wrk, wrk_script

WRK = 'Running 2s test\nbench: {"answers": %d, "duration_us": 2000000, "p50_us": 1500, "p99_us": 4000, "errors": %s}\n'
H2LOAD = "requests: 9 total, 9 started, 3 done, 3 succeeded, %s\nstatus codes: %s\n"
FINE = ("0 failed, 0 errored, 0 timeout", "3 2xx, 0 3xx, 0 4xx, 0 5xx")
LOG = "1700000000000000\t200\t1000\n1700000000000500\t200\t2000\n1700000000000900\t200\t3000\n"


def test_figures_of_wrk() -> None:
    figures = read_wrk(WRK % (5000, '{"status": 0, "read": 0}'))
    assert (figures.answers_per_s, figures.p50_ms, figures.p99_ms, figures.num_answers) == (2500, 1.5, 4.0, 5000)


@pytest.mark.parametrize("output", [WRK % (5000, '{"status": 3}'), WRK % (0, "{}"), "", "unable to connect"])
def test_errors_seen_by_wrk_are_no_figures(output: str) -> None:
    with pytest.raises(LoadError):
        read_wrk(output)


def test_figures_of_h2load() -> None:
    figures = read_h2load(H2LOAD % FINE, LOG, 2)
    assert (figures.answers_per_s, figures.p50_ms, figures.num_answers) == (1.5, 2.0, 3)
    assert figures.p99_ms == pytest.approx(2.98)


@pytest.mark.parametrize(
    ("output", "log"),
    [
        (H2LOAD % ("1 failed, 0 errored, 0 timeout", FINE[1]), LOG),
        (H2LOAD % (FINE[0], "2 2xx, 0 3xx, 0 4xx, 1 5xx"), LOG),
        (H2LOAD % FINE, ""),
        ("could not connect", ""),
    ],
)
def test_errors_seen_by_h2load_are_no_figures(output: str, log: str) -> None:
    with pytest.raises(LoadError):
        read_h2load(output, log, 2)


@given(st.binary(max_size=2000))
def test_a_grpc_frame_says_how_long_its_message_is(message: bytes) -> None:
    frame = grpc_frame(message)
    assert (frame[0], int.from_bytes(frame[1:5], "big"), frame[5:]) == (0, len(message), message)


def test_the_script_quotes_what_it_is_given() -> None:
    script = wrk_script({"X-Odd": 'a "b"\\'}, [Path("/a/b")])
    assert 'wrk.headers["X-Odd"] = "a \\"b\\"\\\\"' in script


def test_http_carries_one_request_at_a_time() -> None:
    with pytest.raises(LoadError, match="one request at a time"):
        wrk("http://127.0.0.1:1/", {}, [b""], Shape(connections=1, streams=2), 1)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match=r"wrk and h2load can't be found: apt-get install wrk nghttp2-client"):
        require_tools()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 200, or 500 to the body `bad`."""

    protocol_version = "HTTP/1.1"
    seen: set[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.add(body + self.headers["X-Kind"].encode())
        self.send_response(500 if body == b"bad" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_server() -> Iterator[http.server.ThreadingHTTPServer]:
    Handler.seen = set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


def test_wrk_sends_the_bodies_in_turn(http_server: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{http_server.server_port}/"
    figures = wrk(url, {"X-Kind": "!"}, [b"\0one\r\n", b"two"], Shape(connections=2), 1)
    assert Handler.seen == {b"\0one\r\n!", b"two!"}
    assert 0 < figures.p50_ms <= figures.p99_ms
    assert figures.num_answers > 2


def test_wrk_voids_figures_with_errors(http_server: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{http_server.server_port}/"
    with pytest.raises(LoadError, match="'status'"):
        wrk(url, {"X-Kind": "!"}, [b"bad"], Shape(connections=1), 1)


def test_h2load_speaks_grpc() -> None:
    seen: set[bytes] = set()

    def answer(request: bytes, _: grpc.ServicerContext) -> bytes:
        seen.add(request)
        return b"answer"

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(answer)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        figures = h2load(f"127.0.0.1:{port}", "/a.B/C", b"question", Shape(connections=1, streams=4), 1)
    finally:
        server.stop(5).wait(5)
    assert seen == {b"question"}
    assert figures.num_answers > 4
