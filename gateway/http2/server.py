"""A gRPC server on asyncio: what `add_…Servicer_to_server` takes for one, on a socket that is bound already."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import grpc

from gateway.http2 import frame as f
from gateway.http2.call import Method, ServerCall
from gateway.http2.connection import WRITE_TIMEOUT_S, Connection
from gateway.http2.frame import PREFACE, ErrorCode
from gateway.http2.head import MAX_HEADER_BYTES, RequestHead, read_request, refusal_fields, refuse_request
from gateway.http2.header import HeaderMemory
from gateway.http2.stream import Credit

log = logging.getLogger(__name__)

WINDOW_BYTES: Final = 256 * 1024  # an image of 224 x 224 fits in
MAX_BLOCK_BYTES: Final = 64 * 1024  # of headers
PREFACE_TIMEOUT_S: Final = 10.0

_BACKLOG = 2048
_CLOSE_TIMEOUT_S = 5.0
_LAST_WORDS = b"last-one"  # the ping behind the first GOAWAY: once it is answered, all that was on its way has come
_LAST_WORDS_TIMEOUT_S = 1.0
_UNKNOWN_METHOD = refusal_fields(grpc.StatusCode.UNIMPLEMENTED, "the server has no such method")


class GrpcServer:
    """Serves the handlers that were added.

    `guard` says why a call that begins so may not be made, if so; it ends at once then, as `UNAUTHENTICATED`.
    `max_streams`: calls at once of one connection. `arrival_timeout_s`: how long a unary request, or a message of a
    stream, may take to come whole once it has begun.
    """

    def __init__(
        self,
        *,
        max_message_bytes: int,
        guard: Callable[[RequestHead], str | None] = lambda _: None,
        max_streams: int = 256,
        max_connections: int = 4096,
        arrival_timeout_s: float = 10.0,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self.max_message_bytes = max_message_bytes
        self.guard = guard
        self.max_streams = max_streams
        self.max_connections = max_connections
        self.arrival_timeout_s = arrival_timeout_s
        self.write_timeout_s = write_timeout_s
        self.credit = Credit(2 * max_message_bytes)
        self.memory = HeaderMemory(read_request, refuse_request, max_bytes=MAX_HEADER_BYTES)
        self.connections: set[ServerConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._methods: dict[str, Method] = {}
        self._generic: list[Any] = []
        self._listener: asyncio.Server | None = None
        self._idle = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Ask these handlers for methods that aren't registered."""
        self._generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register the methods of a service."""
        for name, handler in handlers.items():
            path = f"/{service}/{name}"
            self._methods[path] = _method(path, handler)

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound socket."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: ServerConnection(self), sock=sock, backlog=_BACKLOG)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; those in flight end within `grace_s`, or are cancelled."""
        if self._listener is not None:
            self._listener.close()
        for connection in [*self.connections]:
            connection.drain()
        if not await self._all_gone(grace_s):
            for connection in [*self.connections]:
                connection.shut_down()
            if self.tasks:
                await asyncio.wait([*self.tasks], timeout=_CLOSE_TIMEOUT_S)
            await self._all_gone(_CLOSE_TIMEOUT_S)

    def find(self, head: RequestHead) -> Method | None:
        """The method that a request asks for."""
        method = self._methods.get(head.path)
        if method is None:
            for generic in self._generic:
                handler = generic.service(_CallDetails(head.path, head.metadata))
                if handler is not None:
                    return _method(head.path, handler)
        return method

    def forget(self, connection: "ServerConnection") -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._idle.set()

    async def _all_gone(self, timeout_s: float) -> bool:
        """Whether all connections have ended in time."""
        self._idle.clear()
        if self.connections:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
            except TimeoutError:
                return False
        return True


class ServerConnection(Connection[RequestHead]):
    """One client."""

    __slots__ = ("_draining", "_opened", "_patience", "_refusing", "_server", "arrival_timeout_s", "peer", "tasks")

    def __init__(self, server: GrpcServer) -> None:
        super().__init__(
            server.memory,
            preface=PREFACE,
            window=WINDOW_BYTES,
            max_block_bytes=MAX_BLOCK_BYTES,
            max_message_bytes=server.max_message_bytes,
            credit=server.credit,
            write_timeout_s=server.write_timeout_s,
        )
        self._server = server
        self._draining = self._refusing = False
        self._patience = self.loop.call_later(PREFACE_TIMEOUT_S, self._lose_patience)
        self._opened: list[ServerCall] = []  # unary calls, by what is read just now
        self.arrival_timeout_s = server.arrival_timeout_s
        self.tasks = server.tasks
        self.peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Say what we take, if there is room for one more."""
        super().connection_made(transport)
        self.peer = _address(transport.get_extra_info("peername"))
        self._server.connections.add(self)
        if len(self._server.connections) > self._server.max_connections:
            log.debug("a connection is refused: there are %d", self._server.max_connections)
            self.end("there are too many connections")
        else:
            self.greet(b"", {f.MAX_CONCURRENT_STREAMS: self._server.max_streams})

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop whatever was done for the client."""
        super().connection_lost(exc)
        self._patience.cancel()
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Read frames; a request that isn't whole then, as most are, has a time to come in."""
        super().data_received(data)
        if self._opened:
            for call in self._opened:
                if not call.ended:
                    call.expect()
            self._opened.clear()

    def settings_received(self) -> None:
        """It is a client of HTTP/2: be patient with it."""
        self._patience.cancel()

    def headers_received(self, stream_id: int, head: RequestHead, *, ended: bool) -> None:
        """Begin a call, or end a request."""
        if stream_id > self.last_id:
            self._open(stream_id, head, ended)
        elif (call := self.streams.get(stream_id)) is None:
            self.nuisance()  # trailers of a call that has been answered
        elif not ended or call.ended:
            call.reset(ErrorCode.PROTOCOL_ERROR)
            call.reset_received(ErrorCode.PROTOCOL_ERROR)
        else:
            call.ended = True
            call.end_received()

    def ping_answered(self, payload: bytes) -> None:
        """The client knows that we are going, and all that it sent before has come."""
        if payload == _LAST_WORDS:
            self._refuse()

    def forget(self, stream_id: int) -> None:
        """A call has ended."""
        super().forget(stream_id)
        if self._refusing:
            self._end_when_idle()

    def drain(self) -> None:
        """Tell the client to go elsewhere; answer what it sends until it knows."""
        self._draining = True
        self.write(f.goaway(f.MAX_STREAM_ID, ErrorCode.NO_ERROR) + f.frame(f.PING, 0, 0, _LAST_WORDS))
        self.loop.call_later(_LAST_WORDS_TIMEOUT_S, self._refuse)

    def shut_down(self) -> None:
        """End every call, and the connection."""
        for call in [*self.streams.values()]:
            call.shut_down()
        self.write(f.goaway(self.last_id, ErrorCode.NO_ERROR))
        self.end("the server is going away")

    def _open(self, stream_id: int, head: RequestHead, ended: bool) -> None:
        if not stream_id & 1:
            raise f.Violation(ErrorCode.PROTOCOL_ERROR, "a client's stream has an odd number")
        self.last_id = stream_id
        if self._refusing or len(self.streams) >= self._server.max_streams:
            self.nuisance()
            self.send_reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        refusal = head.refusal
        if refusal is None and (reason := self._server.guard(head)) is not None:
            refusal = refusal_fields(grpc.StatusCode.UNAUTHENTICATED, reason)
        if refusal is None:
            method = self._server.find(head)
            if method is not None:
                call = self.streams[stream_id] = ServerCall(self, stream_id, method, head)
                if ended:
                    call.ended = True
                    call.end_received()
                elif not method.takes_stream:
                    self._opened.append(call)
                return
            refusal = _UNKNOWN_METHOD
        self.nuisance()
        if refusal:
            self.write(self.header_frame(stream_id, refusal, f.END_STREAM))
        if not refusal or not ended:
            self.send_reset(stream_id, ErrorCode.NO_ERROR if refusal else ErrorCode.PROTOCOL_ERROR)

    def _refuse(self) -> None:
        if self._draining and not self._refusing:
            self._refusing = True
            self.write(f.goaway(self.last_id, ErrorCode.NO_ERROR))
            self._end_when_idle()

    def _end_when_idle(self) -> None:
        if not self.streams:
            self.end("the server is going away")

    def _lose_patience(self) -> None:
        log.debug("a connection is closed: its client didn't begin to speak HTTP/2")
        self.write(f.goaway(0, ErrorCode.SETTINGS_TIMEOUT))
        self.end("the client didn't begin to speak HTTP/2")


class _CallDetails(NamedTuple):
    method: str
    invocation_metadata: Sequence[tuple[str, str | bytes]]


def _method(path: str, handler: Any) -> Method:
    kinds: dict[tuple[bool, bool], Callable[[Any, Any], Any]] = {
        (False, False): handler.unary_unary,
        (False, True): handler.unary_stream,
        (True, False): handler.stream_unary,
        (True, True): handler.stream_stream,
    }
    return Method(
        path=path,
        behaviour=kinds[handler.request_streaming, handler.response_streaming],
        takes_stream=handler.request_streaming,
        gives_stream=handler.response_streaming,
        deserialize=handler.request_deserializer or _as_it_is,
        serialize=handler.response_serializer or _as_it_is,
    )


def _as_it_is(message: bytes) -> bytes:
    return message


def _address(name: Any) -> str:
    """A socket's address as gRPC writes it."""
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
