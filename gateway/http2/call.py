"""One call at the server: a stream, the handler that answers it, and the context that the handler is given."""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from gateway.http2 import frame as f
from gateway.http2.frame import ErrorCode
from gateway.http2.head import OK_FIELDS, RequestHead
from gateway.http2.message import PREFIX, Compressed, Message, MessageError, MessageTooLarge, unfold
from gateway.http2.metadata import Metadata, encode_metadata, status_fields
from gateway.http2.stream import Stream, WriteStalled

if TYPE_CHECKING:
    from gateway.http2.server import ServerConnection

log = logging.getLogger(__name__)

_OK = status_fields(grpc.StatusCode.OK, "")
# An answer to a unary call in one piece: HEADERS, DATA with the message's prefix; the message; HEADERS.
_BEFORE = struct.Struct(f">IBI{len(OK_FIELDS)}sIBIBI")
_AFTER = struct.Struct(f">IBI{len(_OK)}s")
_HEADERS_HEAD = len(OK_FIELDS) << 8 | f.HEADERS
_TRAILERS_HEAD = len(_OK) << 8 | f.HEADERS
_LAST_FLAGS = f.END_HEADERS | f.END_STREAM


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method of a service, as its handler was registered."""

    path: str
    behaviour: Callable[[Any, Any], Any]
    takes_stream: bool
    gives_stream: bool
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]


class ServerCall(Stream):
    """A call. Its public methods that no other class of ours uses are those of `grpc.aio.ServicerContext`."""

    __slots__ = (
        "_arrival",
        "_begun",
        "_cancelled",
        "_code",
        "_deadline",
        "_details",
        "_messages",
        "_metadata",
        "_method",
        "_next",
        "_task",
        "_timer",
        "_trailing",
    )
    conn: "ServerConnection"

    def __init__(self, conn: "ServerConnection", stream_id: int, method: Method, head: RequestHead) -> None:
        super().__init__(conn, stream_id)
        self._method = method
        self._metadata = head.metadata
        self._messages: deque[Message] = deque()
        self._next: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._begun = self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None
        self._arrival: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        if head.timeout_s is not None:
            self._deadline = conn.loop.time() + head.timeout_s
            self._timer = conn.loop.call_later(head.timeout_s, self._expire)
        if method.takes_stream:
            self._start()

    # The context.

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the client sent beside its request."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None when it has none."""
        return None if self._deadline is None else max(self._deadline - self.conn.loop.time(), 0.0)

    def peer(self) -> str:
        """The client's address, as gRPC writes it."""
        return self.conn.peer

    def done(self) -> bool:
        """Whether the call has ended, in whatever way."""
        return self.closed

    def cancelled(self) -> bool:
        """Whether the client has given the call up, or its deadline has passed."""
        return self._cancelled

    def set_code(self, code: grpc.StatusCode) -> None:
        """Say what the call will end with."""
        self._code = code

    def code(self) -> grpc.StatusCode | None:
        """What the handler has said that the call will end with."""
        return self._code

    def set_details(self, details: str) -> None:
        """Say why."""
        self._details = details

    def details(self) -> str:
        """What the handler has said of why."""
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Say what goes behind the answer."""
        self._trailing = tuple(trailing_metadata)
        encode_metadata(self._trailing)  # fails here rather than when the answer is sent

    def trailing_metadata(self) -> Metadata:
        """What goes behind the answer."""
        return self._trailing

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Begin the answer; RuntimeError when it has begun."""
        if self._begun:
            raise RuntimeError("expected initial metadata before the first message, got it after")
        self._begin(encode_metadata(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """End the call with an error; raises `grpc.aio.AbortError`, which the handler should let pass."""
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self._code = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
        self._details = details
        raise grpc.aio.AbortError(f"the call is aborted with {code.name}")

    async def write(self, message: Any) -> None:
        """Send one message of an answer that is a stream."""
        self._begin()
        await self.conn.send_message(self, self._method.serialize(message))

    # The stream.

    def message_received(self, message: Message) -> None:
        """Keep a message; of a unary request there may be but one."""
        if self._method.takes_stream:
            self._arrived()
        elif self._messages:
            raise MessageError("expected one message, got more")
        self._messages.append(message)
        self._wake_reader()

    def end_received(self) -> None:
        """Start to answer a request that has come whole."""
        if self._reader is not None and not self._reader.idle:
            self.error_received(MessageError("the request ended within a message"))
        elif self._method.takes_stream:
            self._wake_reader()
        elif self._messages:
            self._start()
        else:
            self.error_received(MessageError("expected one message, got none"))

    def error_received(self, error: MessageError) -> None:
        """Say what was wrong, and read no more."""
        self._give_up(_code_of(error), str(error))

    def reset_received(self, code: int) -> None:
        """Nobody waits for the answer any more."""
        self._cancel()

    def connection_lost(self, reason: str, *, unsent: bool) -> None:
        """Nobody waits for the answer any more."""
        self._cancel()

    def awaits_message(self) -> bool:
        """Whether the handler can do nothing before the message that comes in is whole."""
        return not self._messages and (self._next is not None or not self._method.takes_stream)

    def rest_awaited(self) -> None:
        """The message of a stream is to come whole in time: it may be as long as a unary one, and holds as much."""
        if self._method.takes_stream:
            self.expect()

    def expect(self) -> None:
        """Wait for the rest of a message, or of a unary request, but not for ever."""
        if self._arrival is None and not self.closed:
            timeout_s = self.conn.arrival_timeout_s
            self._arrival = self.conn.loop.call_later(timeout_s, self._give_up_arrival)

    def close(self) -> bool:
        """Forget the stream; False when it was closed already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arrived()
        return super().close()

    def shut_down(self) -> None:
        """End the call because the server ends."""
        self._give_up(grpc.StatusCode.UNAVAILABLE, "the server is going away")

    # The handler.

    def _start(self) -> None:
        self._arrived()
        self._task = self.conn.loop.create_task(self._run())
        self.conn.tasks.add(self._task)

    async def _run(self) -> None:
        try:
            await self._answer()
        except asyncio.CancelledError:
            self._finish(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except grpc.aio.AbortError:
            self._finish(self._code or grpc.StatusCode.UNKNOWN, self._details)
        except MessageError as exc:
            self._finish(_code_of(exc), str(exc))
        except WriteStalled as exc:
            log.debug("a call of %s is given up: %s", self._method.path, exc)
            self.reset(ErrorCode.CANCEL)
        except Exception as exc:
            self._failed(exc)
        finally:
            if self._task is not None:
                self.conn.tasks.discard(self._task)
                self._task = None

    async def _answer(self) -> None:
        method = self._method
        request = _Requests(self) if method.takes_stream else await self.read(self._messages.popleft())
        made = method.behaviour(request, self)
        if not method.gives_stream:
            response = await made
            if self._code in (None, grpc.StatusCode.OK):
                body = method.serialize(response)
                if self._answer_at_once(body):
                    return
                self._begin()
                await self.conn.send_message(self, body)
        elif hasattr(made, "__aiter__"):
            async with aclosing(made) as responses:
                async for response in responses:
                    await self.write(response)
        else:
            await made
        self._finish(self._code or grpc.StatusCode.OK, self._details)

    async def next_message(self) -> Message | None:
        """The next message of a request that is a stream; None when there are no more."""
        while not self._messages:
            if self.ended or self.closed:
                return None
            self._next = self.conn.loop.create_future()
            self.ask_for_rest()
            try:
                await self._next
            finally:
                self._next = None
        return self._messages.popleft()

    async def read(self, message: Message) -> Any:
        """What a message holds; raises MessageError."""
        self.message_taken(message)
        if isinstance(message, Compressed):
            message = await unfold(message, self.conn.max_message_bytes)
        try:
            return self._method.deserialize(message)
        except Exception as exc:  # each serializer has errors of its own
            raise MessageError("the request's message can't be read as what the method takes") from exc

    def _answer_at_once(self, body: bytes) -> bool:
        """Send the whole answer in one write, if it is as plain and small as nearly all are."""
        conn, size = self.conn, PREFIX.size + len(body)
        if self.closed or self._begun or self._trailing or conn.fresh or not conn.fits(self, size):
            return False
        conn.send_window -= size
        before = _BEFORE.pack(
            *(_HEADERS_HEAD, f.END_HEADERS, self.id, OK_FIELDS),
            *(size << 8 | f.DATA, 0, self.id),
            *(0, len(body)),
        )
        conn.write(b"".join((before, body, _AFTER.pack(_TRAILERS_HEAD, _LAST_FLAGS, self.id, _OK))))
        self._end()
        return True

    def _begin(self, metadata: bytes = b"") -> None:
        if not self._begun and not self.closed:
            self._begun = True
            self.conn.write(self.conn.header_frame(self.id, OK_FIELDS + metadata))

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        if not self.closed:
            fields = status_fields(code, details, self._trailing)
            if not self._begun:
                fields = OK_FIELDS + fields
            self.conn.write(self.conn.header_frame(self.id, fields, f.END_STREAM))
            self._end()

    def _end(self) -> None:
        """Close the stream behind an answer; a client that still sends is told to stop."""
        if self.close() and not self.ended:
            self.conn.send_reset(self.id, ErrorCode.NO_ERROR)

    def _failed(self, error: Exception) -> None:
        if self._code is None:
            log.error("a call of %s failed unexpectedly", self._method.path, exc_info=error)
            self._finish(grpc.StatusCode.UNKNOWN, "the call failed unexpectedly")
        else:  # the servicers that are generated say what is not implemented so
            self._finish(self._code, self._details)

    def _expire(self) -> None:
        self._give_up(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")

    def _arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _give_up_arrival(self) -> None:
        details = f"expected the whole request within {self.conn.arrival_timeout_s:g} s, got a part of it"
        self._give_up(grpc.StatusCode.DEADLINE_EXCEEDED, details)

    def _give_up(self, code: grpc.StatusCode, details: str) -> None:
        self._finish(code, details)
        self._cancel()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.add_done_callback(self.conn.tasks.discard)  # one that never ran can't do so itself
            self._task.cancel()

    def _wake_reader(self) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(None)


class _Requests:
    """The messages of a request that is a stream."""

    __slots__ = ("_call",)

    def __init__(self, call: ServerCall) -> None:
        self._call = call

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.next_message()
        if message is None:
            raise StopAsyncIteration
        return await self._call.read(message)


def _code_of(error: MessageError) -> grpc.StatusCode:
    too_large = isinstance(error, MessageTooLarge)
    return grpc.StatusCode.RESOURCE_EXHAUSTED if too_large else grpc.StatusCode.INTERNAL
