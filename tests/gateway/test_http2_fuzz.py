"""Random and mutated frames in random pieces: a connection never raises, stays bounded, and harms no other."""

import asyncio
import socket
from itertools import pairwise
from typing import Any

import grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http2 import frame as f
from gateway.http2.client import ClientConnection, GrpcChannel
from gateway.http2.header import HeaderMemory, literal
from gateway.http2.message import PREFIX
from gateway.http2.reader import FrameReader
from gateway.http2.request import CallError, read_response, read_response_front
from gateway.http2.server import GrpcServer, ServerConnection

MAX_MESSAGE_BYTES = 100_000
BLOCKS = [
    b"\x83\x86" + literal(b":path", path) + literal(b"content-type", b"application/grpc") + extra
    for path in (b"/test.Service/Echo", b"/test.Service/Stream", b"/none")
    for extra in (
        b"",
        literal(b"grpc-timeout", b"1m"),
        b"\x40\x03x-a\x01b",
        b"\xbe",
        literal(b"grpc-encoding", b"gzip"),
    )
]
ANSWERS = [b"\x88", literal(b"grpc-status", b"0"), literal(b":status", b"503"), b"\xbe", b""]

ids = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 7, 2, 2**31 - 1])
kinds = st.sampled_from([*range(10), 0, 0, 0, 1, 1, 99])
flag_sets = st.sampled_from([0, 1, 4, 5, 8, 9, 12, 13, 0x20, 0x2D, 255])
messages = st.builds(
    lambda flag, size, data: PREFIX.pack(flag, size if size is not None else len(data)) + data,
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from([None, None, None, 0, 10, 50_000, 2**32 - 1]),
    st.binary(max_size=40),
)
payloads = st.one_of(
    st.sampled_from([*BLOCKS, *ANSWERS]),
    messages,
    st.binary(max_size=40),
    st.sampled_from(
        [bytes(4), bytes(8), b"\x7f\xff\xff\xff", b"\0\4\0\0\0\1", b"\0\4\x7f\xff\xff\xff", b"\0\3\0\0\0\0"]
    ),
    st.integers(0, 17_000).map(bytes),
)
frames = st.one_of(
    st.builds(f.frame, kinds, flag_sets, ids, payloads),
    st.builds(lambda i, block: f.frame(f.HEADERS, f.END_HEADERS, i, block), ids, st.sampled_from([*BLOCKS, *ANSWERS])),
    st.builds(lambda i, flags, data: f.frame(f.DATA, flags, i, data), ids, st.sampled_from([0, 1]), messages),
    st.just(f.frame(f.SETTINGS, f.ACK, 0)),
    st.binary(max_size=30),
)


@st.composite
def conversations(draw: st.DrawFn, preface: bytes) -> list[bytes]:
    whole = bytearray(preface + f.settings({}) + b"".join(draw(st.lists(frames, max_size=25))))
    for position, value in draw(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=2)):
        whole[position % len(whole)] = value
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    return [bytes(whole[a:b]) for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def stream(requests: Any, context: Any) -> Any:
    async for request in requests:
        yield request


class Sink(asyncio.Transport):
    """A transport that nobody reads the other end of."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.closed = 0, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.size += len(data)

    def writelines(self, data: Any) -> None:
        self.write(b"".join(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def held_bytes(connection: ServerConnection | ClientConnection) -> int:
    streams = connection.streams.values()
    block = connection.block.front if connection.block else b""
    return len(connection._tail) + len(block) + sum(int(stream._buffered) for stream in streams)


def make_server() -> GrpcServer:
    server = GrpcServer(max_message_bytes=MAX_MESSAGE_BYTES, max_streams=3)
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_registered_method_handlers("test.Service", handlers)
    return server


@given(chunks=conversations(f.PREFACE))
@settings(deadline=None, max_examples=150)
def test_any_client(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        server = make_server()
        connection = ServerConnection(server)
        await converse(connection, chunks, 3 * (256 * 1024 + MAX_MESSAGE_BYTES) + 40_000)
        async with asyncio.timeout(10):
            while server.tasks:
                await asyncio.sleep(0)
        assert not server.connections

    asyncio.run(scenario())


@given(chunks=conversations(b""))
@settings(deadline=None, max_examples=100)
def test_any_server(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        memory = HeaderMemory(read_response, read_response_front, max_bytes=8192)
        connection = ClientConnection(GrpcChannel("127.0.0.1", 1), memory)
        connection.connection_made(Sink())
        calls = [connection.open(5) for _ in range(3)]
        for call in calls:
            connection.send_at_once(call, b"\x83", b"abc")
        await converse(connection, chunks, 10**7, made=True)
        for call in calls:
            assert isinstance(await call.answer, bytes | CallError)

    asyncio.run(scenario())


async def converse(
    connection: ServerConnection | ClientConnection, chunks: list[bytes], limit: int, *, made: bool = False
) -> None:
    if not made:
        connection.connection_made(Sink())
    for chunk in chunks:
        connection.data_received(chunk)
        await asyncio.sleep(0)
        assert held_bytes(connection) <= limit
    connection.connection_lost(None)
    assert not connection.streams
    assert connection.credit._lent == 0
    assert not connection.blocked


@given(chunks=conversations(f.PREFACE))
@settings(deadline=None, max_examples=15)
def test_other_connections_are_served_on(chunks: list[bytes]) -> None:
    async def scenario() -> None:
        server, sock = make_server(), socket.create_server(("127.0.0.1", 0))
        await server.start(sock)
        port = sock.getsockname()[1]
        channel = GrpcChannel("127.0.0.1", port)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for chunk in chunks:
            writer.write(chunk)
            assert await channel.unary("/test.Service/Echo", b"well", 10) == b"well"
        writer.close()
        await channel.close()
        await server.stop(0)

    asyncio.run(scenario())


@given(cuts=st.lists(st.integers(0, 800), max_size=30), padded=st.booleans(), size=st.integers(0, 400))
def test_pieces_make_no_difference(cuts: list[int], padded: bool, size: int) -> None:
    """What is read doesn't depend on how it was cut; of a header block, a byte more than may be read is kept."""
    payload = b"\x03" + bytes(range(50)) + bytes(3) if padded else bytes(range(50))
    flags = f.END_STREAM | (f.PADDED if padded else 0)
    whole = b"PRE" + f.settings({}) + f.frame(f.HEADERS, f.END_HEADERS, 1, b"\x82") + f.frame(f.DATA, flags, 1, payload)
    block = (bytes(range(250)) * 2)[:size]
    odd = b"\x02" + bytes(5) + block[:70] + bytes(2)
    whole += f.frame(f.HEADERS, f.PADDED | f.HAS_PRIORITY, 3, odd)
    whole += f.frame(f.CONTINUATION, 0, 3) + f.frame(f.CONTINUATION, f.END_HEADERS, 3, block[70:])
    whole += f.frame(f.PING, 0, 0, bytes(8))
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    recorder = Recorder()
    for start, stop in pairwise(edges):
        recorder.read(whole[start:stop])
    assert recorder.events == ["control 4", "block 1 1", "announced 1", f"block 3 {min(size, 101)}", "control 6"]
    assert (recorder.data, recorder.ended) == (bytes(range(50)), True)


class Recorder(FrameReader):
    """Writes down what it reads; it is its own stream."""

    def __init__(self) -> None:
        super().__init__(b"PRE", max_header_bytes=100, max_block_bytes=1000)
        self.events: list[str] = []
        self.data = b""
        self.closed = self.ended = False

    def data_announced(self, stream_id: int, size: int, *, ends: bool) -> Any:
        self.events.append(f"announced {stream_id}")
        return self

    def data_received(self, data: bytes, start: int = 0, stop: int = 0) -> None:
        self.data += data[start:stop]

    def end_received(self) -> None:
        assert self.ended

    def block_received(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        assert block == b"\x82" or bytes(range(250)).startswith(block)
        self.events.append(f"block {stream_id} {len(block)}")

    def nuisance(self) -> None:
        pass

    def control_received(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self.events.append(f"control {kind}")
