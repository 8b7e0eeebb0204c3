"""The server against peers that break the protocol: each loses its connection, or its stream, and nobody else's."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from hpack import Decoder

from gateway.http2 import connection as connection_module
from gateway.http2 import frame as f
from gateway.http2 import server as server_module
from gateway.http2.client import GrpcChannel
from gateway.http2.frame import ErrorCode
from gateway.http2.header import literal
from gateway.http2.message import PREFIX
from gateway.http2.server import WINDOW_BYTES, GrpcServer

MAX_MESSAGE_BYTES = 2_000_000
LIMIT_S = 20
HELLO = f.PREFACE + f.settings({})
REQUEST = (
    b"\x83\x86"
    + literal(b":path", b"/test.Service/Echo")
    + literal(b":authority", b"test")
    + literal(b"te", b"trailers")
    + literal(b"content-type", b"application/grpc")
)
MESSAGE = PREFIX.pack(0, 3) + b"abc"


class Behaviour:
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.num_cancelled = self.num_entered = 0

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.num_entered += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return request

    async def stall(self, requests: Any, context: Any) -> bytes:
        await self.gate.wait()
        return b"".join([request async for request in requests])

    async def large(self, request: bytes, context: Any) -> bytes:
        return bytes(16 * 1024 * 1024)


@dataclass(slots=True)
class Peer:
    """A client of raw frames."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    decoder: Decoder

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def frame(self, *kinds: int) -> tuple[int, int, int, bytes]:
        """Read up to the next frame of one of these kinds, or to any but SETTINGS and WINDOW_UPDATE."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                head, flags, stream_id = f.HEAD.unpack(await self.reader.readexactly(f.HEAD_BYTES))
                payload = await self.reader.readexactly(head >> 8)
                kind = head & 0xFF
                if kind in kinds or (not kinds and kind not in (f.SETTINGS, f.WINDOW_UPDATE)):
                    return kind, flags, stream_id, payload

    async def headers(self) -> dict[bytes, bytes]:
        return dict(self.decoder.decode((await self.frame(f.HEADERS))[3], raw=True))

    async def ending(self) -> ErrorCode:
        """The code in GOAWAY, behind which the connection ends."""
        payload = (await self.frame(f.GOAWAY))[3]
        async with asyncio.timeout(LIMIT_S):
            with suppress(ConnectionResetError):  # what it hadn't read yet is thrown away
                while await self.reader.read(65536):
                    pass
        return ErrorCode(int.from_bytes(payload[4:8], "big"))


@dataclass(slots=True)
class Served:
    server: GrpcServer
    behaviour: Behaviour
    port: int

    @asynccontextmanager
    async def peer(self, *frames: bytes, limit: int = 2**20) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        peer = Peer(reader, writer, Decoder())
        peer.send(*frames)
        try:
            yield peer
        finally:
            writer.close()

    async def check(self) -> None:
        """Whether a well-behaved client is served."""
        channel = GrpcChannel("127.0.0.1", self.port)
        assert await channel.unary("/test.Service/Echo", b"well", 10) == b"well"
        await channel.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    behaviour = Behaviour()
    server = GrpcServer(max_message_bytes=MAX_MESSAGE_BYTES, max_streams=10, write_timeout_s=0.2)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(behaviour.echo),
        "Wait": grpc.unary_unary_rpc_method_handler(behaviour.wait),
        "Large": grpc.unary_unary_rpc_method_handler(behaviour.large),
        "Stall": grpc.stream_unary_rpc_method_handler(behaviour.stall),
    }
    server.add_registered_method_handlers("test.Service", handlers)
    sock = socket.create_server(("127.0.0.1", 0))
    await server.start(sock)
    served = Served(server, behaviour, sock.getsockname()[1])
    yield served
    await served.check()
    await server.stop(0)
    assert not server.connections


def head(stream_id: int = 1, block: bytes = REQUEST, flags: int = f.END_HEADERS) -> bytes:
    return f.frame(f.HEADERS, flags, stream_id, block)


def data(stream_id: int = 1, payload: bytes = MESSAGE, flags: int = f.END_STREAM) -> bytes:
    return f.frame(f.DATA, flags, stream_id, payload)


def path(name: str) -> bytes:
    return REQUEST.replace(literal(b":path", b"/test.Service/Echo"), literal(b":path", name.encode()))


def raw(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return f.frame(kind, flags, stream_id, payload)


PROTOCOL, FLOW, SIZE, CALM = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.ENHANCE_YOUR_CALM,
)


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
        ([HELLO, f.HEAD.pack(20_000 << 8 | f.HEADERS, 0, 1)], SIZE),
        ([HELLO, head(1), f.HEAD.pack(2**24 - 1 << 8, 0, 1)], SIZE),
        ([HELLO, head(1, b"\xff\xff\xff\xff\xff\xff")], ErrorCode.COMPRESSION_ERROR),
        ([HELLO, head(1, b"\xbe")], ErrorCode.COMPRESSION_ERROR),
        ([HELLO, head(1, REQUEST + literal(b"x-large", bytes(9000)))], CALM),
        ([HELLO, head(1, REQUEST, 0), *[raw(f.CONTINUATION, 0, 1, bytes(16_000))] * 2], CALM),
        ([HELLO, head(1, REQUEST, 0), *[raw(f.CONTINUATION, 0, 1)] * 5001], CALM),
        ([HELLO, *[raw(f.PING, 0, 0, bytes(8))] * 5001], CALM),
        ([HELLO, *[f.settings({})] * 5001], CALM),
        ([HELLO, *[raw(f.PRIORITY, 0, 1, bytes(5))] * 5001], CALM),
        ([HELLO, *[raw(99)] * 5001], CALM),
        ([HELLO, head(1), *[data(1, b"", 0)] * 5001], CALM),
        ([HELLO, *[head(i) + f.rst_stream(i, ErrorCode.CANCEL) for i in range(1, 10_004, 2)]], CALM),
    ],
)
async def test_violations_end_the_connection(served: Served, frames: list[bytes], code: ErrorCode) -> None:
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


async def test_a_reset_cancels_the_handler(served: Served) -> None:
    async with served.peer(HELLO, head(1, path("/test.Service/Wait")), data(1)) as peer:
        while not served.behaviour.num_entered:
            await asyncio.sleep(0)
        peer.send(f.rst_stream(1, ErrorCode.CANCEL))
        while not served.behaviour.num_cancelled:
            await asyncio.sleep(0)
        assert not served.server.tasks


async def test_a_client_that_reads_nothing_loses_its_stream(served: Served) -> None:
    async with served.peer(HELLO, head(1, path("/test.Service/Large")), data(1)) as peer:
        kinds = []
        while (frame := await peer.frame())[0] != f.RST_STREAM:
            kinds.append(frame[0])
        assert frame[3] == f.U32.pack(ErrorCode.CANCEL)  # its window was used up, and never widened
        assert set(kinds) == {f.HEADERS, f.DATA}


async def test_replies_that_nobody_reads_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_NUISANCES", 10**9)
    monkeypatch.setattr(connection_module, "MAX_UNSENT_BYTES", 2 * 1024 * 1024)
    async with served.peer(HELLO, limit=1) as peer:
        while not served.server.connections:
            await asyncio.sleep(0)
        (connection,) = served.server.connections
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not connection.dead:
            peer.send(raw(f.PING, 0, 0, bytes(8)) * 1000)
            await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() <= 3 * 1024 * 1024


async def test_messages_in_hand_are_bounded_by_windows_and_loans(served: Served) -> None:
    """Ten streams want the largest message at once: two loans are given, and the others when those are paid back."""
    most, num = MAX_MESSAGE_BYTES, 10
    message = PREFIX.pack(0, most) + bytes(most)
    sent = {1 + 2 * i: 0 for i in range(num)}
    async with served.peer(HELLO, *[head(i) for i in sent]) as peer:
        windows = dict.fromkeys(sent, WINDOW_BYTES)

        def send_all() -> None:
            for i in sent:
                while (size := min(windows[i], len(message) - sent[i], 16_384)) > 0:
                    last = f.END_STREAM if sent[i] + size == len(message) else 0
                    peer.send(data(i, message[sent[i] : sent[i] + size], last))
                    sent[i] += size
                    windows[i] -= size

        send_all()
        most_lent, num_ended = 0, 0
        while num_ended < num:
            kind, flags, stream_id, payload = await peer.frame(f.WINDOW_UPDATE, f.DATA, f.HEADERS)
            if kind == f.WINDOW_UPDATE and stream_id:
                windows[stream_id] += int.from_bytes(payload, "big")
                send_all()
            elif kind == f.DATA:
                peer.send(f.window_update(0, len(payload)), f.window_update(stream_id, len(payload)))
            num_ended += flags & f.END_STREAM if kind == f.HEADERS else 0
            most_lent = max(most_lent, *(connection.credit._lent for connection in served.server.connections))
        assert 0 < most_lent <= 2 * most


async def test_who_never_begins_to_speak_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PREFACE_TIMEOUT_S", 0.05)
    async with served.peer(f.PREFACE[:10]) as peer:
        assert await peer.ending() is ErrorCode.SETTINGS_TIMEOUT


async def test_a_silent_client_does_not_hold_up_the_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_LAST_WORDS_TIMEOUT_S", 0.05)
    behaviour, server = served.behaviour, GrpcServer(max_message_bytes=1000)
    server.add_registered_method_handlers("test.Service", {"Wait": grpc.unary_unary_rpc_method_handler(behaviour.wait)})
    sock = socket.create_server(("127.0.0.1", 0))
    await server.start(sock)
    other = Served(server, behaviour, sock.getsockname()[1])
    async with other.peer(HELLO, head(1, path("/test.Service/Wait")), data(1)) as peer:
        while not behaviour.num_entered:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(server.stop(20))
        assert (await peer.frame(f.GOAWAY))[3][:4] == f.U32.pack(f.MAX_STREAM_ID)
        assert (await peer.frame(f.GOAWAY))[3][:4] == f.U32.pack(1)
        peer.send(head(3, path("/test.Service/Wait")), data(3))
        assert await peer.frame() == (f.RST_STREAM, 0, 3, f.U32.pack(ErrorCode.REFUSED_STREAM))
        behaviour.gate.set()
        assert (await peer.frame(f.DATA))[2] == 1
        await stopping
