"""The server against peers that break the protocol: each loses its connection, or its stream, and nobody else's."""

import asyncio

import grpc
import pytest

from gateway.http2 import connection as connection_module
from gateway.http2 import frame as f
from gateway.http2.frame import ErrorCode
from gateway.http2.header import literal
from gateway.http2.message import PREFIX
from gateway.http2.server import MAX_BLOCK_BYTES, WINDOW_BYTES
from tests.gateway.http2_peer import (
    CALM,
    FLOW,
    HELLO,
    MAX_MESSAGE_BYTES,
    MESSAGE,
    PROTOCOL,
    REQUEST,
    SIZE,
    Served,
    data,
    head,
    path,
    raw,
)

ACK = raw(f.SETTINGS, f.ACK)
FLOOD = 1001  # as many within a second: on a busy machine, more would take longer
LONG = REQUEST + literal(b"x-large", b"a" * 60_000)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"], PROTOCOL),
        ([f.PREFACE, raw(f.PING, 0, 0, bytes(8))], PROTOCOL),
        ([HELLO, data(1)], PROTOCOL),
        ([HELLO, data(0)], PROTOCOL),
        ([HELLO, head(0)], PROTOCOL),
        ([HELLO, head(2)], PROTOCOL),
        ([HELLO, f.rst_stream(7, ErrorCode.CANCEL)], PROTOCOL),
        ([HELLO, f.window_update(7, 1)], PROTOCOL),
        ([HELLO, f.window_update(0, 0)], PROTOCOL),
        ([HELLO, f.window_update(0, f.MAX_WINDOW)], FLOW),
        ([HELLO, raw(f.WINDOW_UPDATE, 0, 0, b"abc")], SIZE),
        ([HELLO, raw(f.PUSH_PROMISE, f.END_HEADERS, 1, bytes(4) + REQUEST)], PROTOCOL),
        ([HELLO, raw(f.CONTINUATION, f.END_HEADERS, 1, REQUEST)], PROTOCOL),
        ([HELLO, head(1, REQUEST, 0), head(3)], PROTOCOL),
        ([HELLO, head(1, REQUEST, 0), raw(f.CONTINUATION, f.END_HEADERS, 3)], PROTOCOL),
        ([HELLO, head(1, REQUEST, 0), raw(f.PING, 0, 0, bytes(8))], PROTOCOL),
        ([HELLO, head(1), data(1), data(1, MESSAGE)], ErrorCode.STREAM_CLOSED),
        ([HELLO, head(1), data(1, b"\x04abc", f.PADDED)], PROTOCOL),
        ([HELLO, head(1, b"\x09abc", f.PADDED | f.END_HEADERS)], PROTOCOL),
        ([HELLO, head(1, b"abc", f.HAS_PRIORITY | f.END_HEADERS)], SIZE),
        ([HELLO, raw(f.PRIORITY, 0, 1, b"abc")], SIZE),
        ([HELLO, raw(f.PING, 0, 0, b"short")], SIZE),
        ([HELLO, raw(f.PING, 0, 1, bytes(8))], PROTOCOL),
        ([HELLO, raw(f.SETTINGS, 0, 1)], PROTOCOL),
        ([HELLO, raw(f.SETTINGS, 0, 0, b"short")], SIZE),
        ([HELLO, raw(f.SETTINGS, f.ACK, 0, bytes(6))], SIZE),
        ([HELLO, raw(f.RST_STREAM, 0, 1, b"abc")], SIZE),
        ([HELLO, raw(f.GOAWAY, 0, 0, b"abc")], PROTOCOL),
        ([HELLO, f.settings({f.ENABLE_PUSH: 2})], PROTOCOL),
        ([HELLO, f.settings({f.INITIAL_WINDOW_SIZE: 2**31})], FLOW),
        ([HELLO, f.settings({f.MAX_FRAME_SIZE: 2**14 - 1})], PROTOCOL),
        ([HELLO, f.settings({f.MAX_FRAME_SIZE: 2**24})], PROTOCOL),
        ([HELLO, f.HEAD.pack(20_000 << 8 | f.SETTINGS, 0, 0)], SIZE),
        ([HELLO, f.HEAD.pack(2**20 + 1 << 8 | f.HEADERS, 0, 1)], SIZE),
        ([HELLO, ACK, f.HEAD.pack(MAX_BLOCK_BYTES + 1 << 8 | f.HEADERS, 0, 1)], CALM),
        ([HELLO, head(1), f.HEAD.pack(2**24 - 1 << 8, 0, 1)], SIZE),
        ([HELLO, head(1, b"\xff\xff\xff\xff\xff\xff")], ErrorCode.COMPRESSION_ERROR),
        ([HELLO, head(1, b"\xbe")], ErrorCode.COMPRESSION_ERROR),
        ([HELLO, head(1, REQUEST + literal(b"x-large", bytes(9000)))], CALM),
        ([HELLO, head(1, REQUEST, 0), *[raw(f.CONTINUATION, 0, 1, bytes(16_000))] * 5], CALM),
        ([HELLO, ACK, head(1, REQUEST, 0), *[raw(f.CONTINUATION, 0, 1, bytes(16_000))] * 5], CALM),
        ([HELLO, head(1, REQUEST, 0), raw(f.CONTINUATION, f.END_HEADERS, 1, literal(b"x-large", bytes(20_000)))], CALM),
        ([HELLO, head(1, REQUEST, 0), *[raw(f.CONTINUATION, 0, 1)] * FLOOD], CALM),
        ([HELLO, *[raw(f.PING, 0, 0, bytes(8))] * FLOOD], CALM),
        ([HELLO, *[f.settings({})] * FLOOD], CALM),
        ([HELLO, *[raw(f.PRIORITY, 0, 1, bytes(5))] * FLOOD], CALM),
        ([HELLO, *[raw(99)] * FLOOD], CALM),
        ([HELLO, head(1), *[data(1, b"", 0)] * FLOOD], CALM),
        ([HELLO, *[head(i) + f.rst_stream(i, ErrorCode.CANCEL) for i in range(1, 2 * FLOOD + 1, 2)]], CALM),
    ],
)
async def test_violations_end_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch, frames: list[bytes], code: ErrorCode
) -> None:
    monkeypatch.setattr(connection_module, "MAX_NUISANCES", FLOOD - 1)
    async with served.peer(*frames) as peer:
        assert await peer.ending() is code


async def test_data_beyond_the_window_ends_the_connection(served: Served) -> None:
    """A handler that doesn't read is lent nothing."""
    frames = [data(1, PREFIX.pack(0, MAX_MESSAGE_BYTES), 0)] + [data(1, bytes(16_384), 0)] * (WINDOW_BYTES // 16_384)
    async with served.peer(HELLO, head(1, path("/test.Service/Stall")), *frames) as peer:
        assert await peer.ending() is FLOW


async def test_windows_beyond_the_largest_end_the_stream_or_all(served: Served) -> None:
    wait = head(1, path("/test.Service/Wait")) + data(1)
    async with served.peer(HELLO, wait, f.window_update(1, f.MAX_WINDOW)) as peer:
        assert (await peer.frame(f.RST_STREAM))[3] == f.U32.pack(FLOW)
        peer.send(head(3), data(3), f.window_update(3, 0))
        assert await peer.frame() == (f.RST_STREAM, 0, 3, f.U32.pack(PROTOCOL))
    async with served.peer(
        HELLO, wait, f.window_update(1, 2**30), f.settings({f.INITIAL_WINDOW_SIZE: 2**31 - 1})
    ) as peer:
        assert await peer.ending() is FLOW


async def test_streams_beyond_the_limit_are_refused(served: Served) -> None:
    calls = [head(i, path("/test.Service/Wait")) + data(i) for i in range(1, 22, 2)]
    async with served.peer(HELLO, *calls) as peer:
        assert await peer.frame() == (f.RST_STREAM, 0, 21, f.U32.pack(ErrorCode.REFUSED_STREAM))
        served.behaviour.gate.set()
        assert {(await peer.frame(f.DATA))[2] for _ in range(10)} == set(range(1, 20, 2))


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"\x82" + REQUEST[1:], b"405"),
        (REQUEST.replace(b"application/grpc", b"application/json"), b"415"),
        (REQUEST.replace(literal(b"content-type", b"application/grpc"), b""), b"415"),
    ],
)
async def test_what_is_not_grpc_gets_an_http_status(served: Served, block: bytes, status: bytes) -> None:
    async with served.peer(HELLO, head(1, block), data(1)) as peer:
        assert (await peer.headers())[b":status"] == status
        peer.send(head(3), data(3))
        assert (await peer.headers())[b":status"] == b"200"


@pytest.mark.parametrize(
    "block",
    [
        REQUEST[1:],
        REQUEST + b"\x83",
        b"\x83" + REQUEST,
        REQUEST + literal(b"X-Upper", b"a"),
        REQUEST + literal(b"connection", b"close"),
        REQUEST + literal(b"x-line", b"a\r\nb"),
        REQUEST + literal(b"", b"a"),
        REQUEST + literal(b":status", b"200"),
        REQUEST.replace(b"trailers", b"trailerz"),
    ],
)
async def test_malformed_requests_are_reset(served: Served, block: bytes) -> None:
    async with served.peer(HELLO, head(1, block), data(1)) as peer:
        assert await peer.frame() == (f.RST_STREAM, 0, 1, f.U32.pack(PROTOCOL))
        peer.send(head(3), data(3))
        assert (await peer.headers())[b":status"] == b"200"


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        ([head(1, REQUEST + literal(b"grpc-timeout", b"soon")), data()], grpc.StatusCode.INVALID_ARGUMENT),
        ([head(1, REQUEST + literal(b"x-bin", b"?")), data()], grpc.StatusCode.INVALID_ARGUMENT),
        ([head(1, REQUEST + literal(b"grpc-encoding", b"deflate")), data()], grpc.StatusCode.UNIMPLEMENTED),
        ([head(1, path("/test.Service/None")), data()], grpc.StatusCode.UNIMPLEMENTED),
        ([head(1), data(1, b"")], grpc.StatusCode.INTERNAL),
        ([head(1), data(1, MESSAGE[:-1])], grpc.StatusCode.INTERNAL),
        ([head(1), data(1, MESSAGE + MESSAGE)], grpc.StatusCode.INTERNAL),
        ([head(1), data(1, b"\x02" + MESSAGE[1:])], grpc.StatusCode.INTERNAL),
        ([head(1), data(1, b"\x01" + MESSAGE[1:])], grpc.StatusCode.INTERNAL),
        ([head(1), data(1, PREFIX.pack(0, MAX_MESSAGE_BYTES + 1), 0)], grpc.StatusCode.RESOURCE_EXHAUSTED),
        ([head(1, REQUEST, f.END_HEADERS | f.END_STREAM)], grpc.StatusCode.INTERNAL),
        (
            [head(1, path("/test.Service/Wait") + literal(b"grpc-timeout", b"1m")), data()],
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ),
    ],
)
async def test_requests_that_are_none_get_a_status(
    served: Served, frames: list[bytes], status: grpc.StatusCode
) -> None:
    async with served.peer(HELLO, *frames) as peer:
        headers = await peer.headers()
        assert (headers[b":status"], headers[b"grpc-status"]) == (b"200", b"%d" % status.value[0])
        assert headers[b"grpc-message"]
        peer.send(head(3), data(3))
        assert (await peer.headers())[b":status"] == b"200"


async def test_what_is_odd_but_allowed(served: Served) -> None:
    padded = head(1, b"\x03" + bytes(5) + REQUEST + bytes(3), f.PADDED | f.HAS_PRIORITY | f.END_HEADERS)
    pieces = [data(1, b"\x05" + MESSAGE[i : i + 1] + bytes(5), f.PADDED) for i in range(len(MESSAGE))]
    trailers = head(1, literal(b"x-last", b"1"), f.END_HEADERS | f.END_STREAM)
    split = [head(3, REQUEST[:10], 0), raw(f.CONTINUATION, 0, 3, REQUEST[10:20])]
    split += [raw(f.CONTINUATION, f.END_HEADERS, 3, REQUEST[20:]), data(3)]
    whole = b"".join([HELLO, raw(f.PRIORITY, 0, 1, bytes(5)), padded, *pieces, trailers, *split, raw(99, 7, 5, b"x")])
    async with served.peer() as peer:
        for i in range(len(whole)):
            peer.send(whole[i : i + 1])
            await asyncio.sleep(0)
        for stream_id in (1, 3):
            assert (await peer.headers())[b":status"] == b"200"
            kind, _, answered, payload = await peer.frame()
            assert (kind, answered, payload) == (f.DATA, stream_id, MESSAGE)
            assert (await peer.headers())[b"grpc-status"] == b"0"
        peer.send(
            data(1), f.rst_stream(1, ErrorCode.CANCEL), f.window_update(1, 1), trailers, raw(f.PING, 0, 0, b"12345678")
        )
        assert await peer.frame() == (f.PING, f.ACK, 0, b"12345678")


@pytest.mark.parametrize(
    "frames",
    [
        [head(3, REQUEST + literal(b"x-large", b"a" * 9000))],
        [head(3, REQUEST + literal(b"x", b"") * 300)],
        [head(3, LONG)],
        [head(3, bytes([9]) + bytes(5) + LONG + bytes(9), f.PADDED | f.HAS_PRIORITY | f.END_HEADERS)],
        [head(3, LONG[:100], 0), raw(f.CONTINUATION, 0, 3), raw(f.CONTINUATION, f.END_HEADERS, 3, LONG[100:])],
    ],
)
@pytest.mark.parametrize("piece_bytes", [7, 100_000])
async def test_too_much_metadata_fails_its_own_stream(served: Served, frames: list[bytes], piece_bytes: int) -> None:
    whole = b"".join(frames)
    async with served.peer(HELLO, ACK, head(1, path("/test.Service/Wait")), data(1)) as peer:
        for start in range(0, len(whole), piece_bytes):
            peer.send(whole[start : start + piece_bytes])
            if start % 100 == 0:
                await asyncio.sleep(0)
        peer.send(data(3), head(5), data(5))
        headers = await peer.headers()
        assert headers[b"grpc-status"] == b"%d" % grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert headers[b"grpc-message"] == b"expected metadata of at most 8192 bytes, got more"
        assert await peer.frame() == (f.RST_STREAM, 0, 3, f.U32.pack(ErrorCode.NO_ERROR))
        assert await peer.frame(f.DATA) == (f.DATA, 0, 5, MESSAGE)
        served.behaviour.gate.set()
        assert await peer.frame(f.DATA) == (f.DATA, 0, 1, MESSAGE)
