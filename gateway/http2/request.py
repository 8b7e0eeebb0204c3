"""One call at the client: a stream, and what it ends with.

Source: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md for answers that aren't gRPC's.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import grpc

from gateway.http2.frame import ErrorCode
from gateway.http2.header import Fields, first_fields
from gateway.http2.message import Message, MessageError
from gateway.http2.metadata import CODES, read_details
from gateway.http2.stream import Stream

if TYPE_CHECKING:
    from gateway.http2.client import ClientConnection

MAX_HEADER_BYTES: Final = 64 * 1024  # of one list; gRPC's servers send the longest text of an error, whatever we say

_OF_HTTP: Final = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}
_OF_RESET: Final[dict[int, grpc.StatusCode]] = {
    ErrorCode.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}


class CallError(Exception):
    """A call ended with an error.

    `unsent`: the server surely hasn't begun it, so it may be made again. `lost`: its connection ended before it.
    """

    def __init__(self, code: grpc.StatusCode, details: str, *, unsent: bool = False, lost: bool = False) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.unsent = unsent
        self.lost = lost


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What a header block of an answer says: the first has an HTTP status, the last a code."""

    http_status: int | None
    code: grpc.StatusCode | None
    details: str


class ClientCall(Stream):
    """One call. `answer` is what it ends with; `sent`, whether all of the request has been.

    One that is given up after it was sent, because of its deadline or by `leave`, has `grace_s` to end by itself.
    """

    __slots__ = ("_begun", "_grace_s", "_message", "_timer", "answer", "late", "sent")

    def __init__(self, conn: "ClientConnection", stream_id: int, timeout_s: float, grace_s: float) -> None:
        super().__init__(conn, stream_id)
        self.answer: asyncio.Future[bytes | CallError] = conn.loop.create_future()
        self.late = False  # given up
        self.sent = False
        self._grace_s = grace_s
        self._begun = False
        self._message: Message | None = None
        self._timer = conn.loop.call_later(timeout_s, self._expire)

    def headers_received(self, head: ResponseHead, *, ended: bool) -> None:
        """Take the beginning of an answer, its end, or both in one."""
        status = head.http_status
        if not self._begun and status is not None and 100 <= status < 200 and not ended:
            return
        if not self._begun and status != 200:
            code = _OF_HTTP.get(status or 0, grpc.StatusCode.UNKNOWN)
            self._fail(code, f"expected the HTTP status 200, got {status}")
        elif ended:
            self.ended = True
            self._finish(head.code, head.details)
        elif self._begun:
            self._fail(grpc.StatusCode.INTERNAL, "expected headers once, got them twice")
        self._begun = True

    def message_received(self, message: Message) -> None:
        """Keep the answer."""
        if self._message is not None or not isinstance(message, bytes):
            raise MessageError("expected one answer, not compressed")
        self._message = message

    def end_received(self) -> None:
        """An answer without a status."""
        self._fail(grpc.StatusCode.INTERNAL, "expected a status at the end, got none")

    def error_received(self, error: MessageError) -> None:
        """An answer that can't be read."""
        self._fail(grpc.StatusCode.INTERNAL, str(error))

    def reset_received(self, code: int) -> None:
        """The server has given the call up."""
        status = _OF_RESET.get(code, grpc.StatusCode.INTERNAL)
        self._set(CallError(status, f"the call was reset ({code})", unsent=code == ErrorCode.REFUSED_STREAM))

    def connection_lost(self, reason: str, *, unsent: bool) -> None:
        """The connection ends before the answer."""
        self._set(CallError(grpc.StatusCode.UNAVAILABLE, reason, unsent=unsent or not self.sent, lost=True))

    def awaits_message(self) -> bool:
        """It does."""
        return True

    def close(self) -> bool:
        """Forget the stream; False when it was closed already."""
        self._timer.cancel()
        return super().close()

    async def leave(self) -> None:
        """Wait for the end of a call that was cancelled: it comes within the grace."""
        if self.sent and self._grace_s and not self.closed:
            self.answer = self.conn.loop.create_future()  # the old one was cancelled with who waited for it
            if not self.late:
                self._wait_on()
            await self.answer

    def _finish(self, code: grpc.StatusCode | None, details: str) -> None:
        if code is not grpc.StatusCode.OK:
            self._set(CallError(code or grpc.StatusCode.UNKNOWN, details))
        elif isinstance(self._message, bytes):
            self._set(self._message)
        else:
            self._set(CallError(grpc.StatusCode.INTERNAL, "expected an answer, got none"))
        if self.sent:
            self.close()
        else:
            self.reset(ErrorCode.CANCEL)

    def _fail(self, code: grpc.StatusCode, details: str) -> None:
        self._set(CallError(code, details))
        self.reset(ErrorCode.CANCEL)

    def _expire(self) -> None:
        if self.sent and self._grace_s and not self.late:
            self._wait_on()
        else:
            self._fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")

    def _wait_on(self) -> None:
        self.late = True
        self._timer.cancel()
        self._timer = self.conn.loop.call_later(self._grace_s, self._expire)

    def _set(self, answer: bytes | CallError) -> None:
        if not self.answer.done():
            if self.late and not isinstance(answer, CallError):
                answer = CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "the answer came after the deadline")
            self.answer.set_result(answer)


def read_response(fields: Fields) -> ResponseHead:
    """What a header block says."""
    known = dict(fields)
    status = known.get(b":status", b"")
    code = known.get(b"grpc-status")
    return ResponseHead(
        http_status=int(status) if status.isdigit() and len(status) == 3 else None,
        code=None if code is None else CODES.get(code, grpc.StatusCode.UNKNOWN),
        details=read_details(known.get(b"grpc-message", b"")),
    )


def read_response_front(block: bytes) -> ResponseHead:
    """What a header block says that is too long: servers begin with the status, and then the text follows."""
    head = read_response(first_fields(block, MAX_HEADER_BYTES))
    said = f"the server answered with headers of more than {MAX_HEADER_BYTES} bytes"
    return replace(head, details=head.details or said)
