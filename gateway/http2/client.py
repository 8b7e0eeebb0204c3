"""A gRPC client on asyncio for unary calls: one connection, made when it is needed and made again when it is lost."""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final

import grpc

from gateway.http2 import frame as f
from gateway.http2.connection import Connection
from gateway.http2.frame import PREFACE, ErrorCode
from gateway.http2.header import HeaderMemory, literal
from gateway.http2.message import PREFIX
from gateway.http2.metadata import encode_metadata, encode_timeout
from gateway.http2.poll import BusyPoll
from gateway.http2.request import (
    MAX_HEADER_BYTES,
    CallError,
    ClientCall,
    ResponseHead,
    read_response,
    read_response_front,
)
from gateway.http2.stream import Credit, WriteStalled

__all__ = ["CallError", "GrpcChannel"]

log = logging.getLogger(__name__)

MAX_WAITING: Final = 4096  # calls that wait because the server takes no more at once
MAX_BLOCK_BYTES: Final = 64 * 1024 * 1024  # of headers: servers put all they have to say of an error into them
CONNECT_TIMEOUT_S: Final = 5.0
MIN_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 1.0

_METHOD_AND_SCHEME = b"\x83\x86"  # POST and http, of the static table
_REST = (
    literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc") + literal(b"user-agent", b"tidegate")
)
_BEFORE = struct.Struct(">IBIBI")  # the head of a DATA frame and its message's prefix


class GrpcChannel:
    """A server at an address. For an answer that comes within `busy_poll_s` seconds it may look out awake."""

    def __init__(self, host: str, port: int, *, busy_poll_s: float = 0.0) -> None:
        self._host, self._port = host, port
        self._busy_poll = BusyPoll(busy_poll_s)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._authority = literal(b":authority", authority.encode())
        self._memory = HeaderMemory(read_response, read_response_front, max_bytes=MAX_HEADER_BYTES)
        self._paths: dict[str | bytes, bytes] = {}
        self._current: ClientConnection | None = None
        self._connections: set[ClientConnection] = set()  # with those that end once their calls have
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._backoff_s = MIN_BACKOFF_S
        self._retry_at = 0.0
        self._reason = ""
        self._closed = False

    def __str__(self) -> str:
        """Where it leads."""
        return f"{self._host}:{self._port}"

    async def unary(
        self,
        path: bytes | str,
        message: bytes,
        timeout_s: float,
        metadata: Sequence[tuple[str, str]] = (),
        tail: Sequence[bytes | memoryview] = (),
        grace_s: float = 0.0,
    ) -> bytes:
        """Make one call and return its answer; raises CallError, and ValueError for metadata that can't be sent.

        `tail` is the rest of the message, sent from where it lies; no part of it is empty. What the server turned down
        before it began is sent once more, as https://github.com/grpc/proposal/blob/master/A6-client-retries.md has it.

        A call that the server has whole when its time is up, or the task is cancelled, has `grace_s` more to end by
        itself before it is reset, and this returns only then: until then the server is at work on it.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        answer = await self._made(path, message, timeout_s, metadata, tail, grace_s)
        if isinstance(answer, CallError) and answer.unsent and loop.time() < deadline:
            answer = await self._made(path, message, deadline - loop.time(), metadata, tail, grace_s)
        if isinstance(answer, CallError):
            raise answer
        return answer

    async def _made(
        self,
        path: bytes | str,
        message: bytes,
        timeout_s: float,
        metadata: Sequence[tuple[str, str]],
        tail: Sequence[bytes | memoryview],
        grace_s: float,
    ) -> bytes | CallError:
        """Make a call; returns what its stream ended with, and raises CallError if it has none."""
        conn = self._current
        if conn is None or not conn.has_room:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + timeout_s
            conn = await self._connection(timeout_s)
            timeout_s = deadline - loop.time()
        block = self._fields(path) + literal(b"grpc-timeout", encode_timeout(timeout_s + grace_s))
        if metadata:
            block += encode_metadata(metadata)
        call = conn.open(timeout_s, grace_s)
        try:
            if tail or not conn.send_at_once(call, block, message):
                conn.write(conn.header_frame(call.id, block))
                await conn.send_message(call, message, tail, ends=True)
            call.sent = True
            self._busy_poll.watch(call.answer, alone=len(conn.streams) == 1)
            return await call.answer
        except WriteStalled as exc:
            raise CallError(grpc.StatusCode.UNAVAILABLE, str(exc), unsent=True) from exc
        except asyncio.CancelledError:
            await call.leave()
            raise
        finally:
            call.reset(ErrorCode.CANCEL)  # unless it has ended

    async def close(self) -> None:
        """End all calls and close the connection."""
        self._closed = True
        self._reason = "the channel is closed"
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for conn in [*self._connections]:
            conn.leave()
        self.wake_all()

    def released(self) -> None:
        """There may be room for one more call."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def wake_all(self) -> None:
        """Let all calls that wait look again."""
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def abandoned(self, conn: "ClientConnection", reason: str) -> None:
        """A connection takes no more calls."""
        if self._current is conn:
            self._current, self._reason = None, reason
            self.wake_all()

    def forget(self, conn: "ClientConnection") -> None:
        """A connection is gone."""
        self._connections.discard(conn)

    def _fields(self, path: str | bytes) -> bytes:
        fields = self._paths.get(path)
        if fields is None:  # there are as many paths as our own code names
            raw = path.encode() if isinstance(path, str) else path
            fields = _METHOD_AND_SCHEME + literal(b":path", raw) + self._authority + _REST
            self._paths[path] = fields
        return fields

    async def _connection(self, timeout_s: float) -> "ClientConnection":
        """A connection with room for a call, by and by."""
        try:
            async with asyncio.timeout(timeout_s):
                while (conn := self._current) is None or not conn.has_room:
                    if conn is None:
                        await self._connected()
                    else:
                        await self._wait()
                return conn
        except TimeoutError:
            raise CallError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call could be sent", unsent=True
            ) from None

    async def _connected(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closed or (self._connecting is None and loop.time() < self._retry_at):
            raise CallError(grpc.StatusCode.UNAVAILABLE, self._reason, unsent=True)
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())
        await asyncio.wait([self._connecting])
        if self._current is None:
            raise CallError(grpc.StatusCode.UNAVAILABLE, self._reason, unsent=True)

    async def _wait(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            details = f"{MAX_WAITING} calls wait already for the server to take them"
            raise CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, details, unsent=True)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.released()  # the turn is someone else's
            raise

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        conn: ClientConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, conn = await loop.create_connection(
                    lambda: ClientConnection(self, self._memory), self._host, self._port
                )
                self._connections.add(conn)
                await conn.ready
        except (OSError, TimeoutError) as exc:
            if conn is not None:
                conn.leave()
            reason = str(exc) or "it doesn't answer"
            self._reason = f"expected a gRPC server at {self._host}:{self._port}, but {reason}"
            self._retry_at = loop.time() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        else:
            self._current, self._backoff_s = conn, MIN_BACKOFF_S
        finally:
            self._connecting = None


class ClientConnection(Connection[ResponseHead]):
    """One connection of a channel."""

    __slots__ = ("_channel", "_leaving", "ready")

    def __init__(self, channel: GrpcChannel, memory: HeaderMemory[ResponseHead]) -> None:
        super().__init__(
            memory,
            preface=b"",
            window=f.MAX_WINDOW,
            max_block_bytes=MAX_BLOCK_BYTES,
            max_message_bytes=f.MAX_WINDOW - PREFIX.size,
            credit=Credit(),
        )
        self._channel = channel
        self._leaving = ""  # why it takes no more calls
        self.ready: asyncio.Future[None] = self.loop.create_future()

    @property
    def has_room(self) -> bool:
        """Whether the server takes one more call."""
        return not self._leaving and len(self.streams) < self.peer_max_streams

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Say what we take."""
        super().connection_made(transport)
        self.greet(PREFACE, {f.ENABLE_PUSH: 0})

    def connection_lost(self, exc: Exception | None) -> None:
        """End every call."""
        super().connection_lost(exc)
        self._channel.forget(self)

    def settings_received(self) -> None:
        """The server is one, or takes more calls than it said."""
        if not self.ready.done():
            self.ready.set_result(None)
        self._channel.wake_all()

    def headers_received(self, stream_id: int, head: ResponseHead, *, ended: bool) -> None:
        """Pass what the server says on to its call."""
        call = self.streams.get(stream_id)
        if call is not None:
            call.headers_received(head, ended=ended)
        elif self.is_idle(stream_id):
            raise f.Violation(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that was never opened")

    def goaway_received(self, last_id: int, why: str) -> None:
        """The server takes no calls after this one: those that are may be made elsewhere."""
        self._leaving = reason = f"the server is going away: {why}" if why else "the server is going away"
        self._channel.abandoned(self, reason)
        for call in [*self.streams.values()]:
            if call.id > last_id and call.close():
                call.connection_lost(reason, unsent=True)
        self._end_when_idle()

    def end(self, reason: str, *, asked: bool = False) -> None:
        """Close the connection, and end every call; unless we `asked` for it, the log says why."""
        if self.dead:
            return
        if self._leaving and self._leaving != reason:
            reason = f"{self._leaving}; {reason}"
        if self.streams:
            log.warning("a connection to %s ended with %d calls in hand: %s", self._channel, len(self.streams), reason)
        elif not asked:
            log.info("a connection to %s ended: %s", self._channel, reason)
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
            self.ready.exception()  # nobody may wait for it
        self._leaving = reason
        super().end(reason)
        self._channel.abandoned(self, reason)

    def leave(self) -> None:
        """Close the connection because we don't want it any more."""
        self.write(f.goaway(0, ErrorCode.NO_ERROR))
        self.end("the channel is closed", asked=True)

    def open(self, timeout_s: float, grace_s: float = 0.0) -> ClientCall:
        """Begin a call."""
        self.last_id += 2 if self.last_id else 1
        call = self.streams[self.last_id] = ClientCall(self, self.last_id, timeout_s, grace_s)
        if self.last_id >= f.MAX_STREAM_ID:
            self._leaving = "the connection's numbers are used up"
            self._channel.abandoned(self, self._leaving)
        return call

    def forget(self, stream_id: int) -> None:
        """A call has ended."""
        super().forget(stream_id)
        if self._leaving:
            self._end_when_idle()
        else:
            self._channel.released()

    def send_at_once(self, call: ClientCall, block: bytes, message: bytes) -> bool:
        """Send a whole call in one write, if it is as small as most are."""
        size = PREFIX.size + len(message)
        if self.fresh or not self.fits(call, size) or len(block) > self.peer_frame_bytes:
            return False
        self.send_window -= size
        before = _BEFORE.pack(size << 8 | f.DATA, f.END_STREAM, call.id, 0, len(message))
        self.write(b"".join((f.frame(f.HEADERS, f.END_HEADERS, call.id, block), before, message)))
        return True

    def _end_when_idle(self) -> None:
        if not self.streams:
            self.end(self._leaving)
