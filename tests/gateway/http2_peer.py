"""A client of raw HTTP/2 frames, and the server that it tries."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from hpack import Decoder

from gateway.http2 import frame as f
from gateway.http2.client import GrpcChannel
from gateway.http2.frame import ErrorCode
from gateway.http2.header import literal
from gateway.http2.message import PREFIX
from gateway.http2.server import GrpcServer

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


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    """A server that is there, for others too, at the end."""
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
