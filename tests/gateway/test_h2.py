"""Our gRPC over HTTP/2, server and client, against the general library's, and against peers that break the protocol."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from hpack import Decoder, Encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.h2 import server as server_module
from gateway.h2.client import CallError, GrpcChannel
from gateway.h2.frame import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    frame,
    header_block,
)
from gateway.h2.frame import settings as settings_frame
from gateway.h2.server import GrpcServer
from gateway.process import bound_socket

SERVICE = "test.Echo"
LIMIT = 32 * 1024 * 1024
FIELDS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test.Echo/Unary"),
    (b":authority", b"x"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)
ASK = b"\x00" + (2).to_bytes(4, "big") + b"hi"


class Echo:
    """Gives back what it is sent; `b"wait"` waits at the gate, `b"fail"` raises, `b"refuse"` aborts."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = self.cancelled = 0

    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"wait":
            self.waiting += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.waiting -= 1
        if request == b"fail":
            raise RuntimeError("secret")
        if request == b"refuse":
            await context.abort(grpc.StatusCode.NOT_FOUND, "Größe: 100 % falsch\n")
        if request == b"metadata":
            return repr(sorted(context.invocation_metadata())).encode()
        return request

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            yield request.upper()

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    def handlers(self) -> dict[str, Any]:
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Stream": grpc.stream_stream_rpc_method_handler(self.stream),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
        }


def with_identity(handlers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: handler._replace(request_deserializer=bytes, response_serializer=bytes)
        for name, handler in handlers.items()
    }


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[Echo, int, GrpcServer]]:
    echo = Echo()
    server = GrpcServer(**({"max_message_bytes": LIMIT} | options))
    server.add_registered_method_handlers(SERVICE, with_identity(echo.handlers()))
    listener = bound_socket("127.0.0.1", 0, share=False)
    port = listener.getsockname()[1]
    await server.start(listener)
    try:
        yield echo, port, server
    finally:
        echo.gate.set()
        await server.stop(5)


@asynccontextmanager
async def channel_to(port: int, **options: Any) -> AsyncIterator[Any]:
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=limits, **options) as channel:
        yield channel


@asynccontextmanager
async def theirs() -> AsyncIterator[tuple[Echo, int]]:
    echo = Echo()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, echo.handlers()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield echo, port
    finally:
        echo.gate.set()
        await server.stop(0)


# The server, asked by the general library


async def test_many_calls_at_once_and_messages_of_every_size() -> None:
    async with serving() as (_, port, _), channel_to(port) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        bodies = [random.Random(i).randbytes(size) for i, size in enumerate((0, 1, 16_379, 16_380, 65_536, 3_000_000))]
        assert await asyncio.gather(*(unary(body, timeout=30) for body in bodies)) == bodies
        asks = [b"%d" % i for i in range(500)]
        assert await asyncio.gather(*(unary(ask, timeout=30) for ask in asks)) == asks
        large = random.Random(7).randbytes(20_000_000)
        assert await unary(large, timeout=60) == large


async def test_streams_of_every_kind() -> None:
    async with serving() as (_, port, _), channel_to(port) as channel:
        both = channel.stream_stream(f"/{SERVICE}/Stream")(iter([b"a", b"b"]), timeout=10)
        assert [answer async for answer in both] == [b"a", b"A", b"b", b"B"]
        counted = channel.unary_stream(f"/{SERVICE}/Count")(b"300", timeout=10)
        assert [answer async for answer in counted] == [b"%d" % i for i in range(300)]
        assert await channel.stream_unary(f"/{SERVICE}/Join")(iter([b"a", b"b", b"c"]), timeout=10) == b"abc"


async def test_errors_have_a_code_and_a_text_and_keep_secrets() -> None:
    async with serving() as (_, port, _), channel_to(port) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await unary(b"refuse", timeout=10)
        assert (error.value.code(), error.value.details()) == (grpc.StatusCode.NOT_FOUND, "Größe: 100 % falsch\n")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await unary(b"fail", timeout=10)
        assert error.value.code() is grpc.StatusCode.UNKNOWN
        assert "secret" not in str(error.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=10)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await unary(b"still here", timeout=10) == b"still here"


async def test_metadata_arrives() -> None:
    async with serving() as (_, port, _), channel_to(port) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        answer = await unary(b"metadata", timeout=10, metadata=(("x-tenant", "acme"), ("x-long", "y" * 3000)))
        assert b"('x-tenant', 'acme')" in answer
        assert b"y" * 3000 in answer


async def test_a_deadline_and_a_cancelled_call_end_the_work() -> None:
    async with serving() as (echo, port, _), channel_to(port) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await unary(b"wait", timeout=0.1)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        call = unary(b"wait", timeout=10)
        async with asyncio.timeout(10):
            while echo.cancelled < 1 or not echo.waiting:
                await asyncio.sleep(0.001)
            call.cancel()
            while echo.cancelled < 2:
                await asyncio.sleep(0.001)


async def test_compressed_messages_are_read_and_bombs_are_not() -> None:
    gzip = {"compression": grpc.Compression.Gzip}
    async with serving(max_message_bytes=100_000) as (_, port, _), channel_to(port, **gzip) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        assert await unary(b"a" * 50_000, timeout=10) == b"a" * 50_000
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await unary(b"a" * 5_000_000, timeout=10)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_over_the_limit_is_refused_before_it_has_come() -> None:
    async with serving(max_message_bytes=1000) as (_, port, _), channel_to(port) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="at most 1000 bytes, got 2000000") as error:
            await channel.unary_unary(f"/{SERVICE}/Unary")(b"x" * 2_000_000, timeout=10)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stop_waits_for_what_is_in_hand_and_takes_nothing_new() -> None:
    async with serving() as (echo, port, server), channel_to(port) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        call = asyncio.ensure_future(unary(b"wait", timeout=10))
        async with asyncio.timeout(10):
            while not echo.waiting:
                await asyncio.sleep(0.001)
            stopping = asyncio.create_task(server.stop(5))
            await asyncio.sleep(0)
            with pytest.raises(grpc.aio.AioRpcError):
                await unary(b"new", timeout=0.5)
            echo.gate.set()
            assert await call == b"wait"
            await stopping


# The client, asking the general library's server and our own


@pytest.mark.parametrize("ours", [True, False])
async def test_the_client_gets_answers_of_every_size(ours: bool) -> None:
    async with serving() as (_, own, _), theirs() as (_, general):
        channel = GrpcChannel("127.0.0.1", own if ours else general)
        bodies = [random.Random(i).randbytes(size) for i, size in enumerate((0, 1, 16_380, 100_000, 3_000_000))]
        asks = [channel.unary(f"/{SERVICE}/Unary", body, 30) for body in bodies]
        assert await asyncio.gather(*asks) == bodies
        many = [b"%d" % i for i in range(300)]
        assert await asyncio.gather(*(channel.unary(f"/{SERVICE}/Unary", body, 30) for body in many)) == many
        large = random.Random(9).randbytes(20_000_000)
        assert await channel.unary(f"/{SERVICE}/Unary", large, 60) == large
        metadata = await channel.unary(f"/{SERVICE}/Unary", b"metadata", 10, (("traceparent", "00-1"),))
        assert b"00-1" in metadata
        await channel.close()


@pytest.mark.parametrize("ours", [True, False])
async def test_the_client_learns_what_went_wrong(ours: bool) -> None:
    async with serving() as (own_echo, own, _), theirs() as (general_echo, general):
        echo = own_echo if ours else general_echo
        channel = GrpcChannel("127.0.0.1", own if ours else general)
        with pytest.raises(CallError, match="Größe: 100 % falsch") as error:
            await channel.unary(f"/{SERVICE}/Unary", b"refuse", 10)
        assert error.value.code is grpc.StatusCode.NOT_FOUND
        with pytest.raises(CallError) as error:
            await channel.unary(f"/{SERVICE}/Nothing", b"", 10)
        assert error.value.code is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(CallError) as error:
            await channel.unary(f"/{SERVICE}/Unary", b"wait", 0.1)
        assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        call = asyncio.ensure_future(channel.unary(f"/{SERVICE}/Unary", b"wait", 10))
        async with asyncio.timeout(10):
            while not echo.waiting or echo.cancelled < 1:
                await asyncio.sleep(0.001)
            call.cancel()
            while echo.cancelled < 2:
                await asyncio.sleep(0.001)
        await channel.close()


async def test_a_server_that_goes_and_comes_back_is_found_again() -> None:
    async with serving() as (_, port, server):
        channel = GrpcChannel("127.0.0.1", port)
        assert await channel.unary(f"/{SERVICE}/Unary", b"a", 10) == b"a"
        await server.stop(5)
        with pytest.raises(CallError) as error:
            await channel.unary(f"/{SERVICE}/Unary", b"b", 5)
        assert (error.value.code, error.value.unsent) == (grpc.StatusCode.UNAVAILABLE, True)
        again = GrpcServer(max_message_bytes=LIMIT)
        again.add_registered_method_handlers(SERVICE, with_identity(Echo().handlers()))
        await again.start(bound_socket("127.0.0.1", port, share=False))
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await channel.unary(f"/{SERVICE}/Unary", b"c", 5) == b"c"
                    break
                except CallError:
                    await asyncio.sleep(0.01)
        await channel.close()
        await again.stop(5)


# Peers that break the protocol


async def talk(port: int, *parts: bytes) -> bytes:
    """Send bytes after the preface and read until the server closes, or has nothing more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + settings_frame(()) + b"".join(parts))
    said = b""
    try:
        async with asyncio.timeout(2):
            while chunk := await reader.read(65536):
                said += chunk
    except (TimeoutError, ConnectionResetError):
        pass
    writer.close()
    return said


def frames_of(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while len(data) >= 9:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def headers(stream: int = 1, flags: int = END_HEADERS, fields: Any = FIELDS) -> bytes:
    return frame(HEADERS, flags, stream, header_block(*fields))


VIOLATIONS: dict[str, tuple[Code, bytes]] = {
    "data on a stream that never was": (Code.PROTOCOL_ERROR, frame(DATA, 0, 3, b"x")),
    "a stream of the server's": (Code.PROTOCOL_ERROR, headers(2)),
    "a stream that goes back": (Code.PROTOCOL_ERROR, headers(5) + headers(3)),
    "headers of no stream": (Code.PROTOCOL_ERROR, headers(0)),
    "a push": (Code.PROTOCOL_ERROR, frame(PUSH_PROMISE, 0, 1, b"\x00" * 4)),
    "a short ping": (Code.PROTOCOL_ERROR, frame(PING, 0, 0, b"\x00")),
    "a short priority": (Code.FRAME_SIZE_ERROR, frame(PRIORITY, 0, 1, b"\x00")),
    "a short reset": (Code.FRAME_SIZE_ERROR, headers(1) + frame(RST_STREAM, 0, 1, b"\x00")),
    "settings of an odd length": (Code.FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, b"\x00")),
    "a window of 0": (Code.PROTOCOL_ERROR, frame(WINDOW_UPDATE, 0, 0, b"\x00" * 4)),
    "a window that overflows": (Code.FLOW_CONTROL_ERROR, frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")),
    "a frame that is too large": (Code.FRAME_SIZE_ERROR, b"\x00\x40\x01" + frame(DATA, 0, 1)[3:]),
    "a header block that isn't continued": (Code.PROTOCOL_ERROR, headers(1, 0) + frame(PING, 0, 0, b"\x00" * 8)),
    "a continuation of nothing": (Code.PROTOCOL_ERROR, frame(CONTINUATION, END_HEADERS, 1, b"")),
    "an endless header block": (
        Code.ENHANCE_YOUR_CALM,
        headers(1, 0) + frame(CONTINUATION, 0, 1, b"\x00" * 16_000) * 6,
    ),
    "a header block that is none": (Code.COMPRESSION_ERROR, frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff")),
    "more padding than frame": (Code.PROTOCOL_ERROR, headers(1) + frame(DATA, 0x8, 1, b"\x09x")),
    "pings without end": (Code.ENHANCE_YOUR_CALM, frame(PING, 0, 0, b"\x00" * 8) * 10_100),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_the_connection_with_its_code(name: str) -> None:
    code, sent = VIOLATIONS[name]
    async with serving() as (_, port, _):
        said = frames_of(await talk(port, sent))
        goodbyes = [payload for kind, _, _, payload in said if kind == GOAWAY]
        assert [int.from_bytes(payload[4:8], "big") for payload in goodbyes] == [code]
        async with channel_to(port) as channel:
            assert await channel.unary_unary(f"/{SERVICE}/Unary")(b"next", timeout=10) == b"next"


async def test_rapid_resets_are_answered_with_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_RESETS_PER_S", 0.0)
    async with serving() as (_, port, _):
        attack = b"".join(headers(2 * i + 1) + frame(RST_STREAM, 0, 2 * i + 1, b"\x00" * 4) for i in range(1100))
        said = frames_of(await talk(port, attack))
        assert [int.from_bytes(p[4:8], "big") for kind, _, _, p in said if kind == GOAWAY] == [Code.ENHANCE_YOUR_CALM]


async def test_streams_beyond_the_limit_are_refused_and_what_is_no_grpc_gets_a_status() -> None:
    async with serving(max_streams=2) as (_, port, _):
        said = frames_of(await talk(port, *(headers(number) for number in (1, 3, 5)), frame(PING, 0, 0, b"12345678")))
        assert (RST_STREAM, 5, Code.REFUSED_STREAM) in [
            (kind, stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in said
        ]
        get = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"x"))
        said = frames_of(await talk(port, headers(1, END_HEADERS | END_STREAM, get)))
        (answered,) = [payload for kind, _, stream, payload in said if kind == HEADERS and stream == 1]
        assert [str(value) for _, value in Decoder().decode(answered)] == ["405"]


async def test_http_1_is_not_talked_to() -> None:
    async with serving() as (_, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                await reader.read(-1)  # until the server closes
        writer.close()


@pytest.mark.parametrize("table_size", [0, 4096])
async def test_header_blocks_mean_what_they_say_whether_the_peer_uses_its_table_or_not(table_size: int) -> None:
    """A peer may use its table until it has heard that ours has no room; the cache must not mix the two up."""
    async with serving() as (_, port, _):
        encoder = Encoder()
        encoder.header_table_size = table_size
        parts = []
        for i in range(6):
            fields = (*FIELDS, (b"x-number", b"%d" % (i // 2)))
            block = encoder.encode(fields)
            body = b"\x00" + (8).to_bytes(4, "big") + b"metadata"
            parts.append(frame(HEADERS, END_HEADERS, 2 * i + 1, block) + frame(DATA, END_STREAM, 2 * i + 1, body))
        said = frames_of(await talk(port, *parts))
        answers = {stream: payload for kind, _, stream, payload in said if kind == DATA}
        for i in range(6):
            assert f"('x-number', '{i // 2}')".encode() in answers[2 * i + 1]


frames = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 9),
    st.one_of(st.binary(max_size=40), st.just(header_block(*FIELDS)), st.just(ASK), st.just(b"\x00\x00\x00\x01")),
)


class Wire(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.written = 0

    def write(self, data: Any) -> None:
        self.written += len(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sent=st.lists(frames, max_size=20), cuts=st.randoms(use_true_random=False), noise=st.binary(max_size=30))
def test_whatever_comes_the_connection_never_raises(sent: list[bytes], cuts: random.Random, noise: bytes) -> None:
    async def feed() -> None:
        server = GrpcServer(max_message_bytes=1000)
        server.add_registered_method_handlers(SERVICE, with_identity(Echo().handlers()))
        connection = server_module._Connection(server)
        wire = Wire()
        connection.connection_made(wire)
        data = PREFACE + b"".join(sent) + noise
        while data and not wire.closed:
            size = cuts.randint(1, 60)
            connection.data_received(data[:size])
            data = data[size:]
            await asyncio.sleep(0)
        assert len(connection._buffer) < 32_768
        connection.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(feed())
